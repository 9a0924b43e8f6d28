"""`ExpectedValues`: what the marks of each part must say, from a file or folder that others write, such as an order
list or the certificates of coils.

A CSV file, with commas or semicolons, has a header with ``part_id`` and a line for each part. A JSON file has an object
or a list of objects, each with ``part_id``, which may be a list of parts, or one object of objects by part id. Texts
and numbers are values; anything else in a JSON object is passed over. Fields of the same part in several files are put
together.

A JSON file may also be a report of ``lineside read``, such as that of a certificate. Its part is the entity
``part_id``, or else the file's name without ``.json``. A field that a person must look at cannot be agreed with.
"""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lineside_models.identification.rules import GIVEN_ID
from lineside_models.nlp.document import DocumentReport
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import MarkError

LOOK_S = 0.5
"""Least time between two looks for changes."""

FILE_MAX_BYTES = 16 << 20
FILES_MAX = 2000
_KINDS = (".csv", ".json")

_Value = tuple[str, str]
"""A value, and why a person must look at it; empty if nobody must."""

_Fields = dict[str, dict[str, set[_Value]]]
"""Values of each field of each part; more than one is a contradiction."""

_Row = tuple[list[str], dict[str, _Value]]
"""Parts, and their fields."""

_Stamp = tuple[int, int, int]
"""Inode, time of change and size of a file."""


