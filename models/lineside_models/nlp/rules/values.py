"""Values as they stand in documents to normalised ones: numbers with units and limits, identifiers."""

from __future__ import annotations

import functools
import itertools
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
_BOUND_BEHIND = re.compile(
    rf"(?P<unit>(?:.*[^a-z])?)[(\[]?(?P<bound>{'|'.join(one for one in _BOUNDS if one.isalpha())})[.)\]]*",
    re.IGNORECASE,
)
_RANGE = re.compile(
    rf"(?P<low>{_NUMBER})\.?\s*(?:-|–|—|\.\.\.?|…|to|bis|/)\s*(?P<high>{_NUMBER})\s*(?P<rest>.*)", re.DOTALL
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−–", "0123456789---")
_UNIT_NAMES = (
    "% ‰ ppm kg t g lb lbs mm cm m in µm °C °F MPa GPa N/mm2 kN/mm2 kgf/mm2 kp/mm2 ksi psi J kJ HB HBW HV HRC "
    "ft-lb ft-lbs ft·lb ft·lbs ftlb ftlbs"
)
_UNITS = {one.casefold(): one for one in _UNIT_NAMES.split()}
"""Units that a label or the head of a column may state, whether a schema knows them or not."""

_SHORT_UNITS = "t|kg|g|lbs?|mm|cm"
"""Those that stand behind a label without brackets only after a blank or a comma."""

_BARE_UNITS = "|".join(
    re.escape(one) for one in sorted(_UNITS, key=len, reverse=True) if len(one) > 2 or one in "% ‰ j hb hv"
)
_FACTOR = r"(?:[x×*·]\s*(?:10+(?:\s*\^?\s*-?\d)?|0[.,]0+1|1/10+)|10\s*\^?\s*-\s*\d|1/10{2,})(?![\d-])"
_UNIT_END = re.compile(
    r"\s*(?:[\[(]\s*(?P<within>[^\[\]()]{1,16}?)\s*[\])]"
    rf"|,?\s*(?P<bare>(?:(?:(?:gew|wt|mass)\.?\s?-?)?(?:{_BARE_UNITS})|(?<=[\s,])(?:{_SHORT_UNITS}))(?:\s*{_FACTOR})?|(?<![\d.,])(?<![\d.,]\s){_FACTOR}(?:\s*%)?))"
    r"\s*:?\s*$",
    re.IGNORECASE,
)
"""A unit or factor behind a label: ``ReH (ksi)``, ``Mn, %``, ``C x 100``, ``N [10⁻³ %]``."""

_TITLE_UNIT = re.compile(r"[\[(]\s*([^\[\]()]{1,16}?)\s*[\])]|\bin\s+(\S+)\s*$", re.IGNORECASE)
_TITLE_FACTOR = re.compile(
    rf"(?:^|[%(\[\])]|\bin\s|[^\W\d_]{{4,}}\s)\s*({_FACTOR})|(?<![\w.,/-])({_FACTOR})\s*%", re.IGNORECASE
)
"""A factor in the title of a table; "3 mm x 100" is none."""

_STRAY = re.compile(r"^(?:[*'`_|:;\s]|,(?=\s|\d+[.,]\d))+(?=[.,]?\d)|[*'`_|:;,.\s]+$")
"""Footnote marks, and what text recognition makes of specks and of the lines of a table."""

_DASHES = str.maketrans({"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-"})


_CACHED_LENGTH = 64
"""Characters of a cell that is read once: the rows of a table look at those above them."""

_WORDS_MAX = 4
"""Words of a number with its unit: "23 450 kg"."""


class Quantity(msgspec.Struct, frozen=True):
    """A number with its unit and comparison sign.

    Attributes:
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
    return _short_quantities(text) if len(text) <= _CACHED_LENGTH else _quantities(text)


def _quantities(text: str) -> tuple[Quantity, ...]:
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
    if not before and (after := _BOUND_BEHIND.fullmatch(rest)):
        before, rest = after["bound"].lower(), after["unit"]
    unit = unit_of(rest)
    return () if unit is None else (Quantity(float(plain), plain, _BOUNDS.get(before, ""), unit),)


_short_quantities = functools.lru_cache(maxsize=8192)(_quantities)


def leading_quantity(text: str) -> tuple[Quantity, str] | None:
    """Returns the number that a text begins with, its unit if one follows, and what stands behind them."""
    ends = [one.end() for one in itertools.islice(re.finditer(r"\S+", text), _WORDS_MAX)]
    for end in reversed(ends):
        found = quantities(text[:end])
        of_the_next = found and found[0].bound and re.match(r"\s*\d", text[end:])  # "520 MPa (min. 470 MPa)"
        if len(found) == 1 and not of_the_next and (not found[0].unit or known_unit(found[0].unit)):
            return found[0], text[end:].strip(" ,;")
    glued = re.match(rf"[^\w+-]*({_NUMBER})(?![\d.,:/-])", text.translate(_DASHES))
    if glued is None or (plain := number(glued[1])) is None:
        return None
    return Quantity(float(plain), plain), text[glued.end() :].strip(" ,;")


def begins_with_number(text: str) -> bool:
    """Returns whether a text begins with a number, also if it can't be read: "45/47/51", "~0.17", "ca. 398"."""
    return re.match(r"\W*(?:(?:ca|approx|about|circa|etwa)\b\W*)?\d", text, re.IGNORECASE) is not None


def unit_of(text: str) -> str | None:
    """Returns a unit without blanks and brackets, ``N/mm²`` as ``N/mm2``; ``None`` if the text is no unit."""
    unit = re.sub(r"[\s\[\]()]", "", text).replace("²", "2").replace("^2", "2")
    return unit if re.fullmatch(r"(?:%|‰|[A-Za-zµ°]{1,4}(?:/[A-Za-zµ]{1,3}[23]?)?|[A-Za-z]{1,3}[23])?", unit) else None


def known_unit(text: str) -> str:
    """Returns a unit that a head may state, with its factor if there is one (``% x100``); empty if it is none."""
    plain = re.sub(r"\s", "", text.translate(_SUPERSCRIPTS)).strip("[]()")
    factor = re.search(_FACTOR, plain, re.IGNORECASE)
    rest = re.sub(r"^(?:gew|wt|mass)[.-]*(?=%)", "", re.sub(_FACTOR, "", plain, flags=re.IGNORECASE).casefold())
    if rest and rest not in _UNITS:
        return ""
    return " ".join(one for one in (_UNITS.get(rest, ""), factor[0] if factor else "") if one)


def split_unit(label: str) -> tuple[str, str]:
    """Returns a label without the unit or factor at its end, and that unit as from `known_unit`; empty without one."""
    behind = _UNIT_END.search(label.translate(_SUPERSCRIPTS))
    unit = known_unit(behind["within"] or behind["bare"]) if behind else ""
    return (label[: behind.start()].rstrip(" ,"), unit) if behind and unit else (label, "")


def title_factor(title: str) -> str:
    """Returns the factor that a table's title states, such as ``% x100``; empty without one."""
    plain = title.translate(_SUPERSCRIPTS)
    found = _TITLE_FACTOR.search(plain)
    factor = re.sub(r"\s", "", next(filter(None, found.groups()))) if found else ""
    if "%" in plain:
        return f"% {factor}" if factor else ""
    return factor if factor and not factor[0].isdigit() else ""  # "Sheet 10-3" states none


def title_unit(title: str) -> str:
    """Returns the unit that a table's title states in brackets, behind "in" or at its end; empty without one."""
    named = [known_unit(one[1] or one[2]) for one in _TITLE_UNIT.finditer(title)] + [split_unit(title)[1]]
    return next((unit for unit in named if unit.casefold() in _UNITS), "")


def identifier(text: str) -> str:
    """Returns an identifier in upper case without blanks; all dashes are hyphens."""
    return re.sub(r"\s+", "", text.translate(_DASHES)).upper().strip(".,;:")
