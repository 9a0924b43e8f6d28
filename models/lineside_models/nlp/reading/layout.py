"""Reading order: words with boxes to lines of cells, columns of running text one after the other.

A *fragment* is a run of words without a wide gap: a line of a column, or a cell of a table. Fragments of one height
make a line of the text, cells divided by a tab. Where a page has two columns of running text, the left one comes first;
columns of a table stay beside each other, because its rows belong together.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from lineside_models.nlp.document import Box, union


class PlacedWord(msgspec.Struct, frozen=True):
    """A word with its box on the page and the probability that it was read right."""

    text: str
    box: Box
    score: float = 1.0


class Fragment(msgspec.Struct):
    """Words that follow each other on one line without a wide gap."""

    words: list[PlacedWord]
    box: Box

    @property
    def height(self) -> float:
        """In units of the page."""
        return self.box[3] - self.box[1]

    @property
    def middle(self) -> float:
        """Of its height, from above."""
        return (self.box[1] + self.box[3]) / 2


Line = list[Fragment]

CELL_GAP = 1.2
"""A gap of so many heights of a line divides cells. Blanks of justified text are up to 0.9."""

_PROSE_LINES = 6
"""Lines that each of two columns of running text has at least."""

_PROSE_WIDTH = 0.55
"""Median share of its column's width that a line of running text fills; cells of a table fill less."""


def reading_order(words: Sequence[PlacedWord], width: float) -> list[Line]:
    """Returns the lines of a page in reading order.

    Args:
        words: In any order.
    """
    fragments = _fragments(words)
    lines: list[Line] = []
    for band, gutter in _bands(fragments, width):
        if gutter is None:
            lines += _rows(band)
        else:
            lines += _rows([one for one in band if _centre(one) < gutter])
            lines += _rows([one for one in band if _centre(one) >= gutter])
    return lines


def upright(words: Sequence[tuple[PlacedWord, int]], width: float, height: float) -> tuple[list[PlacedWord], int]:
    """Turns a page so that most of its text runs from left to right.

    Args:
        words: Each with the angle of its line in degrees clockwise, a multiple of 90.

    Returns:
        The words, and by how many degrees clockwise the page was turned.
    """
    letters: dict[int, int] = defaultdict(int)
    for word, angle in words:
        letters[angle % 360] += len(word.text)
    angle = max(letters, key=letters.__getitem__) if letters else 0
    placed = []
    for word, _ in words:
        x0, y0, x1, y1 = word.box
        box = {
            90: (y0, width - x1, y1, width - x0),
            180: (width - x1, height - y1, width - x0, height - y0),
            270: (height - y1, x0, height - y0, x1),
        }.get(angle, (x0, y0, x1, y1))
        placed.append(PlacedWord(word.text, box, word.score))
    return placed, (360 - angle) % 360


def _centre(fragment: Fragment) -> float:
    return (fragment.box[0] + fragment.box[2]) / 2


def _fragments(words: Sequence[PlacedWord]) -> list[Fragment]:
    """Joins words to fragments; words are looked up by the height that they stand at."""
    if not words:
        return []
    step = max(statistics.median(word.box[3] - word.box[1] for word in words), 0.1)
    shelves: dict[int, list[Fragment]] = defaultdict(list)
    found: list[Fragment] = []
    for word in sorted(words, key=lambda one: one.box[0]):
        middle = (word.box[1] + word.box[3]) / 2
        shelf = int(middle / step)
        near = (one for at in (shelf - 1, shelf, shelf + 1) for one in shelves.get(at, ()))
        best = min((one for one in near if _continues(one, word)), key=lambda one: -one.box[2], default=None)
        if best is None:
            best = Fragment([word], word.box)
            found.append(best)
            shelves[shelf].append(best)
        else:
            best.words.append(word)
            best.box = union([best.box, word.box])
    return found


def _continues(fragment: Fragment, word: PlacedWord) -> bool:
    last = fragment.words[-1].box
    x0, y0, _, y1 = word.box
    height = min(last[3] - last[1], y1 - y0)
    same_line = min(last[3], y1) - max(last[1], y0) > 0.5 * height
    return same_line and -0.6 * height < x0 - last[2] < CELL_GAP * max(last[3] - last[1], y1 - y0)


def _rows(fragments: Sequence[Fragment]) -> list[Line]:
    """Returns lines from above to below: fragments whose middles are within half a height of each other."""
    rows: list[Line] = []
    for fragment in sorted(fragments, key=lambda one: one.middle):
        if rows:
            middle = statistics.fmean(one.middle for one in rows[-1])
            height = min(statistics.fmean(one.height for one in rows[-1]), fragment.height)
            if fragment.middle - middle < 0.5 * height:
                rows[-1].append(fragment)
                continue
        rows.append([fragment])
    return [sorted(row, key=lambda one: one.box[0]) for row in rows]


def _bands(fragments: list[Fragment], width: float) -> list[tuple[list[Fragment], float | None]]:
    """Cuts a page into bands that are read as rows, and bands of two columns with the gutter between them."""
    gutter = _gutter(fragments, width)
    if gutter is None:
        return [(fragments, None)]
    bands: list[tuple[list[Fragment], float | None]] = []
    for fragment in sorted(fragments, key=lambda one: one.middle):
        across = fragment.box[0] < gutter < fragment.box[2]
        if not bands or (bands[-1][1] is None) != across:
            bands.append(([], None if across else gutter))
        bands[-1][0].append(fragment)
    return [(band, at if at is not None and _is_prose(band, at) else None) for band, at in bands]


def _gutter(fragments: list[Fragment], width: float) -> float | None:
    """Returns where two columns of running text meet: the place in the middle that the fewest fragments cross."""
    if len(fragments) < 2 * _PROSE_LINES or width <= 0:
        return None
    places = [width * share / 100 for share in range(35, 66)]
    crossed = [sum(one.box[0] < at < one.box[2] for one in fragments) for at in places]
    best = min(crossed)
    if best > 0.3 * len(fragments):
        return None
    free = [at for at, count in zip(places, crossed, strict=True) if count == best]
    middle = free[len(free) // 2]
    beside = [one for one in fragments if not one.box[0] < middle < one.box[2]]
    return middle if _is_prose(beside, middle) else None


def _is_prose(fragments: list[Fragment], gutter: float) -> bool:
    """Whether both sides of a gutter are running text and not cells of a table."""
    for side in (
        [one for one in fragments if _centre(one) < gutter],
        [one for one in fragments if _centre(one) >= gutter],
    ):
        if len(side) < _PROSE_LINES:
            return False
        left, right = min(one.box[0] for one in side), max(one.box[2] for one in side)
        shares = [(one.box[2] - one.box[0]) / max(right - left, 1e-6) for one in side]
        if statistics.median(shares) < _PROSE_WIDTH or statistics.median(len(one.words) for one in side) < 3:
            return False
    return True
