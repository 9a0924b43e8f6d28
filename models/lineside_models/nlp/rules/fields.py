"""Values of fields: beside, behind or below their label, or where a regular expression finds them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeGuard

import msgspec

from lineside_models.nlp.document import Document
from lineside_models.nlp.normalization.dates import date_doubt, parse_date
from lineside_models.nlp.rules import values
from lineside_models.nlp.rules.cells import Cell, Row, overlap
from lineside_models.nlp.rules.labels import LabelIndex
from lineside_models.nlp.rules.roles import role_of
from lineside_models.nlp.schemas import FieldSchema, Schema

_BEHIND, _BESIDE, _BELOW, _SEARCHED = 0.97, 0.95, 0.93, 0.75
"""Scores of a value by where it stands: how often such a value is the right one on well read certificates."""

_ODD = 0.8
"""Times the score of a number with a word behind it that is no known unit: "Net 30 days" is no weight."""

_BARE = re.compile(r"(?<!\d)[.,](\d+)")
"""A number without a digit before the separator."""

_ROWS_BELOW = 2
_HEIGHTS_BELOW = 3.0
_WORDS_MAX = 4
_BETWEEN = re.compile(r"\s*[,;]\s*|\s+(?:[/&+]|and|und|et|y|e|to|bis|through)\s+", re.IGNORECASE)
"""Between two identifiers in one cell."""

_BEFORE_NUMBER = re.compile(r"^(?:[ :=#]+|\.{2,}|[.-]+(?=\s))*")
"""Between a label and a number, whose sign and decimal separator stay."""


_DECIMAL = re.compile(r"\d[.,]\d+")
"""A number that is no identifier: "Heat 0.17" is a row of measured values."""

_DIGITS = re.compile(r"[/-]?\d+(?:[/-]\d+)*")
"""A word that may go on an identifier: "A123 45"."""


class FieldCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A value that a field may have.

    Attributes:
        value: Normalised.
        has_unit: Whether the unit stands with the value.
        score: Probability that it is the field's.
        doubt: Why a person should look at it; empty if nothing speaks against it.
    """

    field: FieldSchema
    cell: Cell
    value: str
    unit: str = ""
    has_unit: bool = False
    score: float
    doubt: str = ""


def candidates(
    document: Document, rows: list[Row], schema: Schema
) -> tuple[list[FieldCandidate], list[tuple[FieldSchema, Cell]]]:
    """Returns all values that may belong to a field, in the order of the text, and what could not be read as one.

    Returns:
        The values; and texts with digits that stand behind or beside the label of a field that has no value.
    """
    fields = {one.name: one for one in schema.fields}
    index = field_labels(schema)
    unread: list[tuple[FieldSchema, Cell]] = []
    found = [one for at in range(len(rows)) for one in _labelled(rows, at, index, fields, unread)]
    found += [one for field in schema.fields for one in _searched(document, field)]
    read = {one.field.name for one in found}
    lost = [(field, cell) for field, cell in unread if field.name not in read]
    return sorted(found, key=lambda one: one.cell.start), lost


def field_labels(schema: Schema) -> LabelIndex:
    """Returns the labels of a schema's fields."""
    return LabelIndex({one.name: one.labels for one in schema.fields if one.labels})


def _labelled(
    rows: list[Row],
    at: int,
    index: LabelIndex,
    fields: dict[str, FieldSchema],
    unread: list[tuple[FieldSchema, Cell]],
) -> Iterator[FieldCandidate]:
    """Yields the values of the labels in a row; adds to ``unread`` what has digits, but is no value of its label."""
    row = rows[at]
    for column, cell in enumerate(row):
        match = index.leading(cell.text)
        if match is None:
            continue
        field = fields[match.name]
        _, unit = values.split_unit(cell.text[: match.length]) if field.kind == "number" else ("", "")
        rest = cell.text[match.length :].rstrip(" :.=-#")
        rest = _BEFORE_NUMBER.sub("", rest) if field.kind == "number" else rest.lstrip(" :.=-#")
        if rest:
            behind = cell.part(cell.text.index(rest, match.length))
            found = _read_values(behind, field, _BEHIND * match.score)
            yield from _in_unit(found, unit)
            if not found and cell.text[: match.length].rstrip().endswith((":", "=")) and re.search(r"\d", rest):
                unread.append((field, behind))
            continue  # without a colon, it is a sentence that begins with the word
        beside = row[column + 1] if column + 1 < len(row) and index.leading(row[column + 1].text) is None else None
        if beside is not None and (found := _read_values(beside, field, _BESIDE * match.score)):
            yield from _in_unit(found, unit)
            yield from _alike(row[column + 2 :], found[0])
            continue
        if beside is not None and re.search(r"\d", beside.text):
            unread.append((field, beside))
        yield from _read_below(rows, at, cell, index, field, unit, _BELOW * match.score)


