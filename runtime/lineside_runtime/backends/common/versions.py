"""Whether an engine's version is in the range that a bundle asks for.

``packaging`` knows all of PEP 440, and takes 20 ms to import: a tenth of the time in which a session starts. So plain
ranges of plain numbers, which is what bundles hold, are compared here, and everything else is left to it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from lineside_runtime.errors import BundleFormatError

_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
    ">": operator.gt,
}
"""The longer signs first, as each begins with a shorter one."""


def allows(wanted: str, version: str) -> bool:
    """Returns whether a version is in a range.

    Args:
        wanted: Such as ``>=1.20,<2``; empty for any.
        version: Such as ``1.23.2``.

    Raises:
        BundleFormatError: It is no range of versions.
    """
    try:
        have = _numbers(version)
        held = [_holds(clause.strip(), have) for clause in wanted.split(",")] if wanted else []
    except ValueError:  # not as plain as that
        return _by_packaging(wanted, version)
    return all(held)


def _holds(clause: str, have: tuple[int, ...]) -> bool:
    """Returns whether a version fulfils one clause.

    Raises:
        ValueError: The clause is no sign and a plain version.
    """
    sign = next((sign for sign in _COMPARE if clause.startswith(sign)), None)
    if sign is None:
        raise ValueError(clause)
    return _COMPARE[sign](have, _numbers(clause.removeprefix(sign).lstrip()))


def _numbers(version: str) -> tuple[int, ...]:
    """Returns the numbers without zeros at the end, which mean nothing: 1.0 is 1.

    Raises:
        ValueError: It has other than numbers with dots between them.
    """
    parts = version.split(".")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(version)
    numbers = [int(part) for part in parts]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _by_packaging(wanted: str, version: str) -> bool:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(wanted).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        raise BundleFormatError(f"requires: {error}", expected="a version range such as >=1.20,<2") from error
