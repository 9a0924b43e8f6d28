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
from lineside_models.nlp.rules.cells import Cell, Row, divided, heading_above, overlap
from lineside_models.nlp.rules.fields import unit_doubt, without_speck
from lineside_models.nlp.rules.labels import LabelIndex
from lineside_models.nlp.rules.lines import RunningLineReader
from lineside_models.nlp.rules.measurements import Measured, Unread, measure
from lineside_models.nlp.rules.roles import Role, is_standard, limit_word, role_of, without_role
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

_PIECES = frozenset(
    (
        "coil",
        "bundle",
        "plate",
        "piece",
        "item",
        "pos",
        "position",
        "sample",
        "specimen",
        "test",
        "probe",
        "ring",
        "bund",
    )
)
"""Words of the head of a column whose numbers are of no heats."""

_LABEL_LENGTH = 120
"""Characters of a cell that names a quantity, at most."""

_FACTORS = frozenset(("x", "×", "*", "factor", "faktor", "multiplier"))
"""What stands before a row of factors."""

_SYMBOL_MAX = 3
"""Letters of a symbol, which may stand for anything else where it is alone."""

_LOST_HEAD = 3
"""Quantities in a row from which it is the head of a table, also if no number stands below it."""


class _Named(msgspec.Struct, frozen=True):
    """A cell that names a quantity.

    Attributes:
        place: Number of the cell in its row.
        unit: That stands with the name; empty without one.
        role: What words with the name say of its numbers.
    """

    place: int
    cell: Cell
    name: str
    unit: str
    role: Role