def _read_below(
    rows: list[Row], at: int, label: Cell, index: LabelIndex, field: FieldSchema, unit: str, score: float
) -> Iterator[FieldCandidate]:
    """Yields the value below a label, and the other identifiers or numbers of its column."""
    first: FieldCandidate | None = None
    for steps, below in _below(rows, at, label):
        if index.whole(below.text) is not None:
            return
        if first is not None and _is_rival(other := read_value(below, field, score), first, below):
            yield other
        elif first is None and (found := _read_values(below, field, score)):
            yield from _in_unit(found, unit)
            first = found[0]
        elif re.search(r"[^\W\d_]{2}", below.text) and not role_of(below.text) and (first or steps >= _ROWS_BELOW):
            return  # another table


def _read_values(cell: Cell, field: FieldSchema, score: float) -> list[FieldCandidate]:
    """Reads a cell as a field's value, or as several identifiers with commas or words between them."""
    if field.kind == "identifier" and field.pattern:
        parts, begin = [], 0
        for end, after in [*(one.span() for one in _BETWEEN.finditer(cell.text)), (len(cell.text), 0)]:
            parts.append(read_value(part, field, score) if (part := cell.part(begin, end)).text else None)
            begin = after
        known = [one for one in parts if one is not None]
        several = [one for one in known if shape(one.value) == shape(known[0].value)]
        if len(several) > 1:
            return several
    found = read_value(cell, field, score)
    return [] if found is None else [found]


def _in_unit(found: list[FieldCandidate], unit: str) -> Iterator[FieldCandidate]:
    """Yields values whose label states a unit; in doubt where they state another, or the field does not know it."""
    for one in found:
        if not unit or (one.has_unit and one.unit.casefold() == unit.casefold()):
            yield one
        elif one.has_unit:
            yield msgspec.structs.replace(one, doubt=one.doubt or f"its label states {unit}")
        else:
            yield msgspec.structs.replace(one, unit=unit, doubt=unit_doubt(unit, one.field.units) or one.doubt)


def _alike(cells: Iterable[Cell], first: FieldCandidate) -> Iterator[FieldCandidate]:
    """Yields values that follow one and look like it, such as those of a table with several heats, and numbers."""
    for cell in cells if first.field.kind != "date" else ():
        other = read_value(cell, first.field, first.score)
        if not _is_rival(other, first, cell):
            return
        if first.field.kind != "number" and shape(other.value) != shape(first.value):
            near = abs(len(other.value) - len(first.value)) <= 1
            alike = names_heats(first.field) or _coarse_shape(other.value) == _coarse_shape(first.value)
            if not (near and alike):
                return
        yield other


def _is_rival(other: FieldCandidate | None, first: FieldCandidate, cell: Cell) -> TypeGuard[FieldCandidate]:
    """Returns whether a cell that follows a value may hold the field's, too: all of it, or by its form."""
    if other is None or other.unit != first.unit:
        return False
    if other.field.kind in ("number", "date"):
        return True
    if other.field.kind == "text":
        is_whole = bool(first.field.pattern) and other.value == " ".join(cell.text.split())
        words = other.value[0].isalpha() and first.value[0].isalpha() and " " not in other.value
        return is_whole and (words or _coarse_shape(other.value) == _coarse_shape(first.value))
    if shape(other.value) == shape(first.value):
        return True
    return other.value == values.identifier(cell.text) and parse_date(other.value) is None


def _coarse_shape(text: str) -> str:
    """Returns a text with all letters that follow each other as one A, and digits as one 0."""
    return re.sub(r"0+", "0", re.sub(r"A+", "A", shape(text.upper())))


def names_heats(field: FieldSchema) -> bool:
    """Returns whether a field is the number of a heat, which also stands before the values of a table."""
    return field.kind == "identifier" and any(role_of(label) == "value" for label in field.labels)


def shape(identifier: str) -> str:
    """Returns an identifier with every letter as A and every digit as 0."""
    return re.sub(r"[A-Z]", "A", re.sub(r"\d", "0", identifier))


def _below(rows: list[Row], at: int, label: Cell) -> Iterator[tuple[int, Cell]]:
    """Yields the cells of the column below a label with their rows' distance, until two rows have none."""
    last, seen = label, 0
    for steps, row in enumerate(rows[at + 1 :], 1):
        if steps - seen > _ROWS_BELOW:
            return
        for cell in row:
            near = cell.page == label.page and 0 <= cell.box[1] - last.box[1] < _HEIGHTS_BELOW * label.height
            if near and overlap(cell.box, label.box) > 0.3:
                yield steps, cell
                last, seen = cell, steps


def _searched(document: Document, field: FieldSchema) -> Iterator[FieldCandidate]:
    for pattern in field.search:
        for match in re.finditer(pattern, document.text):
            start, end = match.span(1)
            page, box, score = document.place(start, end)
            cell = Cell(document.text[start:end], start, page, box or (0, 0, 0, 0), score)
            if found := read_value(cell, field, _SEARCHED):
                yield found


