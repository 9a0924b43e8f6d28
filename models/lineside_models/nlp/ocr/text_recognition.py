"""What a line of text says: crops of lines to words with their places in the line."""

from __future__ import annotations

import itertools
import math
import statistics
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.nlp.ocr.character_head import CharacterHead

HEIGHT = 48
WIDTH_MAX = 3200
"""Of a line that was scaled to the network's height; a longer one is compressed."""

LONG_PX, LONG_SHARE = 1200, 0.85
"""From which width a line is running text, and how much narrower the network gets it: a seventh less time. On eight
scanned contract pages (train fold) 99.60 % of the words were read, 99.46 % at their own width. The shorter lines of
receipts and certificates lost 0.3 points and stay as they are."""

_BATCH_PX = 1024
"""Widths of a batch together: bounds the memory of a call."""

_COLUMN_PX = 8
"""The network's stride along the line."""

_BLANK_GAP = 2.6
"""A gap between characters of so many median pitches is a blank that the network left out (RapidOCR, issue 723)."""

Image = npt.NDArray[np.uint8]


class LineWord(msgspec.Struct, frozen=True):
    """A word of a line.

    Attributes:
        text: Without blanks.
        left: Where it begins, as a share of the line's length.
        score: Least probability of its characters.
        mean: Their mean probability.
    """

    text: str
    left: float
    right: float
    score: float
    mean: float


class LineReader:
    """Reads crops of lines.

    Args:
        network: Takes ``(N, 3, 48, W) float32``, gives features ``(N, W / 8, D)``.
        head: Makes characters of them.
    """

    def __init__(self, network: Callable[[Any], Any], head: CharacterHead) -> None:
        self._network, self._head = network, head

    def read(self, lines: Sequence[Image]) -> list[list[LineWord]]:
        """Returns the words of each line.

        Args:
            lines: ``(h, w) uint8`` grey, upright.
        """
        words: list[list[LineWord]] = [[] for _ in lines]
        widths = [width_of(line) for line in lines]
        order = sorted(range(len(lines)), key=widths.__getitem__)
        for numbers in _batches(order, widths):
            features = self._network(line_tensor([lines[number] for number in numbers]))
            for row, number in enumerate(numbers):
                words[number] = _split(self._head.characters(features[row]), widths[number] / _COLUMN_PX)
        return words


def _split(found: list[tuple[str, int, float]], columns: float) -> list[LineWord]:
    """Makes words of characters with their columns; a wide gap counts as a blank."""
    solid = [at for name, at, _ in found if not name.isspace()]
    gaps = sorted(after - before for before, after in itertools.pairwise(solid))
    pitch = gaps[len(gaps) // 2] if gaps else 0.0
    words: list[LineWord] = []
    letters: list[tuple[str, int, float]] = []

    def end() -> None:
        if letters:
            half = max(pitch, 1.0) / 2
            left, right = letters[0][1] + 0.5 - half, letters[-1][1] + 0.5 + half
            text = unicodedata.normalize("NFKC", "".join(name for name, _, _ in letters))
            share = (min(max(left / columns, 0.0), 1.0), min(max(right / columns, 0.0), 1.0))
            scores = [score for *_, score in letters]
            words.append(LineWord(text, *share, min(scores), statistics.fmean(scores)))
            letters.clear()

    for name, at, score in found:
        if name.isspace() or (letters and len(gaps) > 3 and at - letters[-1][1] > max(_BLANK_GAP * pitch, 3)):
            end()
        if not name.isspace():
            letters.append((name, at, score))
    end()
    return words


def line_tensor(lines: Sequence[Image]) -> npt.NDArray[np.float32]:
    """Returns lines as the network takes them, ``(N, 3, 48, W)``, on the right filled up with zeros."""
    widths = [width_of(line) for line in lines]
    batch = np.zeros((len(lines), 3, HEIGHT, max(widths)), np.float32)
    for row, line, width in zip(batch, lines, widths, strict=True):
        row[:, :, :width] = cv2.resize(line, (width, HEIGHT)).astype(np.float32) / 127.5 - 1
    return batch


def width_of(line: Image) -> int:
    """Returns the width in which the network gets a line of its height."""
    height, width = line.shape
    wide: int = math.ceil(HEIGHT * width / height)
    if wide > LONG_PX:
        wide = max(LONG_PX, math.ceil(LONG_SHARE * wide))
    return min(max(wide, _COLUMN_PX), WIDTH_MAX)


def _batches(order: list[int], widths: list[int]) -> Iterator[list[int]]:
    """Divides lines, which are sorted by width, so that a batch is no wider than `_BATCH_PX` in all."""
    batch: list[int] = []
    for number in order:
        if batch and widths[number] * (len(batch) + 1) > _BATCH_PX:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
