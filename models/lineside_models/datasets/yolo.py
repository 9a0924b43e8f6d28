"""YOLO: ``images/[<fold>/]*.jpg`` beside ``labels/[<fold>/]*.txt``, lines ``class cx cy w h`` in shares of the image.

Roboflow's exports have ``<fold>/images/*.jpg`` beside ``<fold>/labels/*.txt``. A ``folds.csv`` comes before folders.

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
    folders_in,
    images_in,
    not_empty,
    read_class_names,
    read_pixels,
    sample_of,
    unknown_fold,
)
from lineside_runtime.errors import DatasetError, MissingExtraError

CLASSES = "classes.txt"


def is_one(root: Path) -> bool:
    """Returns whether the folder has this layout."""
    return (root / "labels").is_dir() if (root / "images").is_dir() else bool(fold_folders(root))


def fold_folders(root: Path) -> dict[str, Path]:
    """Returns the folder of the images of each fold; empty if no folders divide them."""
    if (root / "images").is_dir():
        return {one.name: one for one in folders_in(root / "images")}
    return {
        one.name: one / "images" for one in folders_in(root) if all((one / i).is_dir() for i in ("images", "labels"))
    }


def read(root: Path, fold: str) -> Dataset:
    """Reads one fold; an image without a label file shows nothing, as the format says.

    Raises:
        MissingExtraError: The names stand in a ``.yaml`` file, and PyYAML is not installed.
    """
    names, has_keypoints = _names(root)
    samples = tuple(_sample(image, root, names, has_keypoints) for image in _images(root, fold))
    return Dataset("yolo", names, samples, names)


def _images(root: Path, fold: str) -> list[Path]:
    folder, folders = root / "images", fold_folders(root)
    direct = images_in(folder) if folder.is_dir() else []
    images_of = {name: images_in(one) for name, one in folders.items()}
    everything = sorted([*direct, *(image for images in images_of.values() for image in images)])
    _check_labels(root, folders, {_label_file(image, root) for image in everything})
    if not folders or (root / "folds.csv").is_file():
        return choose(root, fold, everything, folder if folder.is_dir() else root)
    if direct:
        where = f"{direct[0]} is in no fold"
        raise DatasetError(where, expected=f"in one of {', '.join(folders)}", action="Move it into a fold's folder.")
    if fold != ALL and fold not in folders:
        raise unknown_fold(folder, fold, set(folders))
    return not_empty([image for name in folders if fold in (ALL, name) for image in images_of[name]], root)


def _label_file(image: Path, root: Path) -> Path:
    if image.is_relative_to(root / "images"):
        return root / "labels" / image.relative_to(root / "images").with_suffix(".txt")
    return image.parent.parent / "labels" / f"{image.stem}.txt"


def _check_labels(root: Path, folders: dict[str, Path], known: set[Path]) -> None:
    """Refuses boxes of an image that isn't there: its name may differ, and the image would be taken for a good part."""
    places = {root / "labels", *(one.parent / "labels" for one in folders.values())}
    for text in sorted(text for place in places if place.is_dir() for text in place.rglob("*.txt")):
        if text not in known and text.name != CLASSES and annotation_bytes(text).strip():
            raise DatasetError(
                f"the image of {text} is missing",
                expected="an image of the same name, in the same folder below images",
                action="Name and place both alike, or delete the text file.",
            )


def _names(root: Path) -> tuple[tuple[str, ...], bool]:
    """Returns the names of the classes, and whether keypoints follow the boxes."""
    plain = next((path for path in (root / CLASSES, root / "labels" / CLASSES) if path.is_file()), None)
    listed = () if plain is None else read_class_names(plain)
    described = sorted((*root.glob("*.yaml"), *root.glob("*.yml")))
    content = _yaml(described[0]) if described else {}
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        names = list(listed)
    if not names:
        raise DatasetError(
            f"{root} doesn't say its classes",
            expected="names in data.yaml, or classes.txt",
            actual=content.get("names"),
        )
    stated = tuple(str(name).strip() for name in names)
    if listed and listed != stated:
        raise DatasetError(
            f"{plain} names other classes than {described[0].name}",
            expected=", ".join(stated),
            actual=", ".join(listed),
            action="Delete the one that the label files do not follow.",
        )
    return stated, bool(content.get("kpt_shape"))


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
    annotation = _label_file(image, root)
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
