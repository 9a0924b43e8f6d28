"""Tables of a recommender's bundle: ids, INT8 embeddings and attributes of the items, read into memory.

Rows are quantized one by one: a row that did not change has the same bytes in the next version, so that a patch holds
only the others.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lineside_runtime.bundle import Bundle, Rows
from lineside_runtime.errors import BadInputFormatError, BundleFormatError, BundleIntegrityError
from lineside_runtime.files import write_atomic

FOLDER = "tables"

ID_MAX_BYTES = 64
"""Longest id of an item or attribute, in UTF-8."""

_LIMIT = 127  # of an INT8 value, symmetric

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class _Form(NamedTuple):
    """Type and dimensions of one table."""

    kind: str
    ndim: int


_FORMS = {
    "items": _Form("S", 1),
    "item_vectors": _Form("i1", 2),
    "item_scales": _Form("f2", 1),
    "item_bias": _Form("f4", 1),
    "item_attributes": _Form("u2", 2),
    "attributes": _Form("S", 1),
    "attribute_vectors": _Form("i1", 2),
    "attribute_scales": _Form("f2", 1),
}
"""``items`` and ``attributes`` hold ids, sorted. The last two rows of the items' other tables are the unknown item and
the empty history; row 0 of the attributes' other tables is no attribute."""


class ItemTables:
    """Vectors of items by id.

    Attributes:
        ids: ``(count,)``, sorted bytes.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._arrays = arrays
        self.ids = arrays["items"]
        self.count = len(self.ids)
        self._names = arrays["attributes"]

    @property
    def unknown(self) -> int:
        """Row of an item that has none."""
        return self.count

    @property
    def empty(self) -> int:
        """Row of a history without items."""
        return self.count + 1

    @property
    def features(self) -> int:
        """Length of a vector."""
        return int(self._arrays["item_vectors"].shape[1] + self._arrays["attribute_vectors"].shape[1])

    def rows_of(self, ids: Sequence[str]) -> Ints:
        """Returns the row of each item; `unknown` for one without.

        Raises:
            BadInputFormatError: An id is no text.
        """
        return np.where((rows := _places(ids, self.ids)) < 0, self.unknown, rows)

    def unknown_attributes(self, names: Sequence[str]) -> list[str]:
        """Returns those of the names of attributes that are not in the tables.

        Raises:
            BadInputFormatError: A name is no text.
        """
        return [name for name, place in zip(names, _places(names, self._names), strict=True) if place < 0]

    def vectors(self, rows: Ints, attributes: Mapping[int, Sequence[str]] | None = None) -> tuple[Floats, Floats]:
        """Returns vectors ``(n, features)`` and biases ``(n,)``.

        Args:
            rows: ``(n,)``.
            attributes: Of items that the tables do not know, by their place in ``rows``.

        Raises:
            BadInputFormatError: An attribute is no text.
        """
        arrays = self._arrays
        own = _floats(arrays["item_vectors"], arrays["item_scales"], rows)
        described = self._described(np.asarray(arrays["item_attributes"][rows], np.int64))
        for place, names in (attributes or {}).items():
            numbers = _places(list(names), self._names)
            described[place] = self._described(numbers[numbers >= 0][None] + 1)[0]
        return np.concatenate([own, described], 1), np.asarray(arrays["item_bias"][rows], np.float32)

    def _described(self, numbers: Ints) -> Floats:
        """Returns the mean vector of each item's attributes, given their numbers ``(n, K)`` from 1, 0 for none."""
        given = numbers > 0
        table, scales = self._arrays["attribute_vectors"], self._arrays["attribute_scales"]
        vectors = np.asarray(table, np.float32) * np.asarray(scales, np.float32)[:, None]
        total = np.zeros((len(numbers), table.shape[1]), np.float32)
        for column in range(numbers.shape[1]):
            total += vectors[numbers[:, column]] * given[:, column, None]
        means: Floats = total / np.maximum(given.sum(1, keepdims=True), 1).astype(np.float32)
        return means


