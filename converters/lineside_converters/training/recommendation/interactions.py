"""Interactions of users with items, from files, folders, data frames and iterables.

=============================  =====================================================================================
file                           content
=============================  =====================================================================================
``*.csv``, ``*.parquet``       columns ``user``, ``item`` and any of ``time``, ``label``, ``attributes`` (joined by
                               ``|``); others, such as ``propensity``, are not used
``*.jsonl``                    an object a line, with the same names
``*.txt``                      a line a user: the user, then the items in the order of time; attributes of the items
                               in ``NAME_item2attributes.json`` beside it
``u.data``                     MovieLens' ratings, with the genres of ``u.item`` beside it; 4 and 5 count as chosen
=============================  =====================================================================================

A label above 0 is a choice. A label of 0 is an item that was shown and not chosen: training ranks it below what was
chosen next. Without times the order of the rows counts. A row without a user only describes its item.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.recommendation.tables import ID_MAX_BYTES, is_id
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import DatasetError, InputNotFoundError, MissingExtraError
from lineside_runtime.files import write_atomic

ATTRIBUTES_MAX = 8
"""Attributes of one item that are used, in their order."""

COLUMNS = ("user", "item", "time", "label", "attributes")
_LIKED = 4  # of five stars
_SHOWN = 2
_SUFFIXES = (".csv", ".parquet", ".jsonl", ".txt")

FORMS = "a .csv, .parquet, .jsonl, .txt or u.data"
"""Files that are read, for errors and help."""

Row = Sequence[Any]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """What users chose, in order.

    Attributes:
        items: Ids of the items, sorted by their bytes.
        attributes: Names of the attributes, sorted.
        attribute_rows: ``(items, K) int64``: numbers of each item's attributes from 1, then 0.
        chosen: Of each user the rows of the chosen items, oldest first.
        shown: Of each user ``(chosen, 2)``: items that were shown before each choice and not chosen, else -1.
    """

    items: tuple[str, ...]
    attributes: tuple[str, ...]
    attribute_rows: Ints
    users: tuple[str, ...]
    chosen: tuple[Ints, ...]
    shown: tuple[Ints, ...]

    @property
    def count(self) -> int:
        """Number of choices."""
        return sum(len(each) for each in self.chosen)

    def rows_of(self, ids: Iterable[str]) -> Ints:
        """Returns the rows of items; -1 for an unknown one."""
        known = {item: row for row, item in enumerate(self.items)}
        return np.array([known.get(item, -1) for item in ids], np.int64)

    def without_last(self) -> Interactions:
        """Returns the interactions without each user's last one; users with fewer than two left stay out."""
        kept = [number for number, rows in enumerate(self.chosen) if len(rows) >= 3]
        return Interactions(
            items=self.items,
            attributes=self.attributes,
            attribute_rows=self.attribute_rows,
            users=tuple(self.users[number] for number in kept),
            chosen=tuple(self.chosen[number][:-1] for number in kept),
            shown=tuple(self.shown[number][:-1] for number in kept),
        )

    def popularity(self) -> Ints:
        """Returns how often each item was chosen, ``(items,)``."""
        everything = np.concatenate(self.chosen) if self.chosen else np.zeros(0, np.int64)
        return np.bincount(everything, minlength=len(self.items))[: len(self.items)].astype(np.int64)


def read_interactions(path: Path) -> Interactions:
    """Reads a file, or the one file of a folder that can be read.

    Raises:
        InputNotFoundError: There is nothing.
        DatasetError: It is no file of interactions, or a line breaks the format.
    """
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise InputNotFoundError(f"{file} is not a file", action=f"Give {FORMS}, or its folder.")
    attributes: Mapping[str, Sequence[str]] = {}
    if file.name == "u.data":
        rows, attributes = _movielens(file), _genres(file.with_name("u.item"))
    elif file.suffix == ".parquet":
        rows = _parquet_rows(file)
    elif file.suffix == ".jsonl":
        rows = _json_rows(file)
    elif file.suffix == ".txt":
        rows = _sequences(file)
        described = file.with_name(f"{file.stem}_item2attributes.json")
        if described.is_file():
            attributes = _described(described)
    else:
        rows = _csv_rows(file)
    try:
        return collect(rows, attributes, source=file.name)
    except ValueError as error:
        raise DatasetError(f"{file.name} breaks the format", actual=str(error)[:120], action="Correct it.") from error


def as_rows(data: Any) -> Iterator[Row]:
    """Yields the rows of a data frame with the columns of `COLUMNS`, or of an iterable of tuples or mappings.

    Raises:
        DatasetError: A column is missing, or a row has another form.
    """
    if hasattr(data, "columns") and hasattr(data, "itertuples"):  # a data frame of pandas, which is no dependency
        names = [name for name in COLUMNS if name in data.columns]
        _check_columns(names, "the data frame")
        places = [COLUMNS.index(name) for name in names]
        for values in data[names].itertuples(index=False):
            yield _placed(dict(zip(places, values, strict=True)))
        return
    for row in data:
        if isinstance(row, Mapping):
            yield _placed({COLUMNS.index(name): value for name, value in row.items() if name in COLUMNS})
        else:
            yield row


