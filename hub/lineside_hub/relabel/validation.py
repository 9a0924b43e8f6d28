"""Validate a corrected annotation file against its images and types before anything is written.

Annotation tools change image names (prefix, folder), ids and the order of the types. The sha256 within an image's name
and the names of the types are preserved.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from lineside_hub.relabel.catalogue import Catalogue
from lineside_hub.relabel.coco import Annotation, File
from lineside_hub.relabel.selection import ExportedImage
from lineside_runtime.errors import DatasetError

BEYOND_PX = 1.0
"""A box that exceeds its image by no more is cut, because tools round; by more it is refused."""

SIDE_MIN_PX = 1.0

_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

PersonBox = tuple[str, float, float, float, float]
"""``type, x1, y1, x2, y2`` of a person, in pixels of the frame, x2 and y2 exclusive."""


class CorrectedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One corrected image.

    Attributes:
        boxes: Boxes of the person, sorted, without duplicates; none for a good part.
    """

    known: ExportedImage
    boxes: tuple[PersonBox, ...]
    repeated: int = 0


def frames_of(file: File) -> list[str]:
    """Returns the sha256 of each image of the file."""
    return [_frame(image.file_name, f"images[{number}]") for number, image in enumerate(file.images)]


def check(file: File, catalogue: Catalogue, *, new_types: Sequence[str] = ()) -> list[CorrectedImage]:
    """Checks a corrected file; returns the images in the file's order.

    Args:
        new_types: Further types that people may have used.
    """
    _unique((image.id for image in file.images), "image")
    _unique((annotation.id for annotation in file.annotations), "annotation")
    _unique((category.id for category in file.categories), "category")
    frames = frames_of(file)
    _unique(frames, "image of the name")
    known = [_known(file, number, catalogue.by_name().get(name)) for number, name in enumerate(frames)]
    type_of = _types(file, (*catalogue.labels, *new_types))
    boxes: dict[int, list[PersonBox]] = {image.id: [] for image in file.images}
    image_of = {image.id: each for image, each in zip(file.images, known, strict=True)}
    for number, annotation in enumerate(file.annotations):
        where = f"annotations[{number}] (id {annotation.id})"
        if annotation.image_id not in image_of:
            raise DatasetError(f"{where}: image_id", expected="an image of the file", actual=annotation.image_id)
        if annotation.category_id not in type_of:
            raise DatasetError(f"{where}: category_id", expected="one of the file", actual=annotation.category_id)
        box = _box(annotation, image_of[annotation.image_id], where)
        boxes[annotation.image_id].append((type_of[annotation.category_id], *box))
    return [_corrected(image_of[image.id], boxes[image.id]) for image in file.images]


def _frame(file_name: str, where: str) -> str:
    found = _SHA256.findall(file_name.lower())
    if not found:
        action = "Give the tool the exported images under their own names."
        raise DatasetError(
            f"{where}: file_name", expected="a name with the image's sha256", actual=file_name, action=action
        )
    return str(found[-1])


def _known(file: File, number: int, known: ExportedImage | None) -> ExportedImage:
    image = file.images[number]
    where = f"images[{number}] {image.file_name}"
    if known is None:
        action = "Import each file with the folder, or into the hub, that it was exported from."
        raise DatasetError(f"{where} was not exported from here", actual=image.file_name, action=action)
    if (image.width, image.height) not in ((0, 0), (known.width, known.height)):
        raise DatasetError(
            f"{where} has another size, so its boxes are on another scale",
            expected=f"{known.width}x{known.height}",
            actual=f"{image.width}x{image.height}",
            action="Let the tool keep the images' own size.",
        )
    return known


def _types(file: File, allowed: Sequence[str]) -> Mapping[int, str]:
    """Returns the type of each category id; unused categories may have any name."""
    used = {annotation.category_id for annotation in file.annotations}
    for category in file.categories:
        if category.id in used and category.name not in allowed:
            raise DatasetError(
                f"category {category.name!r} is not known",
                expected=", ".join(allowed),
                actual=category.name,
                action="Correct its name; if it is a new type, give --new-type.",
            )
    return {category.id: category.name for category in file.categories}


def _box(annotation: Annotation, known: ExportedImage, where: str) -> tuple[float, float, float, float]:
    if annotation.bbox is None or annotation.iscrowd:
        raise DatasetError(f"{where} on {known.sha256[:12]}", expected="a box, and no crowd", actual="none")
    x, y, width, height = annotation.bbox
    right, bottom = x + width, y + height
    outside = max(-x, -y, right - known.width, bottom - known.height)
    # A NaN must fail this comparison.
    if not (outside <= BEYOND_PX and width >= SIDE_MIN_PX and height >= SIDE_MIN_PX):
        raise DatasetError(
            f"{where}: the box of part {known.part_id!r} is empty or outside its image",
            expected=f"x, y, width, height within {known.width}x{known.height} pixels, sides from {SIDE_MIN_PX:g}",
            actual=list(annotation.bbox),
        )
    cut = (max(0.0, x), max(0.0, y), min(float(known.width), right), min(float(known.height), bottom))
    return (round(cut[0], 2), round(cut[1], 2), round(cut[2], 2), round(cut[3], 2))


def _corrected(known: ExportedImage, boxes: list[PersonBox]) -> CorrectedImage:
    once = tuple(sorted(set(boxes)))
    return CorrectedImage(known=known, boxes=once, repeated=len(boxes) - len(once))


def _unique(values: Iterable[object], what: str) -> None:
    twice = [str(value) for value, count in collections.Counter(values).items() if count > 1]
    if twice:
        raise DatasetError(
            f"{what} {twice[0]} is there {'twice' if len(twice) == 1 else 'twice, and others too'}",
            expected="each once",
            actual=", ".join(twice[:5]),
        )
