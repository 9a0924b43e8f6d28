"""Annotated documents: what is truly in a text, as training and evaluation read it."""

from __future__ import annotations

import re

import msgspec

Values = dict[str, set[str]]
"""The keys of the values of each type: two values with one key are the same, see `value_key`."""

Pairs = set[tuple[str, str, str]]
"""Relations as type, head's key, tail's key."""


class AnnotatedSpan(msgspec.Struct, frozen=True):
    """A mention in the text.

    Attributes:
        start: Offset of its first character.
        end: Offset behind its last character.
    """

    type: str
    start: int
    end: int


class AnnotatedRelation(msgspec.Struct, frozen=True):
    """Two mentions that belong together, by their indices."""

    type: str
    head: int
    tail: int


class AnnotatedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A text with its annotations.

    Attributes:
        group: Documents of one group are never on both sides of a split.
        spans: Mentions, for training.
        values: True values by type; several strings may stand for one.
        pairs: True relations between values.
    """

    name: str
    text: str
    group: str
    spans: tuple[AnnotatedSpan, ...]
    values: Values
    pairs: Pairs


_BLANKS = re.compile(r"\s+")


class FoldedText:
    """A text with runs of blanks folded into one, and where each character of it stands in the text itself."""

    def __init__(self, text: str) -> None:
        self.text = ""
        self._places: list[int] = []
        pieces: list[str] = []
        blank = True
        for place, letter in enumerate(text):
            if letter.isspace():
                if not blank:
                    pieces.append(" ")
                    self._places.append(place)
                blank = True
            else:
                pieces.append(letter)
                self._places.append(place)
                blank = False
        self.text = "".join(pieces)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Returns the offsets in the text itself of ``self.text[start:end]``."""
        return self._places[start], self._places[end - 1] + 1


def fold_blanks(text: str) -> str:
    """Returns a text with runs of blanks folded into one."""
    return _BLANKS.sub(" ", text).strip()
