"""Tables of measured values in either direction: value, unit and limits of each quantity. Values in lines of text.

*Across*: the quantities are columns, and rows below hold values and limits. *Down*: each quantity is a row with its
value, unit and limits beside it. What a row or column holds is told by words ("min", "Soll", "result") or by the signs
in its cells ("≤ 0,20", "0,15–0,20").

A quantity that no table has is looked for in lines such as "Yield strength Re: 398 MPa", with its unit.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from lineside_models.nlp.rules import values
from lineside_models.nlp.rules.cells import Cell, Row, divided
from lineside_models.nlp.rules.fields import number_doubt, without_speck
from lineside_models.nlp.rules.labels import LabelIndex, Match
from lineside_models.nlp.schemas import QuantitySchema, TableSchema

Role = Literal["value", "min", "max", "limit", "unit", ""]

_WORDS: dict[Role, str] = {
    "min": "min minimum mindestwert mindestens untergrenze lower",
    "max": "max maximum hochstwert hochstens obergrenze upper",
    "unit": "unit units einheit",
    "value": "value values result results actual ist istwert ergebnis measured analysis analyse wert messwert heat "
    "schmelze ladle cast melt product gemessen prufwert charge",
    "limit": "requirement requirements limit limits spec specification specified soll sollwert anforderung "
    "anforderungen grenzwert grenzwerte required norm standard vorgabe",
}
_ROLES = {role: frozenset(words.split()) for role, words in _WORDS.items()}
"""Words, without accents, that tell what a row or column holds; the first role with one of its words counts."""

_UNIT_BEHIND = re.compile(r"\s*[\[(,]?\s*(%|MPa|N/mm(?:2|²)|J|HBW?|Gew\.?-?%|wt\.?-?%)\s*[\])]?$", re.IGNORECASE)
_IN_LINE = re.compile(r"(?P<label>[^\W\d_][^:=;,\n]{0,50}?)\s*[:=]\s*(?P<value>[^:=;]+?)(?=[.,;]?\s*$|[,;]\s)")
"""A label, a colon, and what may be a value with its unit, in a line of text."""

_LABEL_WORDS, _SYMBOL_MAX = 4, 3
"""Words of a label in a line at most; letters of a symbol, which names no quantity behind other words."""

_SCORE = 0.97
_ROWS_BELOW = 8
_GAP_ROWS = 1
"""Rows without numbers that a table goes over."""

_HEADER_ROWS = 3


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A number of a table.

    Attributes:
        role: ``value``, ``min`` or ``max``.
        text: With a decimal point.
        unit: Stated, or the quantity's first one.
        score: Probability that all of this is right.
        doubt: Why a person should look at it.
        group: Numbers of one group belong to each other: a limit to the values of its group.
    """

    table: str
    quantity: str
    role: Role
    cell: Cell
    number: float
    text: str
    unit: str
    score: float
    doubt: str
    group: int


class Unread(msgspec.Struct, frozen=True):
    """A cell of a table from which no number could be taken.

    Attributes:
        field: The quantity as in `Entity.type`; the table where that is not known.
        cell: The cell, or the head of its column or row.
        text: What is wrong.
    """

    field: str
    cell: Cell
    text: str


