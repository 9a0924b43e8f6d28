"""`extract_by_rules`: the fields and tables of a schema in a document, and what a person must look at."""

from __future__ import annotations

import itertools
import math
import re

import msgspec

from lineside_models.nlp.document import Document, DocumentReport, Entity, Relation, ReviewItem
from lineside_models.nlp.rules.cells import Cell, rows_of
from lineside_models.nlp.rules.fields import FieldCandidate, candidates, field_labels, names_heats, shape
from lineside_models.nlp.rules.measurements import Measured, Unread
from lineside_models.nlp.rules.tables import TableReader
from lineside_models.nlp.rules.values import identifier
from lineside_models.nlp.schemas import FieldSchema, Schema, TableSchema

_RIVAL = 0.85
"""A second value with this share of the best one's score makes the field ambiguous."""

_SHOWN = 60
"""Characters of a text that could not be read."""

_ALIKE_LETTERS = str.maketrans("OQDIL|ZSGBT", "00011125687")
"""Characters that text recognition takes for each other; two identifiers that differ in them only are suspicious."""


def extract_by_rules(document: Document, schema: Schema) -> DocumentReport:
    """Finds entities and relations by the rules of a schema.

    Args:
        schema: Whose labels are looked for.
    """
    rows = rows_of(document)
    labels = field_labels(schema)
    readers = [
        TableReader(table, [other for other in schema.tables if other is not table], labels) for table in schema.tables
    ]
    measured = [reader.read(rows) for reader in readers]
    row_heads = [cell for reader in readers for cell in reader.row_heads]
    report = _Report(document, schema)
    found, unread = candidates(document, rows, schema)
    for field in schema.fields:
        report.add_field(field, [one for one in found if one.field.name == field.name], row_heads)
    report.add_unread(
        [Unread(field.name, cell, f"{cell.text[:_SHOWN]} could not be read as its value") for field, cell in unread]
    )
    for table, reader, numbers in zip(schema.tables, readers, measured, strict=True):
        report.add_table(table, numbers)
        report.add_unread(reader.unread)
    return report.finished()


