"""Tables of measured values in either direction: value, unit and limits of each quantity. Values in lines of text.

*Across*: the quantities are columns, and rows below hold values and limits. *Down*: each quantity is a row with its
value, unit and limits beside it. What a row or column holds is told by words ("min", "Soll", "result") or by the signs
in its cells ("≤ 0,20", "0,15–0,20").

A quantity that no table has is looked for in lines such as "Yield strength Re: 398 MPa", with its unit.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from lineside_models.nlp.rules import values
from lineside_models.nlp.rules.cells import Cell, Row, divided
from lineside_models.nlp.rules.fields import unit_doubt, without_speck
from lineside_models.nlp.rules.labels import LabelIndex
from lineside_models.nlp.rules.lines import RunningLineReader
from lineside_models.nlp.rules.measurements import Measured, Unread, measure
from lineside_models.nlp.rules.roles import Role, role_of
from lineside_models.nlp.schemas import TableSchema

_SAMPLES = re.compile(r"\d\s*/\s*[.,]?\d")
"""Between the values of two samples."""

_UNITS_OF_GOODS = frozenset(("kg", "t", "g", "lb", "lbs", "mm", "cm", "m", "in", "µm", "°C", "°F"))
"""Units above a table that are of sizes, weights and temperatures, unless the table has such a quantity."""

_DASHES = "-–—"
_GAP_ROWS = 1
"""Rows without numbers that a table goes over."""

_HEADER_ROWS = 3
_PAGE_ROWS = 8
"""Rows of the foot of a page and the head of the next one, between two parts of a table, at most."""

_LOST_HEAD = 3
"""Quantities in a row from which it is the head of a table, also if no number stands below it."""


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
        in_lines, limits = RunningLineReader(self._table, self._index).read(rows, named, self._group + 1)
        found += in_lines
        self.unread += limits
        self._look_for_values(found)
        return found

    def _look_for_values(self, found: list[Measured]) -> None:
        """Notes quantities that have limits alone."""
        told = {one.quantity for one in found if one.role == "value"}
        for one in found:
            field = f"{self._table.name}.{one.quantity}"
            if one.quantity not in told and field not in {other.field for other in self.unread}:
                self.unread.append(Unread(field, one.cell, f"no value could be read for {one.quantity}, only limits"))

    def _read_tables(self, rows: list[Row]) -> list[Measured]:
        found: list[Measured] = []
        self._lost: list[Unread] = []
        at, last_down = 0, len(rows)
        while at < len(rows):
            row = divided(rows[at], self._is_quantity)
            named = self._named(row)
            if not named:
                at += 1
                continue
            numbers = [place for place, cell in enumerate(row) if values.quantities(cell.text)]
            behind = row[named[0][0] + 1 :]
            if any(place > named[0][0] for place in numbers):
                self._look_for_gap(rows, last_down, at)
                found += self._down(rows, at, row, named)
                last_down, at = at, at + 1
            elif len(named) > 1:
                across, at = self._across(rows, at, row, named)
                found += across
            else:
                unreadable = [cell for cell in behind if _is_unreadable(cell)]
                if unreadable:
                    self._could_not_read(named[0][1], unreadable[0])
                    last_down = at
                at += 1
        unread = {one.field for one in self.unread} - {self._table.name}
        if len({f"{self._table.name}.{one.quantity}" for one in found} | unread) > 1:
            return found
        self.unread = self._lost
        return []

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
        """Returns the quantity that a cell names, and the unit or factor that it states."""
        label, unit = values.split_unit(text)
        if unit and (match := self._index.whole(label)):
            return match.name, unit
        match = self._index.whole(text)
        return None if match is None else (match.name, "")

    def _unit(self, name: str, text: str) -> str:
        """Returns the unit or factor that a cell holds; empty if it holds something else."""
        stated = values.unit_of(text) or ""
        return stated if self._quantities[name].units and self._unit_fits(name, stated) else values.known_unit(text)

    def _is_quantity(self, text: str) -> bool:
        return self._label(text) is not None

    def _begins_a_table(self, row: Row) -> bool:
        return any(sum(index.whole(cell.text) is not None for cell in row) > 1 for index in (self._index, self._others))

    def _across(
        self, rows: list[Row], at: int, header: Row, named: list[tuple[int, str, str]]
    ) -> tuple[list[Measured], int]:
        """Reads the rows below a row of quantities; returns where they end."""
        columns = [(header[place].centre, name) for place, name, _ in named]
        title = self._title_unit(rows, at, header[: named[0][0]])
        units = {name: self._with_title(name, unit, title) for _, name, unit in named}
        apart = min((b[0] - a[0] for a, b in itertools.pairwise(columns)), default=1.0)
        page = header[named[0][0]].page
        self._group += 1
        found: list[Measured] = []
        empty, last = 0, at + 1
        for number in range(at + 1, len(rows)):
            row = divided(rows[number], lambda text: bool(values.quantities(text)) or text in _DASHES)
            if self._begins_a_table(row):
                break
            placed, beside = _in_columns(row, columns, 0.7 * apart)
            if empty > _GAP_ROWS or row[0].page != page:
                whole = len(placed) == len(columns) and all(values.quantities(cell.text) for cell in placed.values())
                if row[0].page == page or not whole:
                    empty += 1
                    if empty > _PAGE_ROWS or self._named(row):
                        break
                    continue
                page = row[0].page
            role = role_of(" ".join(cell.text for cell in row if not values.quantities(cell.text)))
            stated = self._row_of_units(role, placed)
            if stated:
                units |= {name: self._with_title(name, unit, title) for name, unit in stated.items()}
                last = number + 1
                continue
            doubt = "" if role else _doubt_of_row(row, columns)
            role = role or ("limit" if _is_row_of_limits(placed.values()) else "value")
            numbers = [
                one for name, cell in placed.items() for one in self._numbers(name, cell, role, units[name], doubt)
            ]
            empty = 0 if numbers else empty + 1
            last = number + 1 if numbers else last
            found += numbers
            if numbers and role == "value":
                self._look_for_columns(header, named, placed, beside)
        if not found and len(named) >= _LOST_HEAD:
            text = f"no number could be read below {', '.join(name for _, name, _ in named)}"
            self._lost.append(Unread(self._table.name, header[named[0][0]], text))
            self.unread.append(self._lost[-1])
        return found, max(last, at + 1)

    def _row_of_units(self, role: Role, placed: dict[str, Cell]) -> dict[str, str]:
        """Returns the units of a row that holds no numbers, as they stand there if they are not known; or none."""
        cells = {name: cell.text for name, cell in placed.items() if cell.text not in _DASHES}
        if role not in ("unit", "") or any(values.quantities(text) for text in cells.values()):
            return {}
        known = {name: self._unit(name, text) for name, text in cells.items()}
        return {name: known[name] or text for name, text in cells.items()} if any(known.values()) else {}

    def _title_unit(self, rows: list[Row], at: int, corner: Row) -> str:
        """Returns the factor that the lines above a table state, or the unit that the next one does."""
        texts = [cell.text for cell in corner]
        for steps, row in enumerate(reversed(rows[max(0, at - _HEADER_ROWS) : at])):
            if row[0].page != rows[at][0].page or any(values.quantities(cell.text) for cell in row):
                break
            texts += [cell.text for cell in row if steps == 0 or values.title_factor(cell.text)]
        of_goods = _UNITS_OF_GOODS.isdisjoint(unit for one in self._quantities.values() for unit in one.units)
        for text in texts:
            unit = values.title_factor(text) or values.title_unit(text)
            if unit and not (of_goods and unit in _UNITS_OF_GOODS):
                return unit
        return ""

    def _with_title(self, name: str, unit: str, title: str) -> str:
        """Returns the unit of a quantity below a title that may state a factor, or a unit for all of the table."""
        if values.title_factor(title):
            return unit if values.title_factor(unit) else title
        for_some = any(self._unit_fits(other, title) for other in self._quantities)
        return unit or (title if not for_some or self._unit_fits(name, title) else "")

    def _look_for_columns(
        self,
        header: Row,
        named: list[tuple[int, str, str]],
        placed: dict[str, Cell],
        beside: list[Cell],
    ) -> None:
        """Notes what a row of values lacks: a number below a head, and a head above a number."""
        for place, name, _ in named:
            if name not in placed or not values.quantities(placed[name].text):
                cell = placed.get(name, header[place])
                self.unread.append(Unread(f"{self._table.name}.{name}", cell, f"no value could be read for {name}"))
        for cell in beside:
            if values.quantities(cell.text):
                self._unknown_head(self._table.name, cell)

    def _unknown_head(self, field: str, cell: Cell) -> None:
        self.unread.append(Unread(field, cell, f"the head of the column of {cell.text} is not known"))

    def _down(self, rows: list[Row], at: int, row: Row, named: list[tuple[int, str, str]]) -> Iterator[Measured]:
        """Reads a row that begins with a quantity; several such tables may stand side by side."""
        heads, first = _heads_above(rows, at, row[named[0][0]])
        left = row[named[0][0]].centre
        corner = [cell for cell in rows[first] if cell.centre <= left or role_of(cell.text) not in ("other", "")]
        title = self._title_unit(rows, first, corner if heads else [])
        for order, (place, name, unit) in enumerate(named):
            end = named[order + 1][0] if order + 1 < len(named) else len(row)
            cells = row[place + 1 : end]
            unit = unit or next((stated for cell in cells if (stated := self._unit(name, cell.text))), "")
            self._group += 1
            yield from self._of_row(name, cells, heads, self._with_title(name, unit, title))

    def _of_row(self, name: str, cells: Row, heads: list[tuple[Cell, Role]], unit: str) -> list[Measured]:
        """Reads the cells beside a quantity, each by the head of its column."""
        field = f"{self._table.name}.{name}"
        results = any(role == "value" for _, role in heads)
        before = len(self.unread)
        numeric = self._numeric_of_row(name, cells, heads)
        found: list[Measured] = []
        rivals = [cell.text for cell in cells if not heads and _is_unreadable(cell)]
        beside = any(not _is_bound(cell) for cell in numeric)
        for cell in numeric:
            head, role = _nearest_head(cell, heads)
            if role:
                found += self._numbers(name, cell, role, unit)
            elif _is_bound(cell) and beside and _SAMPLES.search(cell.text):
                rivals.append(cell.text)
            elif _is_bound(cell):
                found += self._numbers(name, cell, "limit" if beside else "value", unit)
            elif head is not None and not results:
                found += self._numbers(name, cell, "value", unit, f"its column says {head.text}")
            elif head is None and not any(one.role == "value" for one in found):
                found += self._numbers(name, cell, "value", unit)
            elif heads:
                self._unknown_head(field, cell)
            else:
                rivals.append(cell.text)
        if numeric and not found and len(self.unread) == before:
            self.unread.append(Unread(field, numeric[0], f"no value could be read for {name}"))
        if rivals:
            doubt = f"no head tells whether this or {' or '.join(rivals)} is the value"
            found = [msgspec.structs.replace(one, doubt=doubt) if one.role == "value" else one for one in found]
        return found

    def _numeric_of_row(self, name: str, cells: Row, heads: list[tuple[Cell, Role]]) -> Row:
        """Returns the cells beside a quantity that hold numbers, those of another unit only if there is no other."""
        numeric = [cell for cell in cells if values.quantities(cell.text)]
        own = [cell for cell in numeric if self._unit_fits(name, values.quantities(cell.text)[0].unit)]
        for cell in cells:
            if _is_unreadable(cell) and _nearest_head(cell, heads)[1] in ("value", "min", "max", "limit"):
                self._could_not_read(name, cell)
        return [cell for cell in numeric if cell in own or not own or _nearest_head(cell, heads)[1]]

    def _could_not_read(self, name: str, cell: Cell) -> None:
        text = f"{cell.text} could not be read as a number with its unit"
        self.unread.append(Unread(f"{self._table.name}.{name}", cell, text))

    def _numbers(self, name: str, cell: Cell, role: Role, unit: str, doubt: str = "") -> Iterator[Measured]:
        quantity = self._quantities[name]
        if role == "value" and _is_bound(cell):
            text = f"{cell.text} stands where one measured value is expected"
            self.unread.append(Unread(f"{self._table.name}.{name}", cell, text))
            return
        for one in values.quantities(cell.text):
            if plain := without_speck(cell.text, one.number, quantity.min, quantity.max):
                one = msgspec.structs.replace(one, number=float(plain), text=plain)
            as_bound = one.bound or role
            if as_bound == "limit":
                text = f"{cell.text} is a limit, and neither least nor largest value is stated"
                self.unread.append(Unread(f"{self._table.name}.{name}", cell, text))
            if as_bound in ("value", "min", "max"):
                yield measure(
                    self._table.name,
                    quantity,
                    as_bound,
                    cell,
                    one,
                    unit=one.unit or unit,
                    doubt=doubt,
                    group=self._group,
                )

    def _unit_fits(self, name: str, unit: str) -> bool:
        return not unit or not unit_doubt(unit, self._quantities[name].units)


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


def _is_unreadable(cell: Cell) -> bool:
    """Returns whether a cell begins with a number, but is none: "398 N/mm² (L)", "45 47 51"."""
    return not values.quantities(cell.text) and values.leading_quantity(cell.text) is not None


def _is_bound(cell: Cell) -> bool:
    found = values.quantities(cell.text)
    return bool(found) and bool(found[0].bound)


def _is_row_of_limits(cells: Iterable[Cell]) -> bool:
    """Returns whether the signs of all numbers make them limits; "245/280" are two samples."""
    numeric = [cell for cell in cells if values.quantities(cell.text)]
    return bool(numeric) and all(_is_bound(cell) and not _SAMPLES.search(cell.text) for cell in numeric)


def _heads_above(rows: list[Row], at: int, label: Cell) -> tuple[list[tuple[Cell, Role]], int]:
    """Returns the heads right of a label with their roles, from the nearest row above that has at least one role.

    The first rows of a page may belong to the last table of the page before.

    Returns:
        The heads, and the number of the table's first row.
    """
    steps, first = 0, at
    for place in reversed(range(at)):
        row = rows[place]
        if any(values.quantities(cell.text) for cell in row):
            first = first if steps else place
            continue  # another row of the same table
        heads = [(cell, role_of(cell.text)) for cell in row if cell.centre > label.centre]
        if any(role for _, role in heads):
            near = steps < _HEADER_ROWS or row[0].page != label.page
            return (heads, place) if near else ([], first)
        steps += 1
        if steps >= _PAGE_ROWS:
            break
    return [], first


def _doubt_of_row(row: Row, columns: list[tuple[float, str]]) -> str:
    """Returns why a row of a table may hold no values: words before its first column that are not known."""
    words = " ".join(cell.text for cell in row if cell.centre < min(columns)[0] and not values.quantities(cell.text))
    return f"its row says {words}" if re.search(r"[^\W\d_]{3}", words) and not re.search(r"\d", words) else ""


def _nearest_head(cell: Cell, heads: list[tuple[Cell, Role]]) -> tuple[Cell | None, Role]:
    if not heads:
        return None, ""
    head, role = min(heads, key=lambda one: abs(one[0].centre - cell.centre))
    widest = max(head.box[2] - head.box[0], cell.box[2] - cell.box[0], 2 * cell.height)
    return (head, role) if abs(head.centre - cell.centre) < 1.2 * widest else (None, "")
