"""Measured values in lines of text, such as "Yield strength Re: 398 MPa", with their unit."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import msgspec

from lineside_models.nlp.rules import values
from lineside_models.nlp.rules.cells import Cell, Row, heading_above
from lineside_models.nlp.rules.fields import unit_doubt
from lineside_models.nlp.rules.labels import LabelIndex, Match
from lineside_models.nlp.rules.measurements import Measured, Unread, measure
from lineside_models.nlp.rules.roles import is_limit_word, limit_word, role_of
from lineside_models.nlp.schemas import TableSchema

_IN_LINE = re.compile(r"(?P<label>[^\W\d_][^:=;,\n]{0,50}?)\s*[:=]\s*(?P<value>[^:=;]+?)(?=[.,;]?\s*$|[,;]\s)")
"""A label, a colon, and what may be a value with its unit, in a line of text."""

_LABEL_WORDS, _SYMBOL_MAX = 4, 3
"""Words of a label in a line at most; letters of a symbol, which names no quantity behind other words."""


class _Place(msgspec.Struct, frozen=True):
    """A quantity that a line names, with its number.

    Attributes:
        one: The number, which may be a limit; ``None`` if it can't be read.
        rest: What follows the number and its unit.
        odd: The words before the number if they do not end with the quantity's label.
        announced: Word before the label that announces limits.
        is_symbol: Whether the label is one letter.
        is_limit: Whether label or number say that it is a limit.
    """

    label: Match
    cell: Cell
    one: values.Quantity | None
    rest: str
    odd: str
    announced: str
    is_symbol: bool
    is_limit: bool


class RunningLineReader:
    """Finds the quantities of a table in lines of text."""

    def __init__(self, table: TableSchema, index: LabelIndex) -> None:
        self._table, self._index = table, index
        self._quantities = {one.name: one for one in table.quantities}

    def read(self, rows: list[Row], known: set[str], group: int) -> tuple[list[Measured], list[Unread]]:
        """Returns the values of quantities that are not ``known``, and the limits of those that have no value.

        Args:
            group: Number of the first group of numbers.
        """
        found: list[Measured] = []
        limits: dict[str, Unread] = {}
        numbers = itertools.count(group)
        for at, row in enumerate(rows):
            for column, cell in enumerate(row):
                places = [one for one in self._places(cell, row[:column]) if one.label.name not in known]
                is_list = len(places) > 1 and any(not place.is_symbol for place in places)
                for place in places:
                    name, one = place.label.name, place.one
                    if place.is_limit or one is None:
                        what = "could not be read" if one is None else "is a limit"
                        text = f"{place.cell.text} {what}, and no measured value could be read for {name}"
                        limits.setdefault(name, Unread(f"{self._table.name}.{name}", place.cell, text))
                    elif one.unit or is_list:
                        heading = heading_above(rows, at, _has_number)
                        found.append(self._measured(place, one, heading, next(numbers)))
        read = {one.quantity for one in found}
        return found, [unread for name, unread in limits.items() if name not in read]

    def _measured(self, place: _Place, one: values.Quantity, heading: str, group: int) -> Measured:
        announced = place.announced or limit_word(heading)
        doubts = (
            "" if one.unit else "no unit is stated",
            f"{place.rest} follows it" if place.rest else "",
            f"{announced} stands before it" if announced else "",
            f"its line says {place.odd}" if place.odd else "",
        )
        quantity, doubt = self._quantities[place.label.name], next(filter(None, doubts), "")
        found = measure(self._table.name, quantity, "value", place.cell, one, unit=one.unit, doubt=doubt, group=group)
        return msgspec.structs.replace(found, score=found.score * place.label.score)

    def _places(self, cell: Cell, before: Row) -> Iterator[_Place]:
        announced, read = limit_word(" ".join(one.text for one in before if not re.search(r"[\d:=]", one.text))), 0
        for part in _IN_LINE.finditer(cell.text):
            announced, read = limit_word(cell.text[read : part.start("label")], announced), part.start("label")
            words = part["label"].split()
            plain = [word for word in words if not is_limit_word(word)]
            is_limit = len(plain) < len(words) and not self._is_spelled(words)
            label = self._label(plain if is_limit else words)
            odd = "" if label else part["label"]
            label = label or self._label_within(words)
            numbers = values.quantities(part["value"])
            lead = (numbers[0], "") if numbers else values.leading_quantity(part["value"])
            if label is None or not (lead or values.begins_with_number(part["value"])):
                continue
            one, rest = lead or (None, "")
            is_symbol = len(part["label"]) == 1
            fits = one and one.unit and not unit_doubt(one.unit, self._quantities[label.name].units)
            if not fits and (odd or (is_symbol and (one is None or one.unit))):
                continue  # "S: 3 mm"
            yield _Place(
                label=label,
                cell=cell.part(*part.span("value")),
                one=one,
                rest=rest,
                odd=odd,
                announced=announced,
                is_symbol=is_symbol,
                is_limit=bool(is_limit or (one and one.bound) or (limit_word(rest) and not re.search(r"\d", rest))),
            )

    def _is_spelled(self, words: list[str]) -> bool:
        """Returns whether the last words are a label that has a word of limits: "Upper yield"."""
        ends = [words[first:] for first in range(len(words)) if any(map(is_limit_word, words[first:]))]
        return any(self._index.is_spelled(" ".join(named)) for named in ends)

    def _label(self, words: list[str]) -> Match | None:
        """Returns the quantity that the last words of a label name, also twice: "Yield strength Re"."""
        if role_of(" ".join(words)) in ("unit", "other") or not words:
            return None
        found: list[Match] = []
        for first in range(max(0, len(words) - _LABEL_WORDS), len(words)):
            named = words[first:]
            for cut in range(1, len(named)):
                one, other = (self._index.whole(" ".join(part)) for part in (named[:cut], named[cut:]))
                if one is not None and other is not None and one.name == other.name:
                    found.append(one)
            match = self._index.whole(" ".join(named))
            if match is not None and (first == 0 or len(named[0]) > _SYMBOL_MAX):
                found.append(match)
        return max(found, key=lambda one: one.score, default=None)

    def _label_within(self, words: list[str]) -> Match | None:
        """Returns the quantity that words in the middle of a label name, such as "Rm of the sample"."""
        for first, last in itertools.combinations(range(len(words) + 1), 2):
            named = " ".join(words[first:last])
            if len(named) > 1 and self._index.is_spelled(named):
                return self._index.whole(named)
        return None


def _has_number(row: Row) -> bool:
    return any(re.search(r"\d", cell.text) for cell in row)