class TableReader:
    """Finds the numbers of a table.

    Attributes:
        unread: Cells from which no number could be taken, after `read`.
        row_heads: Cells before the values of a row, which may be numbers of heats, after `read`.

    Args:
        others: Tables that may stand beside or below it.
        fields: Labels of fields, whose rows belong to no table.
    """

    def __init__(self, table: TableSchema, others: Sequence[TableSchema], fields: LabelIndex) -> None:
        self._table, self._fields = table, fields
        quantities = [quantity for other in others for quantity in other.quantities]
        self._others = LabelIndex({one.name: (one.name, *one.labels) for one in quantities})
        self._quantities = {one.name: one for one in table.quantities}
        self._index = LabelIndex({one.name: (one.name, *one.labels) for one in table.quantities})
        self._group = 0
        self.unread: list[Unread] = []
        self.row_heads: list[Cell] = []

    def read(self, rows: list[Row]) -> list[Measured]:
        """Returns the numbers in the order of the text.

        A quantity that is alone in its table is doubted, and taken for none if only a letter without a unit names it.
        Values of other quantities are taken from lines of text.
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
        self._certain: set[str] = set()
        at, last_down = 0, len(rows)
        while at < len(rows):
            row = divided(rows[at], self._is_quantity)
            named = self._named(row)
            if not named:
                at += 1
                continue
            numbers = [place for place, cell in enumerate(row) if values.quantities(cell.text)]
            behind = row[named[0].place + 1 :]
            certain = [one for one in named if self._says_more(one)]
            if any(place > named[0].place for place in numbers):
                self._look_for_gap(rows, last_down, at)
                found += self._down(rows, at, row, named)
                last_down, at = at, at + 1
            elif len(named) == 1 and (unreadable := [cell for cell in behind if _is_unreadable(cell)]):
                self._could_not_read(named[0].name, unreadable[0])
                last_down, at = at, at + 1
            elif len(named) > 1 or certain:
                across, at = self._across(rows, at, row, named)
                found += across if len(named) > 1 else [_doubted(one, "no column stands beside it") for one in across]
            else:
                at += 1
        unread = {one.field for one in self.unread} - {self._table.name}
        names = {f"{self._table.name}.{one.quantity}" for one in found} | unread
        if len(names) > 1:
            return found
        with_units = found and all(any(number.unit for number in values.quantities(one.cell.text)) for one in found)
        if names <= self._certain or with_units:
            return [_doubted(one, "no other quantity of its table was found") for one in found]
        self.unread = self._lost
        return []

    def _says_more(self, one: _Named) -> bool:
        """Returns whether a cell names a quantity beyond doubt: with a unit, a limit, or a word and no symbol."""
        plain, _ = without_role(values.split_unit(one.cell.text)[0])
        is_spelled = self._index.is_spelled(plain)
        if is_spelled and (one.unit or one.role or len(plain) > 1):
            self._certain.add(f"{self._table.name}.{one.name}")
        return is_spelled and bool(one.unit or one.role or len(plain) > _SYMBOL_MAX)

    def _look_for_gap(self, rows: list[Row], before: int, after: int) -> None:
        """Notes a row between two rows of a table whose head is not known, or that has no number."""
        for row in rows[before + 1 : after] if after - before == 2 else ():
            if row[0].page == rows[after][0].page and len(row) > 1 and not self._is_unknown(row):
                named = self._named(row)
                field = f"{self._table.name}.{named[0].name}" if named else self._table.name
                self.unread.append(Unread(field, row[0], " ".join(cell.text for cell in row)))

    def _look_for_unknown_rows(self, rows: list[Row], at: int, first: int) -> None:
        """Notes rows of numbers that follow a row of the table, or stand between it and its heads, row ``first``."""
        told = {one.cell for one in self.unread}
        for step in (-1, 1):
            place = at + step
            while (
                first < place < len(rows) and self._is_unknown(rows[place]) and rows[place][0].page == rows[at][0].page
            ):
                if rows[place][0] not in told:
                    text = f"the head of the row of {' '.join(cell.text for cell in rows[place])} is not known"
                    self.unread.append(Unread(self._table.name, rows[place][0], text))
                place += step

    def _is_unknown(self, row: Row) -> bool:
        """Returns whether a row has a head and numbers, and its head is not known."""
        head = row[0].text
        is_head = re.search(r"[^\W\d_]{2}", head) and not head.endswith(":") and not _has_quantity(row[:1])
        others = self._fields.leading(head) or any(self._others.whole(cell.text) for cell in row)
        return bool(is_head and _has_quantity(row[1:]) and not (role_of(head) or others or self._named(row)))

    def _named(self, row: Row) -> list[_Named]:
        """Returns the quantities of a row."""
        named: list[_Named] = []
        for place, cell in enumerate(row):
            label = self._label(cell.text)
            unit = values.unit_of(cell.text)
            if label is not None and not (named and unit and self._unit_fits(named[-1].name, unit)):  # "HBW" is both
                named.append(_Named(place, cell, *label))
        return named

    def _label(self, text: str) -> tuple[str, str, Role] | None:
        """Returns the quantity that a cell names, the unit or factor that it states, and what it says of numbers."""
        if len(text) > _LABEL_LENGTH:
            return None
        label, unit = values.split_unit(text)
        for head, stated in ((label, unit), (text, "")) if unit else ((text, ""),):
            plain, role = without_role(head)
            if self._index.is_spelled(head):  # "Upper yield"
                plain, role = head, ""
            match = self._index.whole(plain) if plain else None
            if match is not None:
                return match.name, stated, role
        return None

    def _unit(self, name: str, text: str) -> str:
        """Returns the unit or factor that a cell holds; empty if it holds something else."""
        stated = values.unit_of(text) or ""
        fits = stated and self._quantities[name].units and self._unit_fits(name, stated)
        return stated if fits else values.known_unit(text)

    def _is_quantity(self, text: str) -> bool:
        return self._label(text) is not None

    def _begins_a_table(self, row: Row) -> bool:
        others = sum(self._others.whole(cell.text) is not None for cell in row)
        return others > 1 or sum(self._is_quantity(cell.text) for cell in row) > 1

    def _across(self, rows: list[Row], at: int, header: Row, named: list[_Named]) -> tuple[list[Measured], int]:
        """Reads the rows below a row of quantities; returns where they end."""
        title = self._title_unit(rows, at, header[: named[0].place])
        heading = _heading_doubt(rows, at, over=False)
        units = {one.place: self._with_title(one.name, one.unit, title) for one in named}
        apart = min(
            (b.cell.centre - a.cell.centre for a, b in itertools.pairwise(named)), default=_alone(named[0].cell)
        )
        page = named[0].cell.page
        self._group += 1
        found: list[Measured] = []
        empty, last = 0, at + 1
        for number in range(at + 1, len(rows)):
            row = divided(rows[number], lambda text: bool(values.quantities(text)) or text in _DASHES)
            if self._begins_a_table(row) or (len(named) == 1 and self._named(row)):
                break
            placed, beside, doubts = _in_columns(row, named, 0.7 * apart)
            if empty > _GAP_ROWS or row[0].page != page:
                whole = len(placed) == len(named) and all(values.quantities(cell.text) for cell in placed.values())
                if row[0].page == page or not whole:
                    empty += 1
                    if empty > _PAGE_ROWS or self._named(row):
                        break
                    continue
                page = row[0].page
            role = role_of(" ".join(cell.text for cell in row if not values.quantities(cell.text)))
            stated = _row_of_factors(row, named, placed) or self._row_of_units(role, named, placed)
            if stated:
                units |= {
                    one.place: self._with_title(one.name, stated[one.place], title)
                    for one in named
                    if one.place in stated
                }
                last = number + 1
                continue
            before = [] if role else [cell for cell in row if cell.centre < named[0].cell.centre]
            doubt = "" if role else _doubt_of_row(before) or heading
            role = role or ("limit" if _is_row_of_limits(placed.values()) else "value")
            numbers = [
                one
                for head in named
                if head.place in placed
                for one in self._below_head(
                    head, placed[head.place], role, units[head.place], doubts.get(head.place, doubt)
                )
            ]
            if not numbers and not found:
                self._look_for_unreadable(named, placed)
            empty = 0 if numbers else empty + 1
            last = number + 1 if numbers else last
            found += [msgspec.structs.replace(one, row=" ".join(cell.text for cell in before)) for one in numbers]
            if numbers and role == "value":
                self.row_heads += _heads_of_row(row, header, named)
                self._look_for_columns(named, placed, beside)
        if not found and len(named) >= _LOST_HEAD:
            text = f"no number could be read below {', '.join(one.name for one in named)}"
            self._lost.append(Unread(self._table.name, named[0].cell, text))
            self.unread.append(self._lost[-1])
        return found, max(last, at + 1)

    def _look_for_unreadable(self, named: list[_Named], placed: dict[int, Cell]) -> None:
        """Notes the cells of a row that begin with numbers, if they are those of a table: two or more."""
        unreadable = {
            one.name: placed[one.place] for one in named if one.place in placed and _is_unreadable(placed[one.place])
        }
        for name, cell in unreadable.items() if len(unreadable) > 1 else ():
            self._could_not_read(name, cell)

    def _below_head(self, head: _Named, cell: Cell, role: Role, unit: str, doubt: str) -> Iterator[Measured]:
        """Reads a cell in a row of a role, of which the head of its column may say more."""
        if head.role and role in ("value", "limit"):
            role, doubt = head.role, "" if head.role == "value" else doubt
        return self._numbers(head.name, cell, role, unit, doubt)

    def _row_of_units(self, role: Role, named: list[_Named], placed: dict[int, Cell]) -> dict[int, str]:
        """Returns the units of a row that holds no numbers, as they stand there if they are not known; or none."""
        cells = {one: placed[one.place].text for one in named if one.place in placed}
        cells = {one: text for one, text in cells.items() if text not in _DASHES}
        if role not in ("unit", "") or any(values.quantities(text) for text in cells.values()):
            return {}
        known = {one.place: self._unit(one.name, text) for one, text in cells.items()}
        return {one.place: known[one.place] or text for one, text in cells.items()} if any(known.values()) else {}

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

    def _look_for_columns(self, named: list[_Named], placed: dict[int, Cell], beside: list[Cell]) -> None:
        """Notes what a row of values lacks: a number below a head, and a head above a number."""
        for one in named:
            if one.role in ("", "value") and (one.place not in placed or not values.quantities(placed[one.place].text)):
                text = f"no value could be read for {one.name}"
                self.unread.append(Unread(f"{self._table.name}.{one.name}", placed.get(one.place, one.cell), text))
        for cell in beside:
            if values.quantities(cell.text):
                self._unknown_head(self._table.name, cell)

    def _unknown_head(self, field: str, cell: Cell) -> None:
        self.unread.append(Unread(field, cell, f"the head of the column of {cell.text} is not known"))

    def _down(self, rows: list[Row], at: int, row: Row, named: list[_Named]) -> Iterator[Measured]:
        """Reads a row that begins with a quantity; several such tables may stand side by side."""
        heads, first = _heads_above(rows, at, named[0].cell)
        self._look_for_unknown_rows(rows, at, first if heads else at)
        left = named[0].cell.centre
        corner = [cell for cell in rows[first] if cell.centre <= left or role_of(cell.text) not in ("other", "")]
        title = self._title_unit(rows, first, corner if heads else [])
        below = rows[first + 1 if heads else 0 : at + 1]
        near, far = _heading_doubt(below, len(below) - 1), _heading_doubt(rows, first, over=False) if heads else ""
        for one, following in itertools.zip_longest(named, named[1:]):
            cells = row[one.place + 1 : following.place if following else len(row)]
            unit = one.unit or next((stated for cell in cells if (stated := self._unit(one.name, cell.text))), "")
            self._group += 1
            found = self._of_row(one, cells, heads, self._with_title(one.name, unit, title))
            for number in found:
                plain = number.role == "value" and one.role != "value"
                doubt = near or (far if _nearest_head(number.cell, heads)[1] != "value" else "")
                yield _doubted(number, doubt) if plain else number

    def _of_row(self, named: _Named, cells: Row, heads: list[tuple[Cell, Role]], unit: str) -> list[Measured]:
        """Reads the cells beside a quantity, each by the head of its column or what stands with the quantity."""
        name = named.name
        field = f"{self._table.name}.{name}"
        results = any(role == "value" for _, role in heads)
        before = len(self.unread)
        numeric = self._numeric_of_row(name, cells, heads)
        found: list[Measured] = []
        rivals = [cell.text for cell in cells if not heads and _is_unreadable(cell)]
        beside = any(not _is_bound(cell) for cell in numeric)
        for cell in numeric:
            head, role = _nearest_head(cell, heads)
            role = named.role if role in ("", "value", "limit") and named.role else role
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
            found = [_doubted(one, doubt) if one.role == "value" else one for one in found]
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


def _row_of_factors(row: Row, named: list[_Named], placed: dict[int, Cell]) -> dict[int, str]:
    """Returns the factors of a row such as "x | 100 | 1000"; none if it is no such row."""
    words = " ".join(cell.text for cell in row if cell.centre < named[0].cell.centre)
    powers = all(re.fullmatch("10+", cell.text) for cell in placed.values())
    return {place: f"x{cell.text}" for place, cell in placed.items()} if words.casefold() in _FACTORS and powers else {}


def _in_columns(row: Row, named: list[_Named], reach: float) -> tuple[dict[int, Cell], list[Cell], dict[int, str]]:
    """Returns the nearest cell of each column, the cells right of the first column in none, and doubts of columns."""
    placed: dict[int, tuple[float, Cell]] = {}
    doubts: dict[int, str] = {}
    beside: list[Cell] = []
    for cell in row:
        far, place = min((abs(cell.centre - one.cell.centre), one.place) for one in named)
        other = placed.get(place)
        if far < reach and other is not None and values.quantities(cell.text) and values.quantities(other[1].text):
            doubts[place] = f"{other[1].text} and {cell.text} stand in one column"
        if far < reach and (other is None or far < other[0]):
            placed[place] = (far, cell)
            beside += [other[1]] if other else []
        elif cell.centre > named[0].cell.centre:
            beside.append(cell)
    return {place: cell for place, (_, cell) in placed.items()}, beside, doubts


def _doubted(one: Measured, doubt: str) -> Measured:
    return msgspec.structs.replace(one, doubt=one.doubt or doubt)


def _is_unreadable(cell: Cell) -> bool:
    """Returns whether a cell begins with a number, but is none: "398 N/mm² (L)", "45 47 51"."""
    return not values.quantities(cell.text) and values.begins_with_number(cell.text)


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
        heads = [(cell, _role_of_head(cell)) for cell in row if cell.centre > label.centre]
        if any(role for _, role in heads):
            near = steps < _HEADER_ROWS or row[0].page != label.page
            return (heads, place) if near else ([], first)
        steps += 1
        if steps >= _PAGE_ROWS:
            break
    return [], first


def _heads_of_row(row: Row, header: Row, named: list[_Named]) -> Row:
    """Returns the cells left of the values, but those below a head such as "Coil"."""
    pieces = [cell for cell in header if _PIECES & set(values.folded(cell.text).split())]
    left = [cell for cell in row if cell.centre < named[0].cell.centre]
    return [cell for cell in left if not any(overlap(cell.box, piece.box) > 0.3 for piece in pieces)]


def _heading_doubt(rows: list[Row], at: int, *, over: bool = True) -> str:
    """Returns why the values of a table may be limits: the heading above it says so."""
    word = limit_word(heading_above(rows, at, _has_quantity, over=over))
    return f"{word} stands above it" if word else ""


def _has_quantity(row: Row) -> bool:
    return any(values.quantities(cell.text) for cell in row)


def _alone(head: Cell) -> float:
    """Returns the distance to the next column of a table that has only one."""
    return max(head.box[2] - head.box[0], 4 * head.height)


def _role_of_head(cell: Cell) -> Role:
    return role_of(cell.text) or ("limit" if is_standard(cell.text) else "")


def _doubt_of_row(row: Row) -> str:
    """Returns why a row may hold no values: the words before its first column are not known, or a standard's."""
    words = " ".join(cell.text for cell in row if not values.quantities(cell.text))
    unknown = re.search(r"[^\W\d_]{3}", words) and not re.search(r"\d", words)
    return f"its row says {words}" if unknown or is_standard(words) else ""


def _nearest_head(cell: Cell, heads: list[tuple[Cell, Role]]) -> tuple[Cell | None, Role]:
    if not heads:
        return None, ""
    head, role = min(heads, key=lambda one: abs(one[0].centre - cell.centre))
    widest = max(head.box[2] - head.box[0], cell.box[2] - cell.box[0], 2 * cell.height)
    return (head, role) if abs(head.centre - cell.centre) < 1.2 * widest else (None, "")
