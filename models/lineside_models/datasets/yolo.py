"""YOLO: ``images/[<fold>/]*.jpg`` beside ``labels/[<fold>/]*.txt``, lines ``class cx cy w h`` in shares of the image.

A sixth word is a detector's confidence and is not used. Lines ``class x1 y1 x2 y2 x3 y3 …`` are outlines, of which the
enclosing box is taken. Where ``data.yaml`` has a ``kpt_shape``, keypoints follow the box and are not used.

The names stand in ``data.yaml`` (or any other ``.yaml`` of the folder) or in ``classes.txt``.
Sources of the formats: https://docs.ultralytics.com/datasets/detect/, …/segment/ and …/pose/
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2

from lineside_models.datasets.base import (
    ALL,
    Dataset,
    Sample,
    annotation_bytes,
    check_box,
    choose,
    images_in,
    not_empty,
    read_pixels,
    sample_of,
    unknown_fold,
)
from lineside_runtime.errors import DatasetError, MissingExtraError


def is_one(root: Path) -> bool:
    """Returns whether the folder has this layout."""
    return (root / "images").is_dir() and (root / "labels").is_dir()


def read(root: Path, fold: str) -> Dataset:
    """Reads one fold; an image without a label file shows nothing, as the format says.

    Raises:
        MissingExtraError: The names stand in a ``.yaml`` file, and PyYAML is not installed.
    """
    names, has_keypoints = _names(root)
    samples = tuple(_sample(image, root, names, has_keypoints) for image in _images(root, fold))
    return Dataset("yolo", names, samples, names)


def _images(root: Path, fold: str) -> list[Path]:
    folder = root / "images"
    folds = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if not folds:
        return choose(root, fold, images_in(folder), folder)
    if fold != ALL and fold not in {one.name for one in folds}:
        raise unknown_fold(folder, fold, {one.name for one in folds})
    return not_empty([image for one in folds if fold in (ALL, one.name) for image in images_in(one)], root)


def _names(root: Path) -> tuple[tuple[str, ...], bool]:
    """Returns the names of the classes, and whether keypoints follow the boxes."""
    plain = next((path for path in (root / "classes.txt", root / "labels" / "classes.txt") if path.is_file()), None)
    if plain is not None:
        return tuple(line.strip() for line in annotation_bytes(plain).decode().splitlines() if line.strip()), False
    described = sorted((*root.glob("*.yaml"), *root.glob("*.yml")))
    content = _yaml(described[0]) if described else {}
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(
            f"{root} doesn't say its classes", expected="names in data.yaml, or classes.txt", actual=names
        )
    return tuple(str(name) for name in names), bool(content.get("kpt_shape"))


def _yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(f"{path} needs PyYAML", action="Run pip install 'lineside[convert]'.") from error
    try:
        content = yaml.safe_load(annotation_bytes(path))
    except yaml.YAMLError as error:
        raise DatasetError(f"{path} is not YAML", actual=str(error)) from error
    return content if isinstance(content, dict) else {}


def _sample(image: Path, root: Path, names: tuple[str, ...], has_keypoints: bool) -> Sample:
    relative = image.relative_to(root / "images").with_suffix(".txt")
    annotation = root / "labels" / relative
    if not annotation.is_file():
        return sample_of(image, [], [])
    lines = [(number, line) for number, line in enumerate(annotation_bytes(annotation).splitlines(), 1) if line.strip()]
    if not lines:
        return sample_of(image, [], [])
    height, width = read_pixels(image, cv2.IMREAD_GRAYSCALE).shape  # as training sees it, turned by its EXIF data
    boxes, labels = [], []
    for number, line in lines:
        where = f"{annotation}: line {number}"
        try:
            label, numbers = int(line.split()[0]), [float(word) for word in line.split()[1:]]
            x1, y1, x2, y2 = _enclosing(numbers[:4] if has_keypoints else numbers)
        except (ValueError, IndexError) as error:
            expected = "'class cx cy w h', or 'class x1 y1 x2 y2 x3 y3 …' of three points or more"
            raise DatasetError(where, expected=expected, actual=line.decode(errors="replace")[:200]) from error
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        if not 0 <= label < len(names):
            raise DatasetError(where, expected=f"a class below {len(names)}", actual=label)
        boxes.append(check_box(box, where, (width, height)))
        labels.append(label)
    return sample_of(image, boxes, labels)


def _enclosing(numbers: list[float]) -> tuple[float, float, float, float]:
    """Returns ``x1, y1, x2, y2`` of a box with or without confidence, or around an outline; ValueError if neither."""
    if len(numbers) in (4, 5):
        cx, cy, w, h = numbers[:4]
        return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers")
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
