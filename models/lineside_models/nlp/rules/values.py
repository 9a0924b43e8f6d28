"""Values as they stand in documents to normalised ones: numbers with units and limits, dates, identifiers."""

from __future__ import annotations

import datetime
import re
import unicodedata
from typing import Literal

import msgspec

Bound = Literal["", "min", "max"]

_NUMBER = r"[-+]?\d{1,3}(?:[ .,'’]\d{3})+(?:[.,]\d+)?(?!\d)|[-+]?\d+(?:[.,]\d+)?|[-+]?[.,]\d+"
_BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(("≤", "<", "<=", "=<", "max", "maximum", "max.", "höchstens", "up to"), "max"),
    **dict.fromkeys(("≥", ">", ">=", "=>", "min", "minimum", "min.", "mindestens", "at least"), "min"),
}
_BOUND = "|".join(re.escape(one) for one in sorted(_BOUNDS, key=len, reverse=True))
_QUANTITY = re.compile(rf"(?:(?P<before>{_BOUND})\s*)?(?P<number>{_NUMBER})\s*(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(
    rf"(?P<low>{_NUMBER})\.?\s*(?:-|–|—|\.\.\.?|…|to|bis|/)\s*(?P<high>{_NUMBER})\s*(?P<rest>.*)", re.DOTALL
)
_STRAY = re.compile(r"^[*'`_|:;,\s]+(?=\d)|[*'`_|:;,.\s]+$")
"""Footnote marks, and what text recognition makes of specks and of the lines of a table."""

_DASHES = str.maketrans({"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-"})

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january januar jan", "february februar feb", "march märz mar mrz", "april apr", "may mai",
            "june juni jun", "july juli jul", "august aug", "september sept sep", "october oktober oct okt",
            "november nov", "december dezember dec dez",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_DAY_FIRST = re.compile(r"\b(\d{1,2})\s?[./-]\s?(\d{1,2})\s?[./-]\s?(\d{4}|\d{2})\b")
_YEAR_FIRST = re.compile(r"\b(\d{4})[./-](\d{1,2})[./-](\d{1,2})\b")
_MONTH_NAMED = re.compile(
    r"\b(?:(\d{1,2})(?:st|nd|rd|th|\.)?\s*(?:day\s+of\s+)?([A-Za-zÄäéû]{3,9})\.?,?|([A-Za-zÄäéû]{3,9})\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?)"
    r"\s*(\d{4})\b"
)
_COMPACT_MONTH = re.compile(r"\b(\d{1,2})[-.]([A-Za-z]{3})[-.](\d{4}|\d{2})\b")


class Quantity(msgspec.Struct, frozen=True):
    """A number with what stands around it.

    Attributes:
        number: The value.
        text: With a decimal point, as many decimals as it was written with.
        bound: Whether it is a least or largest value.
        unit: What follows the number, blanks removed.
    """

    number: float
    text: str
    bound: Bound = ""
    unit: str = ""


def folded(text: str) -> str:
    """Returns a text for comparing labels: lower case, without accents and punctuation, single blanks."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(one))
    return " ".join(re.sub(r"[^\w%]+", " ", plain.replace("º", "o").replace("°", " ")).split())


def number(text: str) -> str | None:
    """Returns a number with a decimal point; ``None`` if the text is no number.

    A single separator is the decimal one, unless three digits follow one to three others and more groups do, too.
    """
    text = text.strip().translate(_DASHES)
    if not re.fullmatch(_NUMBER, text):
        return None
    digits = re.sub(r"[ '’]", "", text)
    last = max(digits.rfind("."), digits.rfind(","))
    if last < 0:
        return digits.lstrip("+")
    separators = [one for one in digits if one in ".,"]
    grouped = len(separators) > 1 and len(set(separators)) == 1  # 1.234.567
    whole, decimals = (digits, "") if grouped else (digits[:last], digits[last + 1 :])
    whole = re.sub(r"[.,]", "", whole).lstrip("+") or "0"
    return f"{'-0' if whole == '-' else whole}.{decimals}" if decimals else whole


def quantities(text: str) -> tuple[Quantity, ...]:
    """Reads a cell: one number, a bound such as ``≤ 0,20`` or ``min. 355 MPa``, or a range as two bounds."""
    text = _STRAY.sub("", re.sub(r"\.{2,}\s*", ". ", text.translate(_DASHES))).strip()
    if (match := _RANGE.fullmatch(text)) and (low := number(match["low"])) and (high := number(match["high"])):
        unit = unit_of(match["rest"])
        if unit is not None and float(low) < float(high):
            return (Quantity(float(low), low, "min", unit), Quantity(float(high), high, "max", unit))
    match = _QUANTITY.fullmatch(text)
    if match is None or (plain := number(match["number"])) is None:
        return ()
    rest = match["rest"].strip()
    before = (match["before"] or "").lower()
    after = rest.lower().rstrip(".")
    if not before and after in _BOUNDS:
        before, rest = after, ""
    unit = unit_of(rest)
    return () if unit is None else (Quantity(float(plain), plain, _BOUNDS.get(before, ""), unit),)


def unit_of(text: str) -> str | None:
    """Returns a unit without blanks and brackets, ``N/mm²`` as ``N/mm2``; ``None`` if the text is no unit."""
    unit = re.sub(r"[\s\[\]()]", "", text).replace("²", "2").replace("^2", "2")
    return unit if re.fullmatch(r"(?:%|‰|[A-Za-zµ°]{1,4}(?:/[A-Za-zµ]{1,3}[23]?)?|[A-Za-z]{1,3}[23])?", unit) else None


def date(text: str) -> str | None:
    """Returns a date as ``YYYY-MM-DD``; ``None`` if there is none. ``03/04/2026`` is read day first."""
    if match := _YEAR_FIRST.search(text):
        return _iso(int(match[1]), int(match[2]), int(match[3]))
    if match := _DAY_FIRST.search(text):
        first, second, year = int(match[1]), int(match[2]), int(match[3])
        day, month = (second, first) if second > 12 else (first, second)
        return _iso(year + 2000 * (year < 100), month, day)
    if match := _MONTH_NAMED.search(text):
        at, name = (match[1], match[2]) if match[1] else (match[4], match[3])
        return _iso(int(match[5]), _MONTHS.get(name.lower(), 0), int(at))
    if match := _COMPACT_MONTH.search(text):
        year = int(match[3])
        return _iso(year + 2000 * (year < 100), _MONTHS.get(match[2].lower(), 0), int(match[1]))
    return None


def date_is_ambiguous(text: str) -> bool:
    """Whether day and month could be exchanged: ``03/04/2026``; with dots the day comes first."""
    match = _DAY_FIRST.search(text)
    return bool(match and "/" in match[0] and int(match[1]) <= 12 and int(match[2]) <= 12 and match[1] != match[2])


def identifier(text: str) -> str:
    """Returns an identifier in upper case without blanks; all dashes are hyphens."""
    return re.sub(r"\s+", "", text.translate(_DASHES)).upper().strip(".,;:")


def _iso(year: int, month: int, day: int) -> str | None:
    try:
        return datetime.date(year, month, day).isoformat()
    except ValueError:
        return None