def open_tables(bundle: Bundle, rows: Rows) -> ItemTables:
    """Reads the tables of a bundle. They are not mapped: whoever writes over their files must not change or end this.

    Raises:
        BundleFormatError: A table is missing, or has another type or size.
        BundleIntegrityError: The file of a table was replaced since the bundle was opened.
    """
    if rows.tables.keys() != _FORMS.keys():
        raise BundleFormatError(
            f"tables of {bundle.manifest.identity}", expected=", ".join(_FORMS), actual=", ".join(rows.tables)
        )
    arrays = {name: _read(bundle, rows.tables[name], form) for name, form in _FORMS.items()}
    items, names = len(arrays["items"]) + 2, len(arrays["attributes"]) + 1
    for name in _FORMS:
        expected = {"items": items - 2, "attributes": names - 1}.get(name, items if name.startswith("item") else names)
        if len(arrays[name]) != expected:
            raise BundleFormatError(f"table {name}", expected=f"{expected} rows", actual=len(arrays[name]))
    if arrays["item_attributes"].size and int(arrays["item_attributes"].max()) >= names:
        raise BundleFormatError("table item_attributes", expected=f"numbers below {names}")
    return ItemTables(arrays)


def write_tables(folder: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    """Writes float tables into a bundle's folder, the vectors as INT8.

    Args:
        arrays: ``items``, ``item_vectors``, ``item_bias``, ``item_attributes``, ``attributes`` and
            ``attribute_vectors``; vectors are float.

    Returns:
        The path of each table in the bundle.
    """
    stored = dict(arrays)
    for name in ("item", "attribute"):
        stored[f"{name}_vectors"], stored[f"{name}_scales"] = quantize_rows(arrays[f"{name}_vectors"])
    (folder / FOLDER).mkdir(exist_ok=True)
    paths = {}
    for name, form in _FORMS.items():
        paths[name] = f"{FOLDER}/{name}.npy"
        array = stored[name] if form.kind == "S" else stored[name].astype(form.kind)
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
        write_atomic(folder / paths[name], buffer.getvalue())
    return paths


def quantize_rows(vectors: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Returns rows as INT8 and the scale of each: symmetric, by its largest magnitude."""
    largest = np.abs(vectors).max(1) / _LIMIT
    scales = np.nextafter(largest.astype(np.float16), np.float16(np.inf))  # never rounded down: nothing is clipped
    safe = np.maximum(scales.astype(np.float32), np.finfo(np.float32).tiny)
    return np.rint(vectors / safe[:, None]).astype(np.int8), scales


def encode_ids(ids: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Returns ids as sorted bytes; they must be sorted by their bytes."""
    return np.array([each.encode() for each in ids] or [b""], "S")[: len(ids)]


def _floats(table: npt.NDArray[Any], scales: npt.NDArray[Any], rows: Ints) -> Floats:
    found: Floats = table[rows].astype(np.float32) * scales[rows].astype(np.float32)[:, None]
    return found


def is_id(name: str) -> bool:
    """Whether a text can be the id of an item or attribute: 1 to `ID_MAX_BYTES` bytes of UTF-8 without NUL."""
    try:
        return 1 <= len(name.encode()) <= ID_MAX_BYTES and "\0" not in name
    except UnicodeEncodeError:
        return False


def _places(ids: Sequence[str], known: npt.NDArray[Any]) -> Ints:
    """Returns the place of each id among the sorted known ones; -1 where it is not among them."""
    encoded = [_encoded(each) for each in ids]
    if not len(known) or not len(ids):
        return np.full(len(ids), -1, np.int64)
    wanted = np.array(encoded)
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[places] == wanted, places, -1).astype(np.int64)


def _encoded(name: str) -> bytes:
    """Returns an id in UTF-8; empty, which is no id, for one that no table can hold."""
    try:
        encoded = name.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise BadInputFormatError(
            "an id is no text", expected="UTF-8", actual=f"{type(name).__name__} {name!r}"[:80], action="Give texts."
        ) from error
    return encoded if is_id(name) else b""


def _read(bundle: Bundle, relative: str, form: _Form) -> npt.NDArray[Any]:
    path = bundle.file(relative)
    data = path.read_bytes()
    entry = bundle.manifest.files[relative]
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleIntegrityError(f"{path} was replaced", expected=f"sha256 {entry.sha256}")
    try:
        array: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False, max_header_size=10_000)
    except (ValueError, EOFError) as error:
        raise BundleFormatError(f"{path} is not an array: {error}") from error
    if array.ndim != form.ndim or (array.dtype.kind + str(array.dtype.itemsize) != form.kind and form.kind != "S"):
        raise BundleFormatError(f"{path}", expected=f"{form.ndim} dimensions of {form.kind}", actual=str(array.dtype))
    if form.kind == "S" and (array.dtype.kind != "S" or array.dtype.itemsize > ID_MAX_BYTES):
        raise BundleFormatError(f"{path}", expected=f"ids of at most {ID_MAX_BYTES} bytes", actual=str(array.dtype))
    return array
