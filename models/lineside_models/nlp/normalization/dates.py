"""Dates as they stand in documents, in English and German, to ``2026-03-01``."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Literal

Order = Literal["day-first", "month-first"]
"""How ``03/04/2026`` is read, unless only the other way gives a date."""

_MONTH_NAMES = (
    "january januar jan", "february februar feb", "march märz maerz marz mar mrz", "april apr", "may mai",
    "june juni jun", "july juli jul", "august aug", "september sept sep", "october oktober oct okt",
    "november nov", "december dezember dec dez",
)  # fmt: skip
_MONTHS: Mapping[str, int] = {name: number for number, names in enumerate(_MONTH_NAMES, 1) for name in names.split()}
_NAMES = "|".join(sorted(_MONTHS, key=len, reverse=True))
_WORDS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"),
    *("twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth"),
    "twentieth",
)
_ORDINALS = (*_WORDS, *(f"twenty {word}" for word in _WORDS[:9]), "thirtieth", "thirty first")
_DAYS = {word: number for number, word in enumerate(_ORDINALS, 1)}
_DAY = (
    rf"(?P<day>\d{{1,2}}|{'|'.join(word.replace(' ', r'[ -]') for word in reversed(_ORDINALS))})\s?(?:st|nd|rd|th|t h)?"
)
_MONTH_WORD = rf"\b(?P<month>{_NAMES})\b\.?"
_YEAR = r"(?:of\s+)?(?P<year>\d{4})\b"
_OF = r"(?:\(\w+\)\s*)?(?:calendar\s+)?(?:day\s+)?(?:of\s+)?"

_FORMS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?P<year>\d{4})[./-](?P<month>\d{1,2})[./-](?P<day>\d{1,2})\b",
        rf"{_MONTH_WORD}\s*{_DAY}\s*,?\s*{_YEAR}",
        rf"\b{_DAY}\.?\s*{_OF}{_MONTH_WORD}\s*,?\s*{_YEAR}",
        r"\b(?P<first>\d{1,2})\s?[./-]\s?(?P<second>\d{1,2})\s?[./-]\s?(?P<year>\d{4}|\d{2})\b",
        rf"\b(?P<day>\d{{1,2}})[-.](?P<month>{_NAMES})[-.](?P<year>\d{{4}}|\d{{2}})\b",
    )
)
_NUMERIC = _FORMS[3]
_FILL = re.compile(r"[_\[\]*\s●•]+")
_ANY_YEAR = re.compile(r"\b(?:19|20)\d{2}\b")
_ANY_MONTH = re.compile(rf"\b({_NAMES})\b", re.IGNORECASE)

DATE = re.compile("|".join(f"(?:{re.sub(r'[?]P<[a-z]+>', '?:', one.pattern)})" for one in _FORMS), re.IGNORECASE)
"""Where a whole date may stand."""


def parse_date(text: str, order: Order = "month-first") -> str | None:
    """Returns the first whole date of a text as ``2026-03-01``; ``None`` if there is none.

    A day may be written out (``twenty-second day of May 2020``), and the lines or brackets of a form that was filled in
    may stand in the date. Of two digits for a year, those below 50 are of this century.

    Args:
        order: Of day and month in ``03/04/2026``.
    """
    text = _FILL.sub(" ", text)
    found = [match for form in _FORMS for match in form.finditer(text)]
    for match in sorted(found, key=lambda one: (one.start(), -one.end())):
        if date := _date_of(match, order):
            return date
    return None


def partial_date(text: str) -> str | None:
    """Returns the year, with its month if there is one, of a date whose day was left blank."""
    year, month = _ANY_YEAR.search(text), _ANY_MONTH.search(text)
    if year is None:
        return None
    return f"{year[0]}-{_MONTHS[month[1].lower()]:02d}" if month else year[0]


def date_doubt(text: str) -> str:
    """Returns why a date of numbers may be another one: 03/04/2026, 03-04-2026, 26/02/01; or nothing.

    With dots, as in most of Europe, the day comes first and the year last.
    """
    match = _NUMERIC.search(text)
    if match is None or "." in match[0]:
        return ""
    first, second = int(match["first"]), int(match["second"])
    if len(match["year"]) == 2 and _iso(2000 + first, second, int(match["year"])) and match["first"] != match["year"]:
        return "its first number may be the year"
    exchanged = first != second and max(first, second) <= 12
    return "day and month may be exchanged" if exchanged else ""


def _date_of(match: re.Match[str], order: Order) -> str | None:
    parts = match.groupdict()
    year = int(parts["year"])
    if len(parts["year"]) == 2:
        year += 2000 if year < 50 else 1900
    if "first" in parts:
        day, month = int(parts["first"]), int(parts["second"])
        if order == "month-first":
            day, month = month, day
        return _iso(year, month, day) or _iso(year, day, month)
    return _iso(year, _MONTHS.get(parts["month"].lower()) or _number(parts["month"]), _number(parts["day"]))


def _number(word: str) -> int:
    return int(word) if word.isdigit() else _DAYS.get(word.lower().replace("-", " "), 0)


def _iso(year: int, month: int, day: int) -> str | None:
    try:
        return datetime.date(year, month, day).isoformat() if year >= 1000 else None
    except ValueError:
        return None
