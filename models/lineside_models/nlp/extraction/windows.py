"""Windows of tokens over a text: the input of a token classifier."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lineside_runtime.bundle import TextForm
from lineside_runtime.errors import BundleFormatError, MissingExtraError

if TYPE_CHECKING:
    import tokenizers

Ids = npt.NDArray[np.int64]

TOKENIZER_MAX_BYTES = 20_000_000
CHARACTERS_A_TOKEN = 24
"""Characters that are tokenized for each token of a window, at most: text without words must not take minutes."""

BACK = 220
"""Characters before a trigger phrase that its window begins with."""

APART = 700
"""Characters from one trigger to the next one that gets a window of its own."""

AROUND = 350
"""Characters in which further trigger phrases make one more likely to be the clause that is looked for."""

BATCH = 1
"""Windows of one call: one takes a quarter less processor time than eight, without padding, and 32 MB less memory."""


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """A piece of a text.

    Attributes:
        ids: ``(T,) int64``, with the tokens that begin and end an input.
        offsets: ``(T - 2, 2) int64``: where each token between them stands in the text.
    """

    ids: Ids
    offsets: Ids


class TextWindows:
    """Cuts texts into the windows that a bundle's model takes."""

    def __init__(self, tokenizer: Path, form: TextForm) -> None:
        """Reads the tokenizer.

        Args:
            tokenizer: A ``tokenizer.json`` of the ``tokenizers`` package.
            form: Length and choice of the windows.

        Raises:
            MissingExtraError: The package is not installed.
            BundleFormatError: The file is damaged, or has no tokens that begin and end an input.
        """
        self._form = form
        self._tokenizer = _read(tokenizer)
        first, last = (self._tokenizer.token_to_id(token) for token in (form.first, form.last))
        if first is None or last is None:
            raise BundleFormatError(f"{tokenizer.name} lacks a token", expected=f"{form.first} and {form.last}")
        self._first, self._last = first, last
        phrases = sorted(form.triggers, key=len, reverse=True)
        pattern = "|".join(r"\s+".join(re.escape(word) for word in phrase.split()) for phrase in phrases)
        self._triggers = re.compile(pattern, re.IGNORECASE) if phrases else None

    def __call__(self, text: str) -> list[TokenWindow]:
        """Returns the windows of the beginning, then those of the trigger phrases behind it."""
        found = self._beginning(text)
        end = int(found[-1].offsets[-1, 1]) if found else 0
        return found + [self.around(text, place) for place in self.triggers(text, end)]

    def _beginning(self, text: str) -> list[TokenWindow]:
        form = self._form
        inner, step = form.tokens - 2, form.tokens - 2 - form.overlap
        wanted = inner + step * (form.first_windows - 1)
        ids, offsets = self._encode(text, 0, wanted)
        starts = range(0, max(1, len(ids) - form.overlap), step)
        return [self._window(ids[at : at + inner], offsets[at : at + inner]) for at in starts if len(ids[at:])]

    def triggers(self, text: str, begin: int) -> list[int]:
        """Returns the offsets of the trigger phrases that get a window: those with most others around them."""
        if self._triggers is None or not self._form.trigger_windows:
            return []
        places = [match.start() for match in self._triggers.finditer(text, begin)]
        crowd = {place: sum(abs(other - place) <= AROUND for other in _near(places, place)) for place in places}
        chosen: list[int] = []
        for place in sorted(places, key=lambda one: (-crowd[one], one)):
            if len(chosen) < self._form.trigger_windows and all(abs(place - other) >= APART for other in chosen):
                chosen.append(place)
        return sorted(chosen)

    def around(self, text: str, place: int) -> TokenWindow:
        """Returns the window around a place."""
        start = max(0, place - BACK)
        start = text.find(" ", start, place) + 1 or start
        ids, offsets = self._encode(text, start, self._form.trigger_tokens - 2)
        return self._window(ids, offsets)

    def _encode(self, text: str, start: int, count: int) -> tuple[Ids, Ids]:
        """Returns the first ``count`` tokens from a place on, and their offsets in the text."""
        piece = text[start : start + CHARACTERS_A_TOKEN * count]
        encoding = self._tokenizer.encode(piece, add_special_tokens=False)
        ids = np.asarray(encoding.ids[:count], np.int64)
        return ids, np.asarray(encoding.offsets[:count], np.int64).reshape(-1, 2) + start

    def _window(self, ids: Ids, offsets: Ids) -> TokenWindow:
        return TokenWindow(np.concatenate([[self._first], ids, [self._last]]).astype(np.int64), offsets)


def batches(windows: Sequence[TokenWindow], size: int = BATCH) -> list[tuple[list[int], Ids]]:
    """Returns the windows in batches of alike lengths, padded, each with the windows' numbers.

    The padding is token 0, which the network masks.
    """
    order = sorted(range(len(windows)), key=lambda number: len(windows[number].ids))
    found = []
    for at in range(0, len(order), size):
        numbers = order[at : at + size]
        ids = np.zeros((len(numbers), max(len(windows[number].ids) for number in numbers)), np.int64)
        for row, number in enumerate(numbers):
            ids[row, : len(windows[number].ids)] = windows[number].ids
        found.append((numbers, ids))
    return found


def _near(places: Sequence[int], place: int) -> Sequence[int]:
    low = np.searchsorted(places, place - AROUND)
    high = np.searchsorted(places, place + AROUND, side="right")
    return places[int(low) : int(high)]


def _read(path: Path) -> tokenizers.Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError(
            "a document bundle needs the package tokenizers", action="Run: pip install 'lineside[documents]'"
        ) from error
    if path.stat().st_size > TOKENIZER_MAX_BYTES:
        raise BundleFormatError(f"{path.name} is too large", expected=f"at most {TOKENIZER_MAX_BYTES} bytes")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises Exception itself for a damaged file
        raise BundleFormatError(f"{path.name} is no tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
