"""What a row, column, heading or line says that its numbers are: measured values, least or largest ones, units."""

from __future__ import annotations

import difflib
import functools
import re
from typing import Literal

from lineside_models.nlp.rules.values import folded

Role = Literal["value", "min", "max", "limit", "unit", "other", ""]

_WORDS: dict[Role, str] = {
    "min": "min minimum mindestwert mindestens untergrenze lower least",
    "max": "max maximum hochstwert hochstens obergrenze upper",
    "unit": "unit units einheit",
    "value": "value values result results actual ist istwert ergebnis measured analysis analyse wert messwert heat "
    "schmelze ladle cast melt product gemessen prufwert charge sample samples specimen probe proben prufling "
    "average mean mittelwert",
    "limit": "requirement requirements limit limits spec specification specified soll sollwert anforderung "
    "anforderungen grenzwert grenzwerte required norm standard vorgabe",
    "other": "temperature temp temperatur direction richtung position lage location method methode verfahren",
}
_ROLES = {role: frozenset(words.split()) for role, words in _WORDS.items()}
"""Words, without accents, that tell what a row or column holds; the first role with one of its words counts."""

_RESULTS = frozenset(
    (
        "result",
        "results",
        "actual",
        "ist",
        "istwert",
        "ergebnis",
        "measured",
        "gemessen",
        "messwert",
        "prufwert",
        "fulfilled",
        "met",
        "erfullt",
    )
)
"""Words that tell measured values from required ones, or say that these are met."""

_STANDARDS = frozenset(("norm", "standard"))
"""Words of a line that also stand above measured values: "tested to standard"."""

_STANDARD = re.compile(
    r"(?:(?:acc\.|according|to|nach|gem\.|lt\.)\s*)*"
    r"(?:EN|DIN|ISO|ASTM|ASME|SAE|API|JIS|GB|GOST|BS|NF|UNI)\b[\w .:/+-]*\d[\w .:/+-]*"
)

_ALIKE, _ALIKE_FROM = 0.8, 5
"""Share of letters of a misread word, and letters that it has at least."""

_WORD_LENGTH = 32
_WORD = re.compile(rf"\b\w{{1,{_WORD_LENGTH}}}\b")
_LONG_WORDS = [word for words in _ROLES.values() for word in words if len(word) >= _ALIKE_FROM]


def role_of(text: str) -> Role:
    """Returns what the words of a head say of its numbers; ``limit`` if both ``min`` and ``max``; empty if nothing."""
    words = {_role_word(word) for word in folded(text).split() if len(word) <= _WORD_LENGTH}
    named = [role for role, known in _ROLES.items() if words & known]
    return "limit" if {"min", "max"} <= set(named) else next(iter(named), "")


def is_standard(text: str) -> bool:
    """Returns whether a head is the name of a standard, whose numbers are required ones: "EN 10025-2"."""
    return len(text) <= _WORD_LENGTH and _STANDARD.fullmatch(text) is not None


def limit_word(text: str, found: str = "") -> str:
    """Returns the last word by which a heading or line announces limits, unless it speaks of results behind it.

    Args:
        found: Such a word that stands before the text.
    """
    for raw in _WORD.findall(text):
        word = _role_word(folded(raw))
        if word in _RESULTS:
            found = ""
        elif is_limit_word(raw):
            found = raw
    return found


def without_role(text: str) -> tuple[str, Role]:
    """Returns a head without its words of limits and results, and what these say: "Rm (min)", "C max"."""
    words = [word for word in _WORD.findall(text) if is_limit_word(word) or _role_word(folded(word)) in _RESULTS]
    plain = re.sub(r"\w+", lambda word: "" if word[0] in words else word[0], text)
    return plain.strip(), role_of(" ".join(words))


@functools.lru_cache(maxsize=4096)
def is_limit_word(word: str) -> bool:
    """Returns whether a word says that a number is a limit."""
    return role_of(word) in ("min", "max", "limit") and folded(word) not in _STANDARDS


@functools.lru_cache(maxsize=4096)
def _role_word(word: str) -> str:
    """Returns the word that tells a role which a longer word was misread from, or the word."""
    near = difflib.get_close_matches(word, _LONG_WORDS, n=1, cutoff=_ALIKE) if len(word) >= _ALIKE_FROM else []
    return near[0] if near else word