class _Report:
    """Collects entities, relations and findings that a person must check."""

    def __init__(self, document: Document, schema: Schema) -> None:
        self._document, self._schema = document, schema
        self._heats: set[str] = set()
        self._entities: list[Entity] = []
        self._relations: list[Relation] = []
        self._review: list[ReviewItem] = []

    def add_field(self, field: FieldSchema, found: list[FieldCandidate], row_heads: list[Cell]) -> None:
        """Adds the best value of a field, and reasons against it.

        Args:
            row_heads: Cells before the values of tables; one that looks like the number of the heat may be another one.
        """
        if not found:
            if field.required:
                self._review.append(ReviewItem(reason="missing", field=field.name, text="it was not found"))
            return
        scores: dict[str, float] = {}
        for one in found:  # places that agree support each other
            scores[one.value] = 1 - (1 - scores.get(one.value, 0.0)) * (1 - one.score)
        ranked = sorted(scores, key=lambda value: -scores[value])
        best = max((one for one in found if one.value == ranked[0]), key=lambda one: one.score)
        number = self._entity(field.name, best.cell, best.value, best.unit, scores[best.value])
        rivals = [
            value for value in ranked[1:] if field.kind == "identifier" or scores[value] > _RIVAL * scores[ranked[0]]
        ]
        if names_heats(field):
            self._heats.add(best.value)
            named = {identifier(cell.text) for cell in row_heads}
            rivals += sorted(one for one in named - set(ranked) if shape(one) == shape(best.value))
        if rivals:
            self._look_at("ambiguous", number, f"{best.value} or {' or '.join(rivals[:3])}")
        elif field.kind == "identifier" and (other := self._nearly_equal(best)):
            self._look_at("ambiguous", number, f"{best.value}, but {other} elsewhere in the document")
        if best.doubt:
            self._look_at("uncertain", number, best.doubt)

    def _nearly_equal(self, best: FieldCandidate) -> str:
        """Returns a word that is the identifier but for characters that are often misread."""
        alike = best.value.translate(_ALIKE_LETTERS)
        for page in self._document.pages:
            for word in page.words:
                text = identifier(re.sub(r"^[(\[]|[)\],;:]$", "", word.text))
                if text != best.value and len(text) == len(best.value) and text.translate(_ALIKE_LETTERS) == alike:
                    return text
        return ""

    def add_table(self, table: TableSchema, found: list[Measured]) -> None:
        """Adds the numbers of a table, relates limits to values and checks them."""
        found = self._doubted_by_row(found)
        places = [(one, self._measured(one)) for one in found]
        values = [(one, at) for one, at in places if one.role == "value"]
        for (value, at), (limit, bound) in itertools.product(values, places):
            if limit.role == "value" or (limit.group, limit.quantity) != (value.group, value.quantity):
                continue
            score = min(value.score, limit.score)
            evidence = f"{value.quantity}: {value.cell.text}, {limit.role} {limit.cell.text}"
            self._relations.append(
                Relation(type=f"{limit.role}_of", head=bound, tail=at, score=score, evidence=evidence)
            )
            self._check(value, at, **{limit.role: limit.number})
        for one, at in places:
            if one.doubt:
                self._look_at("uncertain", at, one.doubt)
        for value, at in values:
            if order := table.limits.get(value.quantity):
                self._check(value, at, min=order.min, max=order.max)

    def _doubted_by_row(self, found: list[Measured]) -> list[Measured]:
        """Doubts values before which stands something that is no heat, where the heat stands before others."""
        with_heat = {one.group for one in found if self._heats & {identifier(word) for word in one.row.split()}}
        shapes = {shape(heat) for heat in self._heats}
        odd = {
            one.row
            for one in found
            if one.row and one.group in with_heat and not shapes & {shape(identifier(word)) for word in one.row.split()}
        }
        return [
            msgspec.structs.replace(one, doubt=one.doubt or f"its row says {one.row}") if one.row in odd else one
            for one in found
        ]

    def add_unread(self, cells: list[Unread]) -> None:
        """Adds cells from which no value could be taken."""
        for one in cells:
            box = one.cell.box if one.cell.page is not None else None
            item = ReviewItem(reason="unreadable", field=one.field, text=one.text, page=one.cell.page, box=box)
            self._review.append(item)

    def _check(self, value: Measured, at: int, *, min: float | None = None, max: float | None = None) -> None:
        least, most = (-math.inf if min is None else min), (math.inf if max is None else max)
        if not least <= value.number <= most:
            bounds = f"at least {min:g}" if min is not None and value.number < min else f"at most {most:g}"
            self._look_at("out_of_limits", at, f"{value.text} {value.unit}, allowed is {bounds}")

    def _measured(self, one: Measured) -> int:
        name = f"{one.table}.{one.quantity}" + ("" if one.role == "value" else f".{one.role}")
        return self._entity(name, one.cell, one.text, one.unit, one.score)

    def _entity(self, name: str, cell: Cell, value: str, unit: str, score: float) -> int:
        self._entities.append(
            Entity(
                type=name,
                text=cell.text,
                value=value,
                unit=unit,
                score=min(score, 1.0),
                start=cell.start,
                end=cell.end,
                page=cell.page,
                box=cell.box if cell.page is not None else None,
            )
        )
        return len(self._entities) - 1

    def _look_at(self, reason: str, number: int, text: str) -> None:
        one = self._entities[number]
        self._review.append(
            ReviewItem(reason=reason, field=one.type, text=text, entity=number, page=one.page, box=one.box)
        )

    def finished(self) -> DocumentReport:
        """Returns the report, its entities in the order of the text."""
        for number, one in enumerate(self._entities):
            if one.score < self._schema.accept_from:
                self._look_at("uncertain", number, f"{one.value} was read with a score of {one.score:.2f}")
        order = sorted(range(len(self._entities)), key=lambda at: (self._entities[at].start, self._entities[at].type))
        place = {old: new for new, old in enumerate(order)}
        replace = msgspec.structs.replace
        return DocumentReport(
            source=self._document.source,
            schema=self._schema.name,
            entities=tuple(self._entities[at] for at in order),
            relations=tuple(replace(one, head=place[one.head], tail=place[one.tail]) for one in self._relations),
            review=tuple(one if one.entity is None else replace(one, entity=place[one.entity]) for one in self._review),
        )
