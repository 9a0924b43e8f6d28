"""Images with masks: which pixels show which type.

- ``pairs``: ``images/x.jpg`` by ``masks/x.png``. With the names in ``classes.txt`` a pixel of value k shows the k-th of
  them, and 0 nothing; without it every pixel above 127 shows a ``defect``.
- ``class folders``: ``<class>/[Imgs/]x.jpg`` beside ``x.png``, as magnetic-tile has them: pixels above 127 show the
  folder's class. Where a ``boxes.csv`` names the images' classes, those names are taken. Folders whose masks are all
  empty are good parts and no class; an empty mask in another folder shows a defect of which nobody knows the place, and
  its image is left out.

A mask of another size than its image, or one whose values are all too dark to show anything, is refused.

``folds.csv`` divides both; its paths start at ``images/`` or at the data set's folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.datasets.base import (
    Dataset,
    Sample,
    check_level,
    choose,
    images_in,
    log,
    not_empty,
    open_rows,
    read_class_names,
    read_pixels,
    sample_of,
    size_in_file,
)
from lineside_runtime.errors import DatasetError, InputNotFoundError
from lineside_runtime.wording import counted

DEFECT = "defect"
PIECE_MIN_PX = 12
"""Smaller pieces of a mask are specks of the annotator's brush."""

_LEVEL = 127


@dataclasses.dataclass(frozen=True, slots=True)
class MaskDataset:
    """The images of one fold.

    Attributes:
        labels: The types; in a mask the k-th, counted from 0, has the value k + 1.
        samples: In the order of their paths; ``labels`` are the types that the mask shows, and there are no boxes.
        masks: The mask's file of every image.
        level: Pixels above it show the sample's only type; ``None`` where they hold the types' numbers.
    """

    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    masks: dict[Path, Path]
    level: int | None

    def mask_of(self, sample: Sample) -> npt.NDArray[np.uint8]:
        """Reads a sample's mask ``(H, W) uint8``: 0 for nothing, k + 1 for the k-th label.

        Raises:
            DatasetError: The file is no mask, or shows a type without a name.
        """
        mask = _read(self.masks[sample.path], self.level)
        if self.level is None:
            return mask
        number = int(sample.labels[0]) + 1 if len(sample.labels) else 0
        return np.where(mask > self.level, number, 0).astype(np.uint8)

    def mask_for(self, sample: Sample, labels: Sequence[str]) -> npt.NDArray[np.uint8]:
        """Reads a sample's mask as a model numbers the types: k + 1 for the k-th of its ``labels``.

        Raises:
            DatasetError: As for `mask_of`; or the model doesn't know one of the data set's types.
        """
        unknown = sorted(set(self.labels) - set(labels))
        if unknown:
            raise DatasetError(
                f"the masks beside {sample.path.name}",
                expected=f"only types of {', '.join(labels)}",
                actual=", ".join(unknown),
                action="Give data of the model's own types.",
            )
        own = np.array([0, *(list(labels).index(name) + 1 for name in self.labels)], np.uint8)
        return np.asarray(own[self.mask_of(sample)])


def is_one(root: Path) -> bool:
    """Returns whether a folder holds images with masks."""
    return is_pairs(root) or bool(_photos(root))


def is_pairs(root: Path) -> bool:
    """Returns whether a folder holds ``images`` by ``masks``."""
    return (root / "images").is_dir() and (root / "masks").is_dir()


def load_masks(root: Path, fold: str) -> MaskDataset:
    """Reads images, masks and the types in each mask.

    Args:
        root: The data set's folder.
        fold: Name of a fold, or ``all``; in a folder without ``folds.csv`` every fold is everything.

    Raises:
        InputNotFoundError: There is no such folder.
        DatasetError: The layout or the fold isn't known, or a mask is damaged or missing.
    """
    if not root.is_dir():
        raise InputNotFoundError(f"no data folder at {root}", action="Give the folder that holds the images.")
    return _pairs(root, fold) if is_pairs(root) else _class_folders(root, fold)


def read(root: Path, fold: str) -> Dataset:
    """Reads one fold of ``pairs`` as boxes: one around each connected piece of a type of at least 12 pixels."""
    return boxes_of(load_masks(root, fold))


