"""Images of good and bad parts with optional masks, to evaluate anomaly models.

- a folder a class, ``<class>/[Imgs/]x.jpg``, one of them good; a ``x.png`` beside ``x.jpg`` is a mask. magnetic-tile.
- ``<fold>/<class>/x.png``, with masks in ``ground_truth/<class>/x_mask.png``. MVTec AD.

A class is good whose folder is called ``good``, ``ok``, ``free``, ``normal`` or ``clean``, also with something before
it, such as ``MT_Free``, but no word that denies it, as in ``not_ok``; or as a classifier's class of good parts
(`names_good_part`). A ``folds.csv`` divides the first layout.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.datasets.base import ALL, check_level, choose, folders_in, images_in, read_pixels, unknown_fold
from lineside_models.verdict.good_classes import names_good_part
from lineside_runtime.errors import DatasetError, InputNotFoundError

_GOOD = re.compile(r"(.*[_\- ])?(good|ok|free|normal|clean)", re.IGNORECASE)
_DENIALS = frozenset({"ab", "n", "never", "no", "non", "not", "un"})
_MASKS = "ground_truth"
_LEVEL = 127


@dataclasses.dataclass(frozen=True, slots=True)
class PartImage:
    """One image of a part.

    Attributes:
        kind: Name of its class.
        mask: File of its mask, where there is one: the defect is what lies above 127.
    """

    path: Path
    kind: str
    good: bool
    mask: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PartImageDataset:
    """The images of one fold.

    Attributes:
        images: In the order of their paths.
    """

    name: str
    images: tuple[PartImage, ...]


def holds_good_parts(name: str) -> bool:
    """Returns whether a folder's name says that it holds good parts."""
    plain = _GOOD.fullmatch(name) is not None and _DENIALS.isdisjoint(re.split(r"[_\- ]", name.lower()))
    return plain or names_good_part(name)


def has_good(root: Path) -> bool:
    """Returns whether the folder is laid out in classes, one of them good."""
    return any(holds_good_parts(one.name) for one in (*folders_in(root), *_inner(root)))


def load_part_images(root: Path, fold: str = ALL) -> PartImageDataset:
    """Reads which images show good parts, and which bad ones.

    Args:
        root: The data set's folder.
        fold: Name of a fold, or ``all``.

    Raises:
        InputNotFoundError: There is no such folder.
        DatasetError: No class is good, there is no such fold, or an image is missing.
    """
    if not root.is_dir():
        raise InputNotFoundError(f"no data folder at {root}", action="Give the folder that holds the classes' folders.")
    if any(holds_good_parts(one.name) for one in folders_in(root)):
        everything = [image for one in folders_in(root) for image in _photos(one)]
        chosen = choose(root, fold, everything, root)
        parts = [_part(image, image.relative_to(root).parts[0], _beside(image)) for image in chosen]
    else:
        parts = _divided(root, fold)
    missing = [part.path for part in parts if not part.path.is_file()]
    if missing:
        raise DatasetError(f"the image {missing[0]} is missing", action="Copy the whole data set again.")
    if not any(part.good for part in parts):
        raise DatasetError(
            f"{root} shows no good part in fold {fold!r}",
            expected="a folder called good, ok, free, normal or clean",
            actual=", ".join(sorted({part.kind for part in parts})[:10]) or "no images",
        )
    return PartImageDataset(root.name, tuple(parts))


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Reads a mask ``(H, W)``: where the defect is.

    Raises:
        DatasetError: It can't be read, or has values above 0 and none that shows a defect.
    """
    mask = read_pixels(path, cv2.IMREAD_GRAYSCALE)
    check_level(path, mask, _LEVEL)
    return np.asarray(mask > _LEVEL)


def _divided(root: Path, fold: str) -> list[PartImage]:
    folds = {one.name: one for one in folders_in(root) if one.name != _MASKS}
    if fold != ALL and fold not in folds:
        raise unknown_fold(root, fold, set(folds))
    return [
        _part(image, kind.name, root / _MASKS / kind.name / f"{image.stem}_mask.png")
        for name, one in sorted(folds.items())
        if fold in (ALL, name)
        for kind in folders_in(one)
        for image in images_in(kind)
    ]


def _part(image: Path, kind: str, mask: Path) -> PartImage:
    good = holds_good_parts(kind)
    return PartImage(image, kind, good, mask if not good and mask.is_file() and mask != image else None)


def _beside(image: Path) -> Path:
    return image.with_suffix(".png")


def _photos(folder: Path) -> list[Path]:
    """Returns the images of a class: in its folder or one below; not the masks beside them."""
    found = [image for one in (folder, *folders_in(folder)) for image in images_in(one)]
    others = {image for image in found if image.suffix.lower() != ".png"}
    return sorted(image for image in found if image in others or not {image.with_suffix(".jpg")} & others)


def _inner(root: Path) -> list[Path]:
    return [inner for one in folders_in(root) if one.name != _MASKS for inner in folders_in(one)]
