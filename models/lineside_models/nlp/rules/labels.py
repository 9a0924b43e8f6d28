"""Recognize labels at the beginning of cells: in several languages, with or without blanks, and misread."""

from __future__ import annotations

import difflib
import functools
import re

import msgspec

from lineside_models.nlp.rules.values import folded

_NUMBER_WORD = re.compile(r"\s?(?:numbers?|nummer|num|nrs?|nos?|n|#)$")
"""Ends labels of numbers; one that stands for all of them makes them equal in all languages."""

_FUZZY_FROM = 5
"""Letters from which a label may be misread; shorter ones are too much alike."""

_RATIO_MIN = 0.84
_ALIKE_SCORE = 0.98
_ALIKE = str.maketrans("i1|!05", "llllos")
"""Characters of short labels that text recognition takes for each other: "Al", "AI", "A1"."""

_CUTS = re.compile(r"[:.#=]+\s*|\s+")
_PARTS = re.compile(r"\s*[/|()\[\]]\s*")


class Match(msgspec.Struct, frozen=True):
    """A label at the beginning of a cell.

    Attributes:
        length: Characters of the cell that belong to it, with the colon; what follows is the value.
        score: 1, less for a label that is misread.
    """

    name: str
    length: int
    score: float


class LabelIndex:
    """Labels of the fields of a schema.

    Args:
        labels: Labels by the field's name. One that doesn't end with "No" or the like may have it or not.
    """

    def __init__(self, labels: dict[str, tuple[str, ...]]) -> None:
        self._names: dict[str, str] = {}
        for name, texts in labels.items():
            for key in map(_key, texts):
                self._names.setdefault(key, name)
                self._names.setdefault(key.removesuffix("#") + "#", name)
        self._alike = {label.translate(_ALIKE): label for label in self._names if len(label) < _FUZZY_FROM}
        self._long = [label for label in self._names if len(label) >= _FUZZY_FROM]
        self._similar = functools.lru_cache(maxsize=4096)(self._most_similar)

    def is_spelled(self, text: str) -> bool:
        """Returns whether a text is a label as the schema spells it."""
        return _key(text) in self._names

    def whole(self, text: str) -> Match | None:
        """Returns the field of a cell that is nothing but a label, also in two languages."""
        found = self._known(text.rstrip(" :.="), misread=True)
        return None if found is None else Match(found[0], len(text), found[1])

    def leading(self, text: str) -> Match | None:
        """Returns the field whose label the cell begins with; the longest label counts."""
        head, colon, _ = text.partition(":")
        if colon and (found := self._known(head, misread=True)):
            return Match(found[0], len(head) + 1, found[1])
        if match := self.whole(text):
            return match
        for cut in reversed([one.end() for one in _CUTS.finditer(text[:60])]):
            if found := self._known(text[:cut], misread=False):
                return Match(found[0], cut, found[1])
        return None

    def _known(self, text: str, *, misread: bool) -> tuple[str, float] | None:
        parts = [part for part in _PARTS.split(text) if part]
        for one in (text, *(parts if len(parts) > 1 else ())):
            key = _key(one)
            if key in self._names:
                return self._names[key], 1.0
        key = _key(text)
        if not misread:
            return None
        if len(key) >= _FUZZY_FROM:
            return self._similar(key)
        alike = self._alike.get(key.translate(_ALIKE)) if len(key) > 1 else None
        return None if alike is None else (self._names[alike], _ALIKE_SCORE)

    def _most_similar(self, key: str) -> tuple[str, float] | None:
        near = difflib.get_close_matches(key, self._long, n=1, cutoff=_RATIO_MIN)
        return (self._names[near[0]], difflib.SequenceMatcher(None, key, near[0]).ratio()) if near else None


def _key(label: str) -> str:
    """Returns a label without blanks, its word for "number" as ``#``: text recognition leaves out blanks."""
    text = folded(label)
    plain = _NUMBER_WORD.sub("#", text) if len(text) > 3 else text
    return plain.replace(" ", "")