def boxes_of(found: MaskDataset) -> Dataset:
    """Reads every mask: its images with one box around each connected piece of a type of at least 12 pixels.

    An image whose mask shows smaller pieces alone is no good part, and is left out with a warning.

    Raises:
        DatasetError: A mask is damaged.
    """
    samples = []
    for sample in found.samples:
        pieces = _pieces(found.mask_of(sample))
        if pieces or not len(sample.labels):
            samples.append(sample_of(sample.path, [box for _, box in pieces], [label for label, _ in pieces]))
    if specks := len(found.samples) - len(samples):
        log.warning("%s left out: their masks show pieces of less than 12 pixels alone", counted(specks, "image"))
    return Dataset("masks", found.labels, tuple(samples), found.labels)


def _pieces(mask: npt.NDArray[np.uint8]) -> list[tuple[int, tuple[float, ...]]]:
    found: list[tuple[int, tuple[float, ...]]] = []
    for value in np.unique(mask[mask > 0]).tolist():
        _, _, facts, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
        for left, top, width, height, area in facts[1:].tolist():
            if area >= PIECE_MIN_PX:
                found.append((value - 1, (left, top, left + width, top + height)))
    return found


def _pairs(root: Path, fold: str) -> MaskDataset:
    names_file = root / "classes.txt"
    named = names_file.is_file()
    labels = read_class_names(names_file) if named else (DEFECT,)
    masks = {image: root / "masks" / f"{image.stem}.png" for image in images_in(root / "images")}
    chosen = choose(root, fold, not_empty(sorted(masks), root), root / "images")
    samples = []
    for image in chosen:
        mask = _read_for(image, masks.get(image, root / "masks" / f"{image.stem}.png"), None if named else _LEVEL)
        shown = (
            sorted(int(value) - 1 for value in np.unique(mask) if value) if named else [0] * bool((mask > _LEVEL).any())
        )
        if shown and shown[-1] >= len(labels):
            raise DatasetError(
                f"{masks[image]} shows the type {shown[-1] + 1}", expected=f"at most {len(labels)}, as in classes.txt"
            )
        samples.append(sample_of(image, [], shown))
    return MaskDataset(labels, tuple(samples), masks, None if named else _LEVEL)


def _class_folders(root: Path, fold: str) -> MaskDataset:
    masks = {image: image.with_suffix(".png") for image in _photos(root)}
    if not masks:
        raise DatasetError(
            f"{root} holds no images with masks",
            expected="images/x.jpg by masks/x.png, or <class>/x.jpg beside <class>/x.png",
            action="Give the data set's own top folder.",
        )
    shows = {image: bool((_read_for(image, mask, _LEVEL) > _LEVEL).any()) for image, mask in masks.items()}
    named = _names(root)
    class_of = {image.relative_to(root).parts[0]: "" for image, shown in shows.items() if shown}
    for folder in class_of:
        class_of[folder] = next((name for path, name in named.items() if path.parts[0] == folder), folder)
    labels = tuple(sorted(set(class_of.values())))
    samples, unplaced = [], 0
    for image in choose(root, fold, sorted(masks), root):
        name = class_of.get(image.relative_to(root).parts[0])
        if name is not None and image in shows and not shows[image]:
            unplaced += 1
            continue
        samples.append(sample_of(image, [], [labels.index(name)] if name is not None and image in shows else []))
    if unplaced:
        log.warning("%s: %s left out: empty masks in folders of defects", root, counted(unplaced, "image"))
    return MaskDataset(labels, tuple(samples), masks, _LEVEL)


def _photos(root: Path) -> list[Path]:
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    inner = [one for folder in folders for one in (folder, *sorted(e for e in folder.iterdir() if e.is_dir()))]
    photos = [image for one in inner for image in images_in(one) if image.suffix.lower() != ".png"]
    return [image for image in photos if image.with_suffix(".png").is_file()]


def _names(root: Path) -> dict[Path, str]:
    table = root / "boxes.csv"
    if not table.is_file():
        return {}
    with open_rows(table) as rows:
        return {Path(row["image"]): row["class"] for row in rows if row.get("image") and row.get("class")}


def _read_for(image: Path, path: Path, level: int | None) -> npt.NDArray[np.uint8]:
    """Reads the mask of an image, whose size it must have."""
    mask, size = _read(path, level), size_in_file(image)
    if size not in (None, mask.shape[::-1]):
        raise DatasetError(f"{path} has another size than {image.name}", expected=size, actual=mask.shape[::-1])
    return mask


def _read(path: Path, level: int | None) -> npt.NDArray[np.uint8]:
    mask = read_pixels(path, cv2.IMREAD_UNCHANGED)
    flat = np.asarray(mask if mask.ndim == 2 else mask[..., :3].max(2), np.uint8)
    if level is not None:
        check_level(path, flat, level)
    return flat
