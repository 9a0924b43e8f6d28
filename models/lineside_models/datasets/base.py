"""Samples and folds, which every layout of annotated images is read into."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.image_file import decode_image, image_size
from lineside_models.labels import LABELS
from lineside_runtime.errors import DatasetError
from lineside_runtime.wording import counted

ALL = "all"
"""The fold that means every annotated image."""

T = TypeVar("T")

ANNOTATION_MAX_BYTES = 1 << 20
BEYOND_MAX_PX = 1.0
"""How far a box may reach beyond its image, and is clipped: tools for annotation round, or count from 0 or 1."""

HEAD_BYTES = 1 << 16
Size = tuple[int, int]
"""Width and height in pixels."""

ENDINGS = (".jpg", ".png", ".bmp", ".jpeg", ".webp", ".tif", ".tiff")
_GROUPS = ("group", "part")
log = logging.getLogger("lineside.datasets")


def evenly_spread(items: Sequence[T], most: int | None) -> list[T]:
    """Returns at most so many items at equal steps, in their order; all for ``None``."""
    count = len(items) if most is None else max(0, min(most, len(items)))
    return [items[number * len(items) // count] for number in range(count)]


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One annotated image.

    Attributes:
        boxes: ``(N, 4) float32``, ``x1, y1, x2, y2`` in pixels, x2 and y2 exclusive; ``(0, 4)`` where the whole image
            has one type.
        labels: ``(N,) int64``, indices into the data set's vocabulary; one where the whole image has one type.
        part_id: The file's name without its ending.
        reference: The image of a good part that it is compared with, where that was asked for.
    """

    path: Path
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    part_id: str
    reference: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Dataset:
    """The samples of one fold of one folder.

    Attributes:
        name: Of the layout, such as ``neu-det`` or ``coco``; not the folder's name.
        labels: The types that this data set annotates; a model's other types cannot be judged on it.
        samples: In the order of their paths.
        vocabulary: What the samples' labels are indices into.
        boxed: Whether types stand at boxes; else at whole images.
        numbered: Whether the labels are the numbers of a model's outputs, as in ImageNet's lists, whatever their names.
    """

    name: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    vocabulary: tuple[str, ...] = LABELS
    boxed: bool = True
    numbered: bool = False


def choose(root: Path, fold: str, everything: list[Path], folder: Path) -> list[Path]:
    """Returns the images of ``fold``, in the order of their paths.

    Args:
        root: Where ``folds.csv`` lies.
        fold: Its name, or ``all``.
        folder: What the paths in ``folds.csv`` are relative to.

    Raises:
        DatasetError: There is no image, no such fold, or the table is damaged.
    """
    table = root / "folds.csv"
    if fold == ALL:
        return not_empty(everything, root)
    if not table.is_file():
        log.warning("%s has no folds.csv: fold %r is taken as all %d images", root, fold, len(everything))
        return not_empty(everything, root)
    fold_of = read_folds(table)
    _warn_of_divided_parts(table, fold_of)
    if fold not in fold_of.values():
        raise unknown_fold(table, fold, set(fold_of.values()))
    return sorted(folder / name for name, its_fold in fold_of.items() if its_fold == fold)


def unknown_fold(where: Path, fold: str, known: set[str]) -> DatasetError:
    """Returns the error that names the folds there are."""
    return DatasetError(
        f"{where} has no fold {fold!r}",
        expected=" or ".join(sorted({*known, ALL})),
        actual=fold,
        action="Name one of the folds there are.",
    )


def not_empty(images: list[Path], root: Path) -> list[Path]:
    """Returns the images.

    Raises:
        DatasetError: There is none.
    """
    if not images:
        raise DatasetError(f"{root} has no annotated image", action="Give the data set's own top folder.")
    return images