class ExpectedValues:
    """Expected values by part, read again when a file has changed; thread-safe.

    A file that cannot be read is an error of every part until it is mended: a part must not pass by values that are no
    longer right. Writers should write under another name and rename.

    Args:
        path: A ``.csv`` or ``.json`` file, or a folder of such files.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._looked_s = float("-inf")
        self._read: dict[Path, tuple[_Stamp, _Fields]] = {}
        self._error: MarkError | None = None
        self._fields: _Fields = {}

    def check(self) -> None:
        """Reads the files now.

        Raises:
            MarkError: A file is missing, too large or malformed.
        """
        with self._lock:
            self._look()

    @property
    def problem(self) -> str:
        """Why the last look-up was impossible; empty if it was possible."""
        return "" if self._error is None else str(self._error)

    def find(self, part_id: str, field: str) -> str | None:
        """Returns the value of a part's field; ``None`` if the part has none.

        Raises:
            MarkError: A file can't be read, the field has two values, or a person must look at it.
        """
        with self._lock:
            if time.monotonic() - self._looked_s >= LOOK_S:
                self._look()
            elif self._error is not None:
                raise self._error.with_traceback(None)
            values = self._fields.get(part_id, {}).get(field, set())
        if len({value for value, _ in values}) > 1:
            texts = ", ".join(sorted(value for value, _ in values))
            raise MarkError(f"{field} of part {part_id} has two values in {self.path}", actual=texts)
        if doubts := sorted(doubt for _, doubt in values if doubt):
            action = "Look at the document, and write the value into a file."
            raise MarkError(f"{field} of part {part_id} needs a person: {doubts[0]}", action=action)
        return next((value for value, _ in values), None)

    def _look(self) -> None:
        self._error = None
        try:
            stamps = dict(self._stamps())
            if stamps != {path: stamp for path, (stamp, _) in self._read.items()}:
                self._read = {
                    path: known if (known := self._read.get(path)) and known[0] == stamp else (stamp, _file(path))
                    for path, stamp in stamps.items()
                }
                self._fields = _joined([fields for _, fields in self._read.values()])
        except OSError as error:
            self._error = MarkError(f"expected values: {self.path}: {error.strerror}", action="Write the file.")
        except MarkError as error:
            self._error = error
        finally:
            self._looked_s = time.monotonic()
        if self._error is not None:
            self._read, self._fields = {}, {}
            raise self._error.with_traceback(None)

    def _stamps(self) -> Iterator[tuple[Path, _Stamp]]:
        folder = self.path.is_dir()
        files = sorted(one for one in self.path.iterdir() if one.suffix in _KINDS) if folder else [self.path]
        if len(files) > FILES_MAX:
            action = "Move those of finished parts away."
            raise MarkError(
                f"expected values in {self.path}", expected=f"{FILES_MAX} files", actual=len(files), action=action
            )
        for file in files:
            found = file.stat()
            if file.suffix not in _KINDS:
                expected = "a .csv or .json file, or a folder of them"
                raise MarkError(f"expected values: {file}", expected=expected, action="Name such a file.")
            if found.st_size > FILE_MAX_BYTES:
                limit, action = f"at most {FILE_MAX_BYTES} bytes", "Leave out finished parts."
                raise MarkError(f"{file} is too large", expected=limit, actual=found.st_size, action=action)
            yield file, (found.st_ino, found.st_mtime_ns, found.st_size)


def _file(path: Path) -> _Fields:
    try:
        rows = list(_csv_rows(path) if path.suffix == ".csv" else _json_rows(decode_json(path.read_bytes()), path.stem))
    except (msgspec.DecodeError, ValueError, csv.Error) as error:
        expected = "a CSV file with the column part_id, or JSON objects with part_id"
        raise MarkError(
            f"{path} has no expected values: {error}", expected=expected, action="Mend the file."
        ) from error
    fields: _Fields = {}
    for part_ids, row in rows:
        for part_id in part_ids:
            of_part = fields.setdefault(part_id, {})
            for name, value in row.items():
                of_part.setdefault(name, set()).add(value)
    return fields


def _csv_rows(path: Path) -> Iterator[_Row]:
    text = path.read_bytes().decode("utf-8-sig")
    header = text.partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text), delimiter=";" if header.count(";") > header.count(",") else ",", strict=True
    )
    if GIVEN_ID not in (reader.fieldnames or ()):
        raise ValueError(f"the header has no column {GIVEN_ID}")
    for row in reader:
        part_id = (row.pop(GIVEN_ID) or "").strip()
        if not part_id or None in row:
            raise ValueError(f"line {reader.line_num} has {'more cells than the header' if part_id else 'no part id'}")
        yield [part_id], {name: (value.strip(), "") for name, value in row.items() if value and value.strip()}


def _json_rows(content: Any, stem: str) -> Iterator[_Row]:
    if isinstance(content, dict) and {"schema", "entities"} <= content.keys():
        yield _report_row(msgspec.convert(content, DocumentReport), stem)
        return
    if isinstance(content, dict) and GIVEN_ID not in content:
        content = [{GIVEN_ID: part_id, **_object(row)} for part_id, row in content.items()]
    for row in content if isinstance(content, list) else [content]:
        given = _object(row).get(GIVEN_ID)
        part_ids = [_text(one) for one in (given if isinstance(given, list) else [given])]
        if not all(part_ids) or not part_ids:
            raise ValueError(f"an object has no {GIVEN_ID}")
        values = {name: (text, "") for name, value in row.items() if name != GIVEN_ID and (text := _text(value))}
        yield part_ids, values


def _report_row(report: DocumentReport, stem: str) -> _Row:
    """Returns the part and the fields of a document."""
    doubts = {one.field: f"{one.reason}: {one.text}" for one in report.review}
    found: dict[str, _Value] = {}
    for one in report.entities:
        value, doubt = one.value or one.text, doubts.get(one.type, "")
        before, known = found.get(one.type, (value, doubt))
        found[one.type] = (before, known or ("" if before == value else f"ambiguous: {before} or {value}"))
    part_id, doubt = found.pop(GIVEN_ID, (stem, ""))
    if doubt:
        raise ValueError(f"the part's id needs a person: {doubt}")
    return [part_id], found


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__} in place of an object")
    return value


def _text(value: Any) -> str:
    """Returns a text or number as text; empty for anything else."""
    return str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""


def _joined(parts: list[_Fields]) -> _Fields:
    joined: _Fields = {}
    for fields in parts:
        for part_id, row in fields.items():
            of_part = joined.setdefault(part_id, {})
            for name, values in row.items():
                of_part[name] = of_part.get(name, set()) | values
    return joined