class TableReader:
    """Finds the numbers of a table.

    Attributes:
        unread: Cells from which no number could be taken, after `read`.

    Args:
        others: Tables that may stand beside or below it.
    """

    def __init__(self, table: TableSchema, others: Sequence[TableSchema] = ()) -> None:
        self._table = table
        quantities = [quantity for other in others for quantity in other.quantities]
        self._others = LabelIndex({one.name: (one.name, *one.labels) for one in quantities})
        self._quantities = {one.name: one for one in table.quantities}
        self._index = LabelIndex({one.name: (one.name, *one.labels) for one in table.quantities})
        self._group = 0
        self.unread: list[Unread] = []

    def read(self, rows: list[Row]) -> list[Measured]:
        """Returns the numbers in the order of the text.

        A table has two quantities or more; values of other quantities are taken from lines of text.
        """
        found = self._read_tables(rows)
        named = {one.quantity for one in found}
        return found + [
            one for row in rows for cell in row for one in self._in_lines(cell) if one.quantity not in named
        ]

    def _read_tables(self, rows: list[Row]) -> list[Measured]:
        found: list[Measured] = []
        at, last_down = 0, len(rows)
        while at < len(rows):
            row = divided(rows[at], self._is_quantity)
            named = self._named(row)
            if not named:
                at += 1
                continue
            numbers = [place for place, cell in enumerate(row) if values.quantities(cell.text)]
            if any(place > named[0][0] for place in numbers):
                self._look_for_gap(rows, last_down, at)
                found += self._down(rows, at, row, named)
                last_down, at = at, at + 1
            elif len(named) > 1:
                across, at = self._across(rows, at, row, named)
                found += across
            else:
                at += 1
        if len({one.quantity for one in found}) > 1:
            return found
        self.unread.clear()
        return []

    def _in_lines(self, cell: Cell) -> Iterator[Measured]:
        """Yields the values of a line of text that state their unit; a limit and a range are none."""
        for part in _IN_LINE.finditer(cell.text):
            numbers = values.quantities(part["value"])
            if len(numbers) != 1 or numbers[0].bound or not numbers[0].unit:
                continue
            (one,) = numbers
            match = self._label_in_line(part["label"].split())
            if match is None or not self._unit_fits(match.name, one.unit):
                continue
            self._group += 1
            measured = self._measured(
                self._quantities[match.name], cell.part(*part.span("value")), "value", one, one.unit
            )
            yield msgspec.structs.replace(measured, score=measured.score * match.score)

    def _label_in_line(self, words: list[str]) -> Match | None:
        """Returns the quantity that the last words of a line name, also twice: "Yield strength Re"."""
        if _role(" ".join(words)) not in ("", "value"):
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

    def _look_for_gap(self, rows: list[Row], before: int, after: int) -> None:
        """Notes a row between two rows of a table whose head is not known, or that has no number."""
        for row in rows[before + 1 : after] if after - before == 2 else ():
            if row[0].page == rows[after][0].page and len(row) > 1:
                named = self._named(row)
                field = f"{self._table.name}.{named[0][1]}" if named else self._table.name
                self.unread.append(Unread(field, row[0], " ".join(cell.text for cell in row)))

    def _named(self, row: Row) -> list[tuple[int, str, str]]:
        """Returns the quantities of a row: number of the cell, name, and the unit that stands with it."""
        named: list[tuple[int, str, str]] = []
        for place, cell in enumerate(row):
            label = self._label(cell.text)
            unit = values.unit_of(cell.text)
            if label is not None and not (named and unit and self._unit_fits(named[-1][1], unit)):  # "HBW" is both
                named.append((place, *label))
        return named

    def _label(self, text: str) -> tuple[str, str] | None:
        """Returns the quantity that a cell names, and the unit that it states."""
        if match := self._index.whole(text):
            return match.name, ""
        behind = _UNIT_BEHIND.search(text)
        match = self._index.whole(text[: behind.start()].strip()) if behind and behind.start() else None
        return None if match is None or behind is None else (match.name, values.unit_of(behind[1]) or "")

    def _is_quantity(self, text: str) -> bool:
        return self._label(text) is not None

    def _begins_a_table(self, row: Row) -> bool:
        return any(sum(index.whole(cell.text) is not None for cell in row) > 1 for index in (self._index, self._others))

    def _across(
        self, rows: list[Row], at: int, header: Row, named: list[tuple[int, str, str]]
    ) -> tuple[list[Measured], int]:
        """Reads the rows below a row of quantities; returns where they end."""
        columns = [(header[place].centre, name) for place, name, _ in named]
        units = {name: unit for _, name, unit in named}
        apart = min((b[0] - a[0] for a, b in itertools.pairwise(columns)), default=1.0)
        page = header[named[0][0]].page
        self._group += 1
        found: list[Measured] = []
        empty, last = 0, at + 1
        for number in range(at + 1, min(at + 1 + _ROWS_BELOW, len(rows))):
            row = divided(rows[number], lambda text: bool(values.quantities(text)) or text in "-–—")
            if row[0].page != page or self._begins_a_table(row):
                break
            placed, beside = _in_columns(row, columns, 0.7 * apart)
            role = _role(" ".join(cell.text for cell in row if not values.quantities(cell.text)))
            if role in ("unit", "") and placed and all(values.unit_of(cell.text) for cell in placed.values()):
                units |= {name: values.unit_of(cell.text) or "" for name, cell in placed.items()}
                last = number + 1
                continue
            as_role = role or "value"
            numbers = [one for name, cell in placed.items() for one in self._numbers(name, cell, as_role, units[name])]
            empty = 0 if numbers else empty + 1
            if empty > _GAP_ROWS:
                break
            last = number + 1 if numbers else last
            found += numbers
            if numbers and as_role == "value":
                self._look_for_columns(header, named, placed, beside, {one.quantity for one in numbers})
        return found, max(last, at + 1)

    def _look_for_columns(
        self,
        header: Row,
        named: list[tuple[int, str, str]],
        placed: dict[str, Cell],
        beside: list[Cell],
        read: set[str],
    ) -> None:
        """Notes what a row of values lacks: a number below a head, and a head above a number."""
        for place, name, _ in named:
            if name not in read:
                cell = placed.get(name, header[place])
                self.unread.append(Unread(f"{self._table.name}.{name}", cell, f"no value could be read for {name}"))
        for cell in beside:
            if values.quantities(cell.text):
                self.unread.append(
                    Unread(self._table.name, cell, f"the head of the column of {cell.text} is not known")
                )

    def _down(self, rows: list[Row], at: int, row: Row, named: list[tuple[int, str, str]]) -> Iterator[Measured]:
        """Reads a row that begins with a quantity; several such tables may stand side by side."""
        roles = self._roles_above(rows, at)
        for order, (place, name, unit) in enumerate(named):
            end = named[order + 1][0] if order + 1 < len(named) else len(row)
            cells = row[place + 1 : end]
            unit = unit or next((u for c in cells if (u := values.unit_of(c.text)) and self._unit_fits(name, u)), "")
            self._group += 1
            seen = False
            for cell in cells:
                role = _nearest_role(cell, roles) or ("limit" if seen else "value")
                numbers = list(self._numbers(name, cell, role, unit))
                seen = seen or any(one.role == "value" for one in numbers)
                yield from numbers

    def _roles_above(self, rows: list[Row], at: int) -> list[tuple[Cell, Role]]:
        """Returns the heads of the columns with their roles, from the nearest row above that has at least one."""
        page = rows[at][0].page
        steps = 0
        for row in reversed(rows[:at]):
            if row[0].page != page:
                return []
            if any(values.quantities(cell.text) for cell in row):
                continue  # another row of the same table
            roles: list[tuple[Cell, Role]] = [(cell, role) for cell in row if (role := _role(cell.text))]
            if roles:
                return roles
            steps += 1
            if steps >= _HEADER_ROWS:
                return []
        return []

    def _numbers(self, name: str, cell: Cell, role: Role, unit: str) -> Iterator[Measured]:
        quantity = self._quantities[name]
        for one in values.quantities(cell.text):
            stated = one.unit or unit
            if stated and not self._unit_fits(name, stated):
                continue
            if plain := without_speck(cell.text, one.number, quantity.min, quantity.max):
                one = msgspec.structs.replace(one, number=float(plain), text=plain)
            as_bound = one.bound if role in ("limit", "value") and one.bound else role
            if as_bound not in ("value", "min", "max"):
                continue
            yield self._measured(quantity, cell, as_bound, one, stated)

    def _measured(self, quantity: QuantitySchema, cell: Cell, role: Role, one: values.Quantity, unit: str) -> Measured:
        doubt = number_doubt(cell.text, one.number, quantity.min, quantity.max)
        return Measured(
            table=self._table.name,
            quantity=quantity.name,
            role=role,
            cell=cell,
            number=one.number,
            text=one.text,
            unit=unit or (quantity.units[0] if quantity.units else ""),
            score=_SCORE * cell.score,
            doubt=doubt,
            group=self._group,
        )

    def _unit_fits(self, name: str, unit: str) -> bool:
        known = {one.casefold() for one in self._quantities[name].units}
        return not known or unit.casefold() in known


def _in_columns(row: Row, columns: list[tuple[float, str]], reach: float) -> tuple[dict[str, Cell], list[Cell]]:
    """Returns the nearest cell of each column, and the cells right of the first column that are in none."""
    placed: dict[str, tuple[float, Cell]] = {}
    beside: list[Cell] = []
    for cell in row:
        far, name = min((abs(cell.centre - centre), name) for centre, name in columns)
        other = placed.get(name)
        if far < reach and (other is None or far < other[0]):
            placed[name] = (far, cell)
            beside += [other[1]] if other else []
        elif cell.centre > min(columns)[0]:
            beside.append(cell)
    return {name: cell for name, (_, cell) in placed.items()}, beside


def _role(text: str) -> Role:
    words = set(values.folded(text).split())
    return next((role for role, known in _ROLES.items() if words & known), "")


def _nearest_role(cell: Cell, heads: list[tuple[Cell, Role]]) -> Role:
    if not heads:
        return ""
    head, role = min(heads, key=lambda one: abs(one[0].centre - cell.centre))
    widest = max(head.box[2] - head.box[0], cell.box[2] - cell.box[0], 2 * cell.height)
    return role if abs(head.centre - cell.centre) < 1.2 * widest else ""