def collect(
    rows: Iterable[Row],
    attributes: Mapping[str, Sequence[str]] | None = None,
    *,
    source: str = "the data",
    choices_min: int = 2,
) -> Interactions:
    """Put rows ``(user, item, time, label, attributes)`` in order; all after the item may be missing.

    Args:
        rows: In the order of time where they have no time.
        attributes: Of the items, beside those in the rows.
        source: Of the rows, for errors.
        choices_min: Users with fewer choices are left out.

    Raises:
        DatasetError: A row breaks the format, or no user chose so many items.
    """
    described: dict[str, tuple[str, ...]] = {item: tuple(names) for item, names in (attributes or {}).items()}
    by_user: dict[str, list[tuple[float, int, str, float]]] = {}
    for number, row in enumerate(rows):
        user, item, time, label, names = _checked(row, number, source)
        if user:
            by_user.setdefault(user, []).append((time, number, item, label))
        if names or not user:
            described[item] = names
    seen = {item for actions in by_user.values() for _, _, item, _ in actions}
    items = sorted(seen | described.keys(), key=str.encode)
    rows_of = {item: row for row, item in enumerate(items)}
    users, chosen, shown = [], [], []
    for user, actions in by_user.items():
        ordered = [(rows_of[item], label) for _, _, item, label in sorted(actions)]
        taken = _choices(ordered)
        if len(taken[0]) >= choices_min:
            users.append(user)
            chosen.append(taken[0])
            shown.append(taken[1])
    if not users:
        raise DatasetError(
            f"{source} has no user with {choices_min} chosen items",
            expected="rows of user and item, a user's oldest first",
            actual=f"{len(by_user)} users, {len(items)} items",
            action="Give more interactions; a label above 0 is a choice.",
        )
    names_sorted = sorted({name for names in described.values() for name in names}, key=str.encode)
    numbers = {name: number for number, name in enumerate(names_sorted, 1)}
    table = np.zeros((len(items), ATTRIBUTES_MAX), np.int64)
    for item, names in described.items():
        mine = [numbers[name] for name in names[:ATTRIBUTES_MAX]]
        table[rows_of[item], : len(mine)] = mine
    return Interactions(tuple(items), tuple(names_sorted), table, tuple(users), tuple(chosen), tuple(shown))


def extended(known: Interactions, new: Interactions) -> tuple[Interactions, Ints]:
    """Returns interactions with newer ones behind each user's, and how many each user has of those, ``(users,)``.

    Args:
        new: Later choices; may have new users, items and attributes.
    """
    described = {item: names_of(data, row) for data in (known, new) for row, item in enumerate(data.items)}
    rows: list[Row] = []
    for data in (known, new):
        for user, chosen, shown in zip(data.users, data.chosen, data.shown, strict=True):
            for row, passed in zip(chosen, shown, strict=True):
                rows += [(user, data.items[other], None, 0) for other in passed[passed >= 0]]
                rows.append((user, data.items[row], None, 1))
    merged = collect(rows, described)
    counts = dict(zip(new.users, map(len, new.chosen), strict=True))
    return merged, np.array([counts.get(user, 0) for user in merged.users], np.int64)


def names_of(data: Interactions, row: int) -> tuple[str, ...]:
    """Returns the attributes of an item."""
    return tuple(data.attributes[number - 1] for number in data.attribute_rows[row] if number)


