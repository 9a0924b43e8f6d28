"""COCO's detection file, as annotation tools read and write it.

Source of the format: https://cocodataset.org/#format-data. Boxes are ``[x, y, width, height]`` in pixels from 0. The
model's boxes have a ``score``, as in COCO's result files; some tools drop it.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgspec

from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import DatasetError, InputNotFoundError

FILE_MAX_BYTES = 1 << 30


class Image(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One image.

    Attributes:
        file_name: Its path, relative to the folder of the images.
        width: In pixels.
        height: In pixels.
        date_captured: ISO 8601, UTC.
        bundle: ``name@version``.
        bundle_sha256: Digest of that bundle's manifest.
        note: Note of the person who marked the verdict as wrong.
    """

    id: int
    file_name: str
    width: int = 0
    height: int = 0
    date_captured: str = ""
    device: str = ""
    part_id: str = ""
    bundle: str = ""
    bundle_sha256: str = ""
    verdict: str = ""
    note: str = ""


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """One type."""

    id: int
    name: str
    supercategory: str | None = "defect"


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """One box.

    Attributes:
        bbox: ``x, y, width, height`` in pixels.
        area: Of the box, in square pixels.
        iscrowd: 1 for a group of objects; never for a defect.
        score: 0 to 1; 1 for a box of a person.
    """

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    area: float = 0.0
    iscrowd: int = 0
    score: float | None = 1.0


class File(msgspec.Struct, frozen=True, kw_only=True):
    """The file; other fields that tools write are ignored."""

    images: tuple[Image, ...]
    annotations: tuple[Annotation, ...]
    categories: tuple[Category, ...]
    info: dict[str, Any] = {}
    licenses: tuple[dict[str, Any], ...] = ()


def categories(labels: tuple[str, ...]) -> tuple[Category, ...]:
    """Returns a category for each type; ids start at 1, as in COCO."""
    return tuple(Category(id=number, name=name) for number, name in enumerate(labels, 1))


def annotation(number: int, image_id: int, category_id: int, *, box: tuple[float, ...], score: float) -> Annotation:
    """Returns the annotation of a box ``x1, y1, x2, y2``."""
    x1, y1, x2, y2 = (round(side, 2) for side in box)
    bbox = (x1, y1, round(x2 - x1, 2), round(y2 - y1, 2))
    area = round(bbox[2] * bbox[3], 2)
    return Annotation(
        id=number, image_id=image_id, category_id=category_id, bbox=bbox, area=area, score=round(score, 4)
    )


def utc(at_ns: int) -> str:
    """Returns a Unix time in ns as ISO 8601."""
    at = datetime.datetime.fromtimestamp(at_ns / 1e9, datetime.timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(file: File) -> bytes:
    """Returns the file as JSON with a line for each image, annotation and category."""
    parts = [f'"info": {_line(file.info)}', f'"licenses": {_line(file.licenses)}']
    for name in ("categories", "images", "annotations"):
        rows = ",\n  ".join(_line(row) for row in getattr(file, name))
        parts.append(f'"{name}": [\n  {rows}\n ]' if rows else f'"{name}": []')
    return ("{\n " + ",\n ".join(parts) + "\n}\n").encode()


def _line(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def read(path: Path) -> File:
    """Reads a file."""
    try:
        if path.stat().st_size > FILE_MAX_BYTES:
            raise DatasetError(f"{path} is too large", expected=f"at most {FILE_MAX_BYTES} bytes")
        return decode_json(path.read_bytes(), type=File)
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="Give the corrected COCO file.") from error
    except msgspec.DecodeError as error:
        action = "Export from the annotation tool as COCO, for detection."
        raise DatasetError(f"{path} is no COCO file: {error}", action=action) from error
