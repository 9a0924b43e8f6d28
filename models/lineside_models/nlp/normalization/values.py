"""Normal forms of dates, amounts of money, laws and names, and when two values are the same."""

from __future__ import annotations

import re

from lineside_models.nlp.normalization.dates import parse_date, partial_date

_MONEY = re.compile(
    r"(US\$|U\.S\.\$|\$|€|£|¥|USD|EUR|GBP|CHF|CAD|RMB|JPY)\s?(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?:\s?(thousand|million|billion))?",
    re.IGNORECASE,
)
_CURRENCIES = {"$": "USD", "us$": "USD", "u.s.$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}
_POWERS = {"": 1, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_NUMBER = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![.,]?\d)")
# What text recognition makes of amounts: a letter for the last zero (120.0G); a comma, a blank or a dash for the point,
# before two digits at the end (60,30, 12 .50, 52-00); and points between groups of three (1.234.50, once that is done).
_ZERO = re.compile(r"(?<=\d[.,]\d)[OoCGDQ](?!\w)")
_POINT = re.compile(r"(?<=\d)(?: ?[.,] ?| |-(?=00))(?=\d\d\W*$)")
_GROUP = re.compile(r"(?<=\d)[.,](?=(?:\d{3}[.,])*\d{3}\.\d\d\W*$)")
QUOTES = "\"“”'‘’`"
_EDGES = f"{QUOTES} ,.;:()[]\t\n"


def parse_money(text: str) -> str | None:
    """Returns the first amount of a text as ``USD 1500000``; ``None`` if there is none.

    A number alone, or one behind a currency that is not known, is an amount without its currency: ``60.30``. Its point
    may be a comma, or what text recognition made of it: ``60,30``, ``60 30``, ``60-00``.
    """
    text = _GROUP.sub("", _POINT.sub(".", _ZERO.sub("0", text)))
    found = _MONEY.search(text)
    if found is None:
        numbers = _NUMBER.findall(text)
        return f"{float(numbers[0].replace(',', '')):.2f}" if len(numbers) == 1 else None
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

    A law's normal form is the dictionary's (`lineside_models.nlp.normalization.legal_terms`); here it is cleaned alone.
    """
    kind = value_kind(type_name)
    if kind == "date":
        return parse_date(text) or partial_date(text)
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
