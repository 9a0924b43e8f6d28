"""A document as rows of cells, each with its place on the page."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable

import msgspec

from lineside_models.nlp.document import Box, Document, Page, Word, union

_STEP = 100.0
"""Width of a column and height of a row in documents without boxes."""


_HEADING_ROWS, _HEADING_WORDS = 3, 4
"""Rows above a table or lines that may be its heading, and words of one."""

_APART_SHARE = 0.7
"""Of a cell's words: one of them may be misread."""


class Cell(msgspec.Struct, frozen=True):
    """Text between two tabs or line breaks, or a part of it.

    Attributes:
        text: As in the document.
        start: Its offset in `Document.text`.
        page: Number of the page; ``None`` in a document without pages.
        box: On the page; without boxes one by row and column, so that "beside" and "below" mean the same.
        score: Least score of its words.
        words: Its words as cells; empty for a word.
    """

    text: str
    start: int
    page: int | None
    box: Box
    score: float
    words: tuple[Cell, ...] = ()

    @property
    def end(self) -> int:
        """Offset behind its last character."""
        return self.start + len(self.text)

    @property
    def centre(self) -> float:
        """Of its width."""
        return (self.box[0] + self.box[2]) / 2

    @property
    def height(self) -> float:
        """Of its box."""
        return self.box[3] - self.box[1]

    def part(self, start: int, end: int | None = None) -> Cell:
        """Returns the cell of some of its characters, with the box and score of the words that they belong to."""
        raw = self.text[start:end]
        text = raw.strip()
        first = self.start + start + len(raw) - len(raw.lstrip())
        begin = bisect.bisect_right(self.words, first, key=lambda word: word.end)
        behind = bisect.bisect_left(self.words, first + len(text), key=lambda word: word.start)
        inside = self.words[begin:behind] or (self,)
        box = union([word.box for word in inside])
        return Cell(text, first, self.page, box, min(word.score for word in inside), inside)


Row = list[Cell]


def rows_of(document: Document) -> list[Row]:
    """Returns the rows of all pages in reading order."""
    located: list[tuple[Page, Word]] = [(page, word) for page in document.pages for word in page.words]
    starts = [word.start for _, word in located]
    rows: list[Row] = []
    offset = 0
    for number, line in enumerate(document.text.replace("\f", "\n").split("\n")):
        row: Row = []
        at = offset
        for column, raw in enumerate(line.split("\t")):
            start, at = at + len(raw) - len(raw.lstrip()), at + len(raw) + 1
            if not (text := raw.strip()):
                continue
            words = located[bisect.bisect_left(starts, start) : bisect.bisect_left(starts, start + len(text))]
            row.append(_cell(text, start, (column * _STEP, number * _STEP), words))
        offset += len(line) + 1
        if row:
            rows.append(row)
    return rows


def divided(row: Row, apart: Callable[[str], bool]) -> Row:
    """Makes cells of words that are ``apart``, two or more in a cell: their columns stand too near together."""
    parts: Row = []
    for cell in row:
        alone = sum(apart(word.text) for word in cell.words)
        parts += cell.words if alone > 1 and alone >= _APART_SHARE * len(cell.words) else (cell,)
    return parts


def heading_above(rows: list[Row], at: int, is_data: Callable[[Row], bool], *, over: bool = True) -> str:
    """Returns the short lines without numbers that stand as a heading within three rows, the nearest one last.

    Args:
        is_data: Whether a row belongs to the rows below the heading.
        over: Whether such rows stand between, or nothing does.
    """
    lines: list[str] = []
    steps = 0
    for row in reversed(rows[:at]):
        if row[0].page != rows[at][0].page or steps == _HEADING_ROWS or (is_data(row) and (steps or not over)):
            break
        if not is_data(row):
            steps += 1
            short = len(row) == 1 and len(row[0].text.split()) <= _HEADING_WORDS and not re.search(r"\d", row[0].text)
            lines += [row[0].text] if short else []
    return " ".join(reversed(lines))


def _cell(text: str, start: int, corner: tuple[float, float], words: list[tuple[Page, Word]]) -> Cell:
    boxed = words and words[0][1].box is not None
    page = words[0][0].number if boxed else None
    x, y = corner
    placed = (x, y, x + 0.9 * _STEP, y + 0.9 * _STEP)
    parts = tuple(Cell(word.text, word.start, page, word.box or placed, word.score) for _, word in words)
    box = union([part.box for part in parts]) if parts else placed
    return Cell(text, start, page, box, min((part.score for part in parts), default=1.0), parts)


def overlap(first: Box, second: Box) -> float:
    """Returns how much of the narrower box's width both share, 0 to 1."""
    shared = min(first[2], second[2]) - max(first[0], second[0])
    return max(0.0, shared / max(min(first[2] - first[0], second[2] - second[0]), 1e-6))