@contextlib.contextmanager
def open_rows(table: Path) -> Iterator[csv.DictReader[str]]:
    """Opens a CSV file; the rows are read within the block. Blanks after a comma are no part of a value.

    Raises:
        DatasetError: It is no CSV file in UTF-8.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            yield csv.DictReader(file, skipinitialspace=True)
    except (UnicodeDecodeError, csv.Error) as error:
        action = "Save it again as CSV UTF-8, with commas."
        raise DatasetError(f"{table}: {error}", expected="a CSV file in UTF-8", action=action) from error


def read_folds(table: Path) -> dict[str, str]:
    """Reads ``folds.csv``: the fold of each image's path; blanks around both and a leading ``./`` are left out.

    Raises:
        DatasetError: A column is missing, a row is damaged, or two folds list one image.
    """
    with open_rows(table) as rows:
        missing = {"image", "fold"} - set(rows.fieldnames or ())
        if missing:
            raise DatasetError(
                f"{table}: line 1", expected="the columns image and fold", actual=", ".join(rows.fieldnames or ())
            )
        fold_of: dict[str, str] = {}
        for row in rows:
            image, fold = _path_in(row["image"]), (row["fold"] or "").strip()
            if not image or not fold or not inside(image):
                raise DatasetError(f"{table}: line {rows.line_num}", expected="an image and its fold", actual=row)
            if fold_of.setdefault(image, fold) != fold:
                raise shared_image(f"{table}: line {rows.line_num}", image, f"{fold_of[image]} and {fold}")
    return fold_of


def _path_in(cell: str | None) -> str:
    return PurePosixPath(cell.strip()).as_posix() if cell and cell.strip() else ""


def shared_image(where: str, image: str, folds: str) -> DatasetError:
    """Returns the error that names an image of two folds."""
    return DatasetError(
        f"{where}: the image {image} is in two folds",
        expected="each image in one fold",
        actual=folds,
        action="Take it out of one of them: a model is not to be judged on what it has learned from.",
    )


def parts_in(table: Path) -> dict[str, str]:
    """Reads the part of each image's path from ``folds.csv``; none without a table, or without such a column."""
    if not table.is_file():
        return {}
    with open_rows(table) as rows:
        names = rows.fieldnames or ()
        name = next((n for n in names if n in _GROUPS or n.endswith("_group")), None)
        if name is None:
            return {}
        return {_path_in(row["image"]): (row[name] or "").strip() for row in rows if row.get("image")}


def _warn_of_divided_parts(table: Path, fold_of: dict[str, str]) -> None:
    folds: dict[str, set[str]] = {}
    for image, part in parts_in(table).items():
        if part and image in fold_of:
            folds.setdefault(part, set()).add(fold_of[image])
    divided = [part for part, its_folds in folds.items() if len(its_folds) > 1]
    if divided:
        log.warning(
            "%s: the images of %s are in more than one fold, such as those of %s in %s: figures on them are too good",
            table,
            counted(len(divided), "part"),
            divided[0],
            " and ".join(sorted(folds[divided[0]])),
        )


def inside(relative: str) -> bool:
    """Returns whether a path from an annotation stays below the folder that it is relative to."""
    return not Path(relative).is_absolute() and ".." not in Path(relative).parts


def sample_of(image: Path, boxes: Sequence[tuple[float, ...]], labels: Sequence[int]) -> Sample:
    """Returns a sample.

    Raises:
        DatasetError: The image is missing.
    """
    if not image.is_file():
        raise DatasetError(f"the image {image} is missing", action="Copy the whole data set again.")
    return Sample(
        path=image,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        part_id=image.stem,
    )


def check_box(
    box: tuple[float, ...], where: str, size: Size | None, stated: Size | None = None
) -> tuple[float, float, float, float]:
    """Returns the box, clipped to its image if it reaches beyond it by `BEYOND_MAX_PX` at most.

    Args:
        size: Of the image's file; ``None`` if it is not known: then the box is not bounded on the right and below.
        stated: The image's size by the annotation, which the error names if it is another.

    Raises:
        DatasetError: It is empty, turned round, or outside of the image.
    """
    x1, y1, x2, y2 = box
    width, height = size or (np.inf, np.inf)
    inner = (max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height))
    beyond = max(abs(one - other) for one, other in zip(inner, box, strict=True))
    if (
        x1 < x2 < np.inf
        and y1 < y2 < np.inf
        and inner[0] < inner[2]
        and inner[1] < inner[3]
        and beyond <= BEYOND_MAX_PX
    ):
        return inner
    if size is None or not (x1 < x2 and y1 < y2):
        raise DatasetError(where, expected="a box 0 <= x1 < x2, 0 <= y1 < y2 in pixels", actual=box)
    states = f"; the annotation states an image of {_named(stated)}" if stated not in (None, size) else ""
    raise DatasetError(
        f"{where}: the box lies outside of its image",
        expected=f"a box within {_named(size)} pixels",
        actual=f"{box}{states}",
        action="Annotate the images as they are, or scale the boxes to their size.",
    )