def write_interactions(data: Interactions, path: Path) -> None:
    """Writes a ``.csv`` that `read_interactions` reads."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    names = ["|".join(names_of(data, row)) for row in range(len(data.items))]
    acted = {int(row) for rows in (*data.chosen, *data.shown) for row in rows.ravel()}
    for row, item in enumerate(data.items):
        if row not in acted:
            writer.writerow(("", item, "", "", names[row]))
    for user, chosen, shown in zip(data.users, data.chosen, data.shown, strict=True):
        for time, (row, passed) in enumerate(zip(chosen, shown, strict=True)):
            for other in passed[passed >= 0]:
                writer.writerow((user, data.items[other], time, 0, names[other]))
            writer.writerow((user, data.items[row], time, 1, names[row]))
    write_atomic(path, text.getvalue().encode())


def _choices(ordered: Sequence[tuple[int, float]]) -> tuple[Ints, Ints]:
    """Returns the chosen rows, and what was shown since the choice before."""
    chosen: list[int] = []
    shown: list[list[int]] = []
    waiting: list[int] = []
    for row, label in ordered:
        if label > 0:
            chosen.append(row)
            shown.append(([each for each in waiting if each != row] + [-1] * _SHOWN)[:_SHOWN])
            waiting = []
        else:
            waiting.append(row)
    return np.array(chosen, np.int64), np.array(shown, np.int64).reshape(-1, _SHOWN)


def _checked(row: Row, number: int, source: str) -> tuple[str, str, float, float, tuple[str, ...]]:
    try:
        values = [*row, *(None,) * (len(COLUMNS) - len(row))]
        user, item = ("" if _is_missing(value) else str(value) for value in values[:2])
        time = float(number) if values[2] in (None, "") else float(values[2])
        label = 1.0 if values[3] in (None, "") else float(values[3])
        given = () if _is_missing(values[4]) else values[4]
        names = tuple(name for name in (given.split("|") if isinstance(given, str) else map(str, given)) if name)
    except (TypeError, ValueError, IndexError) as error:
        raise _bad_row(source, number, repr(row)) from error
    if not (item and np.isfinite(time) and np.isfinite(label)) or len(values) > len(COLUMNS):
        raise _bad_row(source, number, repr(row))
    for name in (item, *names):
        if not is_id(name):
            raise DatasetError(
                f"{source}, row {number + 1}: an id",
                expected=f"1 to {ID_MAX_BYTES} bytes of text",
                actual=repr(name[:80]),
                action="Give the items shorter ids.",
            )
    return user, item, time, label, names


def _is_missing(value: Any) -> bool:
    return value is None or bool(value != value)  # NaN, as a data frame has it


def _bad_row(source: str, number: int, actual: str) -> DatasetError:
    return DatasetError(
        f"{source}, row {number + 1} breaks the format",
        expected="user, item, time, label, attributes; time and label are numbers, and all after item may be missing",
        actual=actual[:120],
        action="Correct the row.",
    )


def _placed(values: Mapping[int, Any]) -> Row:
    return [values.get(place) for place in range(len(COLUMNS))]


def _check_columns(names: Sequence[str], where: str) -> None:
    missing = [name for name in COLUMNS[:2] if name not in names]
    if missing:
        raise DatasetError(
            f"{where} has no column {' and '.join(missing)}",
            expected=f"the columns {', '.join(COLUMNS)}; the last three may be missing",
            actual=", ".join(names) or "none of them",
            action="Name the columns so.",
        )


def _file_in(folder: Path) -> Path:
    ratings = folder / "u.data"
    found = [ratings] if ratings.is_file() else sorted(each for end in _SUFFIXES for each in folder.glob(f"*{end}"))
    if len(found) != 1:
        raise DatasetError(
            f"{folder} is not one set of interactions",
            expected=f"one of {FORMS}",
            actual=", ".join(each.name for each in found[:5]) or "none",
            action="Give the file itself.",
        )
    return found[0]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file.name} is no UTF-8 text", actual=str(error), action="Give a text file.") from error


def _csv_rows(file: Path) -> Iterator[Row]:
    reader = csv.reader(_lines(file))
    try:
        names = next(reader, [])
        _check_columns(names, file.name)
        places = {COLUMNS.index(name): place for place, name in enumerate(names) if name in COLUMNS}
        for values in filter(None, reader):
            yield _placed({column: values[place] for column, place in places.items() if place < len(values)})
    except csv.Error as error:
        raise DatasetError(f"{file.name} is no CSV file: {error}", action="Save it again as CSV UTF-8.") from error


def _json_rows(file: Path) -> Iterator[Row]:
    try:
        yield from as_rows(decode_json(line, type=dict[str, Any]) for line in filter(str.strip, _lines(file)))
    except msgspec.DecodeError as error:
        raise DatasetError(
            f"{file.name} breaks the format", expected="a JSON object a line", actual=str(error), action="Correct it."
        ) from error


def _parquet_rows(file: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        action = "Install the extra: pip install 'lineside[export]'; or give a .csv."
        raise MissingExtraError("Parquet needs pyarrow", action=action) from error
    try:
        with pq.ParquetFile(file) as opened:
            names = [name for name in COLUMNS if name in opened.schema_arrow.names]
            _check_columns(names, file.name)
            for batch in opened.iter_batches(columns=names):
                yield from as_rows(batch.to_pylist())
    except pa.ArrowException as error:
        raise DatasetError(
            f"{file.name} is no Parquet file", actual=str(error)[:120], action="Write it anew."
        ) from error


def _sequences(file: Path) -> Iterator[Row]:
    for line in _lines(file):
        user, *items = line.split()
        for item in items:
            yield (user, item)


def _described(file: Path) -> dict[str, list[str]]:
    try:
        content = decode_json(file.read_bytes(), type=dict[str, list[int | str]])
    except msgspec.DecodeError as error:
        raise DatasetError(
            f"{file.name} breaks the format",
            expected="a JSON object: a list of attributes by item",
            actual=str(error),
            action="Correct it.",
        ) from error
    return {item: [str(name) for name in names] for item, names in content.items()}


def _movielens(file: Path) -> Iterator[Row]:
    for line in _lines(file):
        user, item, stars, time = line.split("\t")
        yield (user, item, time, int(int(stars) >= _LIKED))


def _genres(file: Path) -> dict[str, list[str]]:
    """Returns the genres of MovieLens' items; none where the file is missing."""
    if not file.is_file():
        return {}
    found = {}
    for line in file.read_text("latin-1").splitlines():
        item, *_ = fields = line.split("|")
        found[item] = [f"genre-{number}" for number, flag in enumerate(fields[5:]) if flag == "1"]
    return found
