"""Whether an engine's version is in the range that a bundle asks for.

``packaging`` knows all of PEP 440, and takes 20 ms to import: a tenth of the time in which a session starts. So plain
ranges of plain numbers, which is what bundles hold, are compared here, and everything else is left to it.
"""

from __future__ import annotations

import operator
import re

from lineside_runtime.errors import BundleFormatError

_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_CLAUSE = re.compile(r"\s*(>=|<=|<|>)\s*([0-9]+(?:\.[0-9]+)*)\s*")
_COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt}


def allows(wanted: str, version: str) -> bool:
    """Returns whether a version is in a range.

    Args:
        wanted: Such as ``>=1.20,<2``; empty for any.
        version: Such as ``1.23.2``.

    Raises:
        BundleFormatError: It is no range of versions.
    """
    clauses = [_CLAUSE.fullmatch(clause) for clause in wanted.split(",")] if wanted else []
    if not _NUMBERS.fullmatch(version) or not all(clauses):
        return _by_packaging(wanted, version)
    have = _numbers(version)
    return all(_COMPARE[clause[1]](have, _numbers(clause[2])) for clause in clauses if clause)


def _numbers(version: str) -> tuple[int, ...]:
    """Returns the numbers without zeros at the end, which mean nothing: 1.0 is 1."""
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _by_packaging(wanted: str, version: str) -> bool:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(wanted).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        raise BundleFormatError(f"requires: {error}", expected="a version range such as >=1.20,<2") from error
