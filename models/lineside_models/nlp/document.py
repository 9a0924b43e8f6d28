"""`Document`: words with their places, as read from a file; `DocumentReport`: what was found in it."""

from __future__ import annotations

import msgspec

Box = tuple[float, float, float, float]
"""``(x0, y0, x1, y1)`` in units of the page, origin at the upper left corner, y downwards."""


class Word(msgspec.Struct, frozen=True, array_like=True):
    """One word of a page.

    Attributes:
        text: Without blanks.
        box: Where it stands on its page; ``None`` in a document without pages (DOCX, TXT).
        start: Offset of its first character in `Document.text`.
        end: Offset behind its last character.
        score: Probability that it was read right, 0 to 1: the text recognizer's for a scanned page, 0.5 for a word of a
            PDF that is white or not drawn, else 1.
    """

    text: str
    box: Box | None
    start: int
    end: int
    score: float = 1.0


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page.

    Attributes:
        number: From 0.
        width: In points (PDF) or pixels (image), after the page was turned upright; 0 without boxes.
        height: As the width.
        words: In reading order.
        scanned: Whether the words were recognized in an image of the page.
        rotation: By how many degrees clockwise the page was turned to be upright: 0, 90, 180 or 270.
        skew_deg: By how many degrees anticlockwise a scan was then turned about its middle.
    """

    number: int
    width: float
    height: float
    words: tuple[Word, ...]
    scanned: bool = False
    rotation: int = 0
    skew_deg: float = 0.0


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """Text of a file.

    Attributes:
        pages: In their order.
        text: All words in reading order: a blank between words, a line break between lines, a form feed between pages.
        source: The file's name, empty for bytes.
        format: ``pdf``, ``image``, ``docx`` or ``txt``.
    """

    pages: tuple[Page, ...]
    text: str
    source: str = ""
    format: str = ""

    def words_in(self, start: int, end: int) -> list[tuple[Page, Word]]:
        """Returns the words that share characters with ``text[start:end]``, each with its page."""
        return [(page, word) for page in self.pages for word in page.words if word.start < end and word.end > start]

    def place(self, start: int, end: int) -> tuple[int | None, Box | None, float]:
        """Returns the page, the box on it and the least score of the words in ``text[start:end]``.

        A text that goes over several pages has the box of its first page.
        """
        found = self.words_in(start, end)
        if not found:
            return None, None, 1.0
        number = found[0][0].number
        boxes = [word.box for page, word in found if page.number == number and word.box is not None]
        box = union(boxes) if boxes else None
        return number, box, min(word.score for _, word in found)


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a field, found in the text.

    Attributes:
        type: The field's name in the schema, such as ``heat_number``.
        text: As it stands in the document.
        value: Normalised: a date as ``2026-03-01``, a number with a decimal point, an identifier without blanks;
            ``None`` where it can't be normalised.
        unit: Of a number, empty otherwise.
        score: Estimated probability that it is right, 0 to 1.
        start: Offset of its first character in `Document.text`.
        end: Offset behind its last character.
        page: Number of its page from 0; ``None`` if it has none.
    """

    type: str
    text: str
    value: str | None = None
    unit: str = ""
    score: float
    start: int
    end: int
    page: int | None = None
    box: Box | None = None


class Relation(msgspec.Struct, frozen=True, kw_only=True):
    """Two entities that belong together.

    Attributes:
        type: Such as ``alias_of`` or ``limit_of``.
        head: Index into `DocumentReport.entities`.
        tail: Index into `DocumentReport.entities`.
        score: Estimated probability that it is right, 0 to 1.
        evidence: The text that states it.
    """

    type: str
    head: int
    tail: int
    score: float
    evidence: str = ""


class ReviewItem(msgspec.Struct, frozen=True, kw_only=True):
    """A finding that a person must check.

    Attributes:
        reason: ``missing``, ``uncertain``, ``ambiguous``, ``unreadable`` or ``out_of_limits``.
        field: Name of the field in the schema.
        text: What was found, or expected, in words.
        entity: Index into `DocumentReport.entities`; ``None`` if nothing was found.
        page: Number of the page from 0, if it is known.
    """

    reason: str
    field: str
    text: str
    entity: int | None = None
    page: int | None = None
    box: Box | None = None


class DocumentReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a document.

    Attributes:
        source: The file's name.
        bundle: ``name@version`` of the bundle that was used; empty where the rules of the schema found all.
        entities: In the order of the text.
        relations: Between them.
        review: What a person must look at, and why; empty if everything was accepted.
    """

    source: str
    schema: str
    bundle: str = ""
    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()
    review: tuple[ReviewItem, ...] = ()

    def reasons(self) -> dict[int, list[str]]:
        """Returns by number why a person must check an entity; entities without a reason are left out."""
        found: dict[int, list[str]] = {}
        for one in self.review:
            if one.entity is not None:
                found.setdefault(one.entity, []).append(f"{one.reason}: {one.text}")
        return found


def union(boxes: list[Box]) -> Box:
    """Returns the smallest box around one or more."""
    lows = (min(box[0] for box in boxes), min(box[1] for box in boxes))
    return (*lows, max(box[2] for box in boxes), max(box[3] for box in boxes))
