"""Normal forms of dates, amounts of money, laws and names, and when two values are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MONTHS: tuple[str, ...] = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
)
_MONTHS += ("november", "december")
MONTHS: Mapping[str, int] = {
    **{name: number for number, name in enumerate(_MONTHS, 1)},
    **{name[:3]: number for number, name in enumerate(_MONTHS, 1)},
    "sept": 9,
}
_NAMES = "|".join(sorted(MONTHS, key=len, reverse=True))
_ORDINALS: tuple[str, ...] = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
)
_ORDINALS += (
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
)
_ORDINALS += ("twentieth", *(f"twenty {word}" for word in _ORDINALS[:9]), "thirtieth", "thirty first")
_DAYS = {word: number for number, word in enumerate(_ORDINALS, 1)}
_DAY = rf"(\d{{1,2}}|{'|'.join(word.replace(' ', r'[ -]') for word in reversed(_ORDINALS))})\s?(?:st|nd|rd|th|t h)?"
_WRITTEN = re.compile(rf"\b({_NAMES})\b\.?\s*{_DAY}\s*,?\s*(?:of\s+)?(\d{{4}})\b", re.IGNORECASE)
_DAY_FIRST = re.compile(
    rf"\b{_DAY}\s*(?:\(\w+\)\s*)?(?:calendar\s+)?(?:day\s+)?(?:of\s+)?({_NAMES})\b\.?\s*,?\s*(?:of\s+)?(\d{{4}})\b",
    re.IGNORECASE,
)
_AMERICAN = re.compile(r"\b(\d{1,2})[/.-](\d{1,2})[/.-](\d{4}|\d{2})\b")
_ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_YEAR = re.compile(r"\b(?:19|20)\d{2}\b")
_MONTH = re.compile(rf"\b({_NAMES})\b", re.IGNORECASE)
_BLANK_FILL = re.compile(r"[_\[\]*\s●•]+")
DATE = re.compile("|".join(f"(?:{one.pattern})" for one in (_WRITTEN, _DAY_FIRST, _AMERICAN, _ISO)), re.IGNORECASE)
"""Where a whole date stands."""

_MONEY = re.compile(
    r"(US\$|U\.S\.\$|\$|€|£|¥|USD|EUR|GBP|CHF|CAD|RMB|JPY)\s?(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?:\s?(thousand|million|billion))?",
    re.IGNORECASE,
)
_CURRENCIES = {"$": "USD", "us$": "USD", "u.s.$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}
_POWERS = {"": 1, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_QUOTES = "\"“”'‘’`"
_EDGES = f"{_QUOTES} ,.;:()[]\t\n"


def parse_date(text: str) -> str | None:
    """Returns the first whole date of a text as ``2026-03-01``; ``None`` if there is none.

    ``6/21/1999`` is read as month, day, year, the American order, unless only the other one is a date.
    """
    text = _BLANK_FILL.sub(" ", text)
    if found := _ISO.search(text):
        return _iso(*(int(part) for part in found.groups()))
    if found := _WRITTEN.search(text):
        return _iso(int(found[3]), MONTHS[found[1].lower()], _day(found[2]))
    if found := _DAY_FIRST.search(text):
        return _iso(int(found[3]), MONTHS[found[2].lower()], _day(found[1]))
    if found := _AMERICAN.search(text):
        month, day, year = (int(part) for part in found.groups())
        year += 0 if year > 99 else 2000 if year < 50 else 1900
        return _iso(year, month, day) or _iso(year, day, month)
    return None


def _day(word: str) -> int:
    return int(word) if word.isdigit() else _DAYS[word.lower().replace("-", " ")]


def _partial_date(text: str) -> str | None:
    """Returns the year, with its month if there is one, of a date whose day was left blank."""
    year, month = _YEAR.search(text), _MONTH.search(text)
    if year is None:
        return None
    return f"{year[0]}-{MONTHS[month[1].lower()]:02d}" if month else year[0]


def _iso(year: int, month: int, day: int) -> str | None:
    return f"{year:04d}-{month:02d}-{day:02d}" if 1 <= month <= 12 and 1 <= day <= 31 and year >= 1000 else None


def parse_money(text: str) -> str | None:
    """Returns the first amount of a text as ``USD 1500000``; ``None`` if there is none."""
    found = _MONEY.search(text)
    if found is None:
        return None
    amount = float(found[2].replace(",", "")) * _POWERS[(found[3] or "").lower()]
    currency = _CURRENCIES.get(found[1].lower(), found[1].upper())
    return f"{currency} {amount:.2f}".removesuffix(".00")


def clean(text: str) -> str:
    """Returns a mention without quotes and punctuation around it, its blanks folded."""
    return re.sub(r"\s+", " ", text).strip(_EDGES)


def name_key(text: str) -> str:
    """Returns the letters and digits of a name in lower case: two names with one key are the same."""
    return re.sub(r"[\W_]", "", text.lower())


def value_kind(type_name: str) -> str:
    """Returns ``date``, ``money``, ``law`` or ``name`` by the name of an entity type."""
    for kind in ("date", "money", "law"):
        if type_name == kind or type_name.endswith(f"_{kind}"):
            return kind
    return "money" if type_name.endswith(("_amount", "_price")) else "name"


def normalise(type_name: str, text: str) -> str | None:
    """Returns the normal form of a mention; ``None`` where it has none. A date without a day gives ``2026-03``.

    A law's normal form is the dictionary's (`lineside_models.nlp.extraction.legal_terms`); here it is cleaned alone.
    """
    kind = value_kind(type_name)
    if kind == "date":
        return parse_date(text) or _partial_date(text)
    if kind == "money":
        return parse_money(text)
    return clean(text) or None


def value_key(type_name: str, text: str) -> str:
    """Returns the key of a value: two values of one type with one key are the same.

    Dates and amounts are compared by their normal form, everything else by letters and digits.
    """
    normal = normalise(type_name, text)
    if value_kind(type_name) in ("date", "money") and normal is not None:
        return normal
    return name_key(text)