def size_in_file(image: Path) -> Size | None:
    """Returns the size at which an image is read; ``None`` if the file is missing or its head names no size.

    Only a file that can be turned by its EXIF data is decoded.

    Raises:
        DatasetError: Such a file cannot be decoded.
    """
    try:
        with image.open("rb") as file:
            head = file.read(HEAD_BYTES)
            size = image_size(head) or image_size(head + file.read())
    except OSError:
        return None
    turns = head[:4] in (b"II*\0", b"MM\0*") or any(mark in head for mark in (b"Exif\0\0", b"eXIf"))
    turns |= head[12:16] == b"VP8X" and bool(head[20] & 8)  # WebP has its EXIF data at the end
    if size is None or not turns:
        return size
    height, width = read_pixels(image, cv2.IMREAD_GRAYSCALE).shape
    return width, height


def warn_of_sizes(root: Path, differing: Sequence[tuple[Path, Size, Size]]) -> None:
    """Warns of annotations that state another size than their image's file has.

    Args:
        differing: Image, stated size, size of the file.
    """
    if differing:
        image, stated, size = differing[0]
        log.warning(
            "%s: the annotations of %s state another size than the file has, such as %s: %s, the file %s; "
            "their boxes may lie elsewhere: annotate the images as they are, or scale the boxes",
            root,
            counted(len(differing), "image"),
            image.name,
            _named(stated),
            _named(size),
        )


def warn_of_alike_types(root: Path, labels: Sequence[str]) -> None:
    """Warns of types whose names differ in case, blanks, hyphens and underscores alone: a model learns them apart."""
    alike: dict[str, list[str]] = {}
    for name in labels:
        alike.setdefault(re.sub(r"[\s_-]+", " ", name).strip().casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            log.warning("%s: %s are different types; give them one name if they are one", root, " and ".join(names))


def _named(size: Size | None) -> str:
    return "an unknown size" if size is None else f"{size[0]} × {size[1]}"


def annotation_bytes(path: Path, most: int = ANNOTATION_MAX_BYTES) -> bytes:
    """Reads an annotation file of bounded size.

    Raises:
        DatasetError: It is too large or can't be read.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise DatasetError(f"{path} is too large", expected=f"{most} bytes at most", actual=size)
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"the annotation {path} cannot be read", actual=error.strerror) from error


def read_class_names(path: Path) -> tuple[str, ...]:
    """Returns the lines of ``classes.txt``, which number the classes.

    Raises:
        DatasetError: It isn't in UTF-8, has an empty line between names, which would shift the numbers, names a class
            twice, or none.
    """
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    for number, name in enumerate(names or [""]):
        if not name or name in names[:number]:
            raise DatasetError(f"{path}: line {number + 1}", expected="a class of its own in each line", actual=name)
    return tuple(names)


def read_text(path: Path, most: int = ANNOTATION_MAX_BYTES) -> str:
    """Reads a text file of bounded size, without a byte order mark.

    Raises:
        DatasetError: It is too large, can't be read, or isn't in UTF-8.
    """
    try:
        return annotation_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        action = "Save it again as UTF-8."
        raise DatasetError(f"{path}: {error}", expected="a text file in UTF-8", action=action) from error


def image_beside(folder: Path, stem: str) -> Path:
    """Returns the image of this name with any ending; a path that does not exist if there is none."""
    candidates = [folder / f"{stem}{ending}" for ending in (*ENDINGS, *(ending.upper() for ending in ENDINGS))]
    return next((path for path in candidates if path.is_file()), candidates[0])


def images_in(folder: Path) -> list[Path]:
    """Returns the images that lie directly in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())


def folders_in(folder: Path) -> list[Path]:
    """Returns the folders that lie directly in a folder, sorted, without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def read_pixels(path: Path, how: int) -> npt.NDArray[np.uint8]:
    """Decodes an image or mask.

    Args:
        how: One of OpenCV's ``IMREAD_…``.

    Raises:
        DatasetError: It is not there, or no image that can be read.
    """
    try:
        return np.asarray(decode_image(path.read_bytes(), how=how), np.uint8)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be decoded: {error}",
            expected="a JPEG or PNG image",
            action="Copy the whole data set again.",
        ) from error


def check_level(path: Path, mask: npt.NDArray[np.uint8], level: int) -> None:
    """Refuses a mask that is not empty, and yet shows nothing: its part would be taken for a good one.

    Raises:
        DatasetError: It has values above 0, and none above ``level``.
    """
    brightest = int(mask.max(initial=0))
    if 0 < brightest <= level:
        raise DatasetError(
            f"{path} shows nothing: its values are 0 to {brightest}",
            expected=f"values above {level} where a defect is, such as 255",
            actual=brightest,
            action="Write 255; or, where values are the numbers of types, name these in classes.txt beside images and "
            "masks.",
        )
