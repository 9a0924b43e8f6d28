"""GS1 element strings: application identifiers and their values.

Lengths are those of the GS1 General Specifications, release 24, sections 3.2 and 7.8.5: an identifier has two to four
digits, which its first two say; values of the predefined lengths need no separator after them.
"""

from __future__ import annotations

SEPARATOR = "\x1d"

_IDENTIFIER_LENGTHS = {
    **dict.fromkeys(("00", "01", "02", "03", *map(str, range(10, 23)), "30", "37", *map(str, range(90, 100))), 2),
    **dict.fromkeys(("23", "24", "25", "40", "41", "42", "71"), 3),
    **dict.fromkeys(("31", "32", "33", "34", "35", "36", "39", "43", "70", "72", "80", "81", "82"), 4),
}
_PREDEFINED = {  # characters of identifier and value together
    "00": 20, "01": 16, "02": 16, "03": 16, "04": 18,
    **dict.fromkeys(map(str, range(11, 20)), 8),
    "20": 4,
    **dict.fromkeys(map(str, range(31, 37)), 10),
    "41": 16,
}  # fmt: skip


def parse_elements(content: str) -> dict[str, str]:
    """Returns the value of each application identifier of a code's content.

    Args:
        content: As it is read, with separators (ASCII 29).

    Raises:
        ValueError: It is no element string.
    """
    found: dict[str, str] = {}
    rest = content.lstrip(SEPARATOR)
    if not rest:
        raise ValueError("it is empty")
    while rest:
        digits = _IDENTIFIER_LENGTHS.get(rest[:2])
        if digits is None or len(rest) <= digits or not rest[:digits].isdecimal():
            raise ValueError(f"no application identifier at {rest[:8]!r}")
        identifier = rest[:digits]
        if (fixed := _PREDEFINED.get(rest[:2])) is not None:
            value, rest = rest[digits:fixed], rest[fixed:].removeprefix(SEPARATOR)
            if digits + len(value) != fixed or SEPARATOR in value:
                raise ValueError(f"({identifier}) needs {fixed - digits} characters")
        else:
            value, _, rest = rest[digits:].partition(SEPARATOR)
        if not value:
            raise ValueError(f"({identifier}) has no value")
        if found.setdefault(identifier, value) != value:
            raise ValueError(f"({identifier}) has two values")
    return found