def read_value(cell: Cell, field: FieldSchema, score: float) -> FieldCandidate | None:
    """Reads a cell as a field's value; ``None`` if it can't be one."""
    if field.kind == "number":
        return _number(cell, field, score)
    if field.kind == "date":
        value = parse_date(cell.text, "day-first")
        if value is None or len(cell.text) > 60:
            return None
        return FieldCandidate(
            field=field, cell=cell, value=value, score=score * cell.score, doubt=date_doubt(cell.text)
        )
    if field.kind == "identifier":
        return _identifier(cell, field, score)
    for part in _leading_parts(cell):
        value = " ".join(part.text.split())
        if value and (not field.pattern or re.fullmatch(field.pattern, value)):
            return FieldCandidate(field=field, cell=part, value=value, score=score * part.score)
    return None


def _leading_parts(cell: Cell) -> Iterator[Cell]:
    """Yields the cell, then ever fewer of its first words."""
    yield cell
    ends = [one.start() for one in re.finditer(r"\s+|[,;]", cell.text)][:_WORDS_MAX]
    for end in reversed(ends):
        if end:
            yield cell.part(0, end)


def _identifier(cell: Cell, field: FieldSchema, score: float) -> FieldCandidate | None:
    """Reads the fewest words that can be an identifier, and digits behind them; in doubt if more digits follow."""
    if not field.pattern:
        value = values.identifier(cell.text)
        return FieldCandidate(field=field, cell=cell, value=value, score=score * cell.score) if value else None
    words = list(re.finditer(r"(?:[/&+–-]\s+)?[^\s,;]+", cell.text))[: _WORDS_MAX + 1]
    found: FieldCandidate | None = None
    for word in words:
        if found is not None and not cell.text[found.cell.end - cell.start : word.start()].isspace():
            break  # behind a comma
        part = cell.part(0, word.end())
        value = values.identifier(part.text)
        is_one = re.fullmatch(field.pattern, value) and not _DECIMAL.fullmatch(value)
        if found is None:
            if is_one:
                found = FieldCandidate(field=field, cell=part, value=value, score=score * part.score)
        elif is_one and _DIGITS.fullmatch(values.identifier(word[0])):
            doubt = f"{found.value} may be the whole of it"
            found = msgspec.structs.replace(found, cell=part, value=value, score=score * part.score, doubt=doubt)
        else:
            if re.search(r"\d", word[0]) and word[0][0] not in "([":
                found = msgspec.structs.replace(found, doubt=f"{word[0]} follows it")
            break
    return found


def _number(cell: Cell, field: FieldSchema, score: float) -> FieldCandidate | None:
    """Reads a number with its unit; in doubt if the unit is not the field's, it is a limit, or anything follows."""
    found = values.quantities(cell.text)
    one, rest = (found[0], "") if found else values.leading_quantity(cell.text) or (None, "")
    if one is None:
        return None
    unit = one.unit or (field.units[0] if field.units else "")
    doubts = (
        unit_doubt(unit, field.units),
        f"{cell.text} is a limit or a range" if one.bound else "",
        f"{rest} follows it" if rest else "",
        number_doubt(cell.text, one.number, field.min, field.max),
    )
    if any(doubts[:3]) and not values.known_unit(one.unit):
        score *= _ODD
    return FieldCandidate(
        field=field,
        cell=cell,
        value=one.text,
        unit=unit,
        has_unit=bool(one.unit),
        score=score * cell.score,
        doubt=next(filter(None, doubts), ""),
    )


def number_doubt(text: str, number: float, least: float | None, most: float | None) -> str:
    """Returns why a number may be wrong: it is not plausible, or its separator may be none of decimals."""
    bare = _BARE.search(text)
    if bare and number == float(f"0.{bare[1]}") and _plausible(float(bare[1]), least, most):
        return f"{bare[0]} may be {bare[1]}"
    if not _plausible(number, least, most):
        return f"{number:g} is not between {least} and {most}"
    whole = re.search(r"\b([1-9]\d{0,2})[.,](\d{3})\b(?![.,\d])", text)
    if whole and _plausible(float(whole[1] + whole[2]), least, most):
        return f"{whole[0]} may be {whole[1]}{whole[2]}"
    return ""


def unit_doubt(unit: str, known: tuple[str, ...]) -> str:
    """Returns why the unit that a label states may be wrong: the schema does not know it."""
    fits = not known or unit.casefold() in {one.casefold() for one in known}
    return "" if fits else f"{unit} is none of the units {', '.join(known)}"


def without_speck(text: str, number: float, least: float | None, most: float | None) -> str:
    """Returns the digits behind a leading point where only they are plausible: the point is a speck."""
    bare = _BARE.search(text)
    speck = bare and not _plausible(number, least, most) and _plausible(float(bare[1]), least, most)
    return bare[1] if bare and speck else ""


def _plausible(number: float, least: float | None, most: float | None) -> bool:
    return (least is None or number >= least) and (most is None or number <= most)
