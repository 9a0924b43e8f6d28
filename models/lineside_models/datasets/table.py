"""``boxes.csv``: one row a box, for images in any folders.

Its columns are ``image``, ``class``, ``x1``, ``y1``, ``x2``, ``y2``; paths start at the data set's folder, x2 and y2
are exclusive. ``folds.csv`` lists the images, with their folds. Without it the images are all that lie in the folders
of those with boxes, but PNG files with a photo's name, which are masks.

An image without a row shows nothing. But where ``folds.csv`` has a column ``class`` and names one for it that has boxes
elsewhere, it shows something of which nobody knows the place, and is left out.
"""

from __future__ import annotations

import csv
from pathlib import Path

from lineside_models.datasets.base import (
    Dataset,
    Size,
    check_box,
    choose,
    images_in,
    inside,
    log,
    open_rows,
    read_folds,
    read_text,
    sample_of,
    size_in_file,
)
from lineside_runtime.errors import DatasetError

TABLE = "boxes.csv"
FILE_MAX_BYTES = 64 << 20
_SIDES = ("x1", "y1", "x2", "y2")
_Boxes = dict[Path, list[tuple[str, tuple[float, ...]]]]


def is_one(root: Path) -> bool:
    """Returns whether the folder has this layout."""
    return (root / TABLE).is_file()


def read(root: Path, fold: str) -> Dataset:
    """Reads one fold."""
    boxes = _read(root)
    names = tuple(sorted({name for found in boxes.values() for name, _ in found}))
    folds = root / "folds.csv"
    everything = [root / name for name in read_folds(folds)] if folds.is_file() else _beside(boxes)
    unplaced = _unplaced(folds, boxes, root)
    chosen = [image for image in choose(root, fold, sorted(everything), root) if image not in unplaced]
    if unplaced:
        log.warning("%s: %d images show a type but have no box, and are left out", root, len(unplaced))
    samples = tuple(
        sample_of(image, [box for _, box in found], [names.index(name) for name, _ in found])
        for image, found in ((image, boxes.get(image, [])) for image in chosen)
    )
    return Dataset("boxes", names, samples, names)


def _read(root: Path) -> _Boxes:
    path = root / TABLE
    found: _Boxes = {}
    sizes: dict[Path, Size | None] = {}
    rows = csv.DictReader(read_text(path, FILE_MAX_BYTES).splitlines(), skipinitialspace=True)
    missing = {"image", "class", *_SIDES} - set(rows.fieldnames or ())
    if missing:
        raise DatasetError(f"{path}: line 1", expected=f"the columns {sorted(missing)}", actual=rows.fieldnames)
    for row in rows:
        where = f"{path}: line {rows.line_num}"
        try:
            box = tuple(float(row[side]) for side in _SIDES)
        except (TypeError, ValueError) as error:
            raise DatasetError(where, expected="numbers x1, y1, x2, y2", actual=row) from error
        name = (row["class"] or "").strip()
        if not row["image"] or not name or not inside(row["image"]):
            raise DatasetError(where, expected="an image below the folder and its class", actual=row)
        image = root / row["image"].strip()
        if image not in sizes:
            sizes[image] = size_in_file(image)
        found.setdefault(image, []).append((name, check_box(box, where, sizes[image])))
        if not image.is_file():
            action = "Give paths below the data set's folder, with / between folders."
            raise DatasetError(f"{where}: the image {image} is missing", action=action)
    if not found:
        raise DatasetError(f"{path} has no box", action="Give the data set's own top folder.")
    return found


def _beside(boxes: _Boxes) -> list[Path]:
    found = [image for folder in sorted({image.parent for image in boxes}) for image in images_in(folder)]
    photos = {image.with_suffix("") for image in found if image.suffix.lower() != ".png"}
    return [image for image in found if image.suffix.lower() != ".png" or image.with_suffix("") not in photos]


def _unplaced(folds: Path, boxes: _Boxes, root: Path) -> set[Path]:
    if not folds.is_file():
        return set()
    with open_rows(folds) as rows:
        class_of = {root / row["image"].strip(): row.get("class") for row in rows if row.get("image")}
    placed = {class_of.get(image) for image in boxes} - {None}
    return {image for image, name in class_of.items() if name in placed and image not in boxes}
