"""Data sets of annotated documents.

A data set is a folder with ``annotations.jsonl``, one document a line::

    {"file": "a.txt", "fold": "train", "group": "acme", "entities": [{"type": "party", "start": 120, "end": 131}],
     "relations": [{"type": "alias_of", "head": 0, "tail": 1}]}

``file`` is relative to the folder, and offsets count characters of its text. CUAD and Kleister NDA are read as they are
published (`lineside_models.nlp.document_sets.public_data`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from lineside_models.nlp.document_sets import public_data
from lineside_models.nlp.document_sets.annotations import AnnotatedDocument, AnnotatedRelation, AnnotatedSpan, Values
from lineside_models.nlp.normalization.values import value_key
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import DatasetError, InputNotFoundError

ANNOTATIONS = "annotations.jsonl"
TEXT_MAX = 20_000_000
"""Bytes of a document."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    file: str
    entities: tuple[AnnotatedSpan, ...]
    relations: tuple[AnnotatedRelation, ...] = ()
    fold: str = "train"
    group: str = ""


def load_documents(folder: Path, fold: str) -> tuple[AnnotatedDocument, ...]:
    """Reads one fold of an annotated data set.

    Raises:
        InputNotFoundError: There is no such folder.
        DatasetError: It is of no known layout, or damaged.
    """
    if not folder.is_dir():
        raise InputNotFoundError(f"{folder} is not a folder", action=f"Give a folder with {ANNOTATIONS}.")
    if (folder / public_data.CUAD_TABLE).is_file():
        return public_data.load_cuad(folder, fold)
    if (folder / public_data.KLEISTER_TEXTS).is_file():
        return public_data.load_kleister(folder)
    if not (folder / ANNOTATIONS).is_file():
        raise DatasetError(
            f"{folder} holds no annotated documents", expected=ANNOTATIONS, action="See the guide on documents."
        )
    lines = (folder / ANNOTATIONS).read_bytes().splitlines()
    found = [_document(folder, line, number) for number, line in enumerate(lines, 1) if line.strip()]
    return tuple(document for own_fold, document in found if own_fold == fold)


def _document(folder: Path, line: bytes, number: int) -> tuple[str, AnnotatedDocument]:
    where = f"{folder / ANNOTATIONS}, line {number}"
    try:
        row = decode_json(line, type=_Line)
    except msgspec.DecodeError as error:
        raise DatasetError(f"{where}: {error}") from error
    path = (folder / row.file).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise DatasetError(f"{where}: no file {row.file!r} in the folder")
    text = _plain_text(path)
    for span in row.entities:
        if not 0 <= span.start < span.end <= len(text):
            raise DatasetError(
                f"{where}: offsets", expected=f"within 0 to {len(text)}", actual=f"{span.start}-{span.end}"
            )
    values: Values = {}
    keys = [value_key(span.type, text[span.start : span.end]) for span in row.entities]
    for span, key in zip(row.entities, keys, strict=True):
        values.setdefault(span.type, set()).add(key)
    for relation in row.relations:
        if not (0 <= relation.head < len(keys) and 0 <= relation.tail < len(keys)):
            raise DatasetError(
                f"{where}: relation {relation.type!r}",
                expected=f"head and tail from 0 to {len(keys) - 1}, as indices of entities" if keys else "entities",
                actual=f"head {relation.head}, tail {relation.tail}",
                action=f"Correct this line of {ANNOTATIONS}.",
            )
    pairs = {(one.type, keys[one.head], keys[one.tail]) for one in row.relations}
    document = AnnotatedDocument(
        name=row.file, text=text, group=row.group or row.file, spans=row.entities, values=values, pairs=pairs
    )
    return row.fold, document


def _plain_text(path: Path) -> str:
    if path.stat().st_size > TEXT_MAX:
        raise DatasetError(f"{path} is too large", expected=f"at most {TEXT_MAX} bytes")
    return path.read_text(encoding="utf-8", errors="replace")
