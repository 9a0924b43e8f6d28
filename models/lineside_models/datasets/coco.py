"""COCO: one JSON file for all images.

It is ``annotations/instances_<fold>.json``, or ``<fold>/_annotations.coco.json`` among the fold's images.

Source of the format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from lineside_models.datasets.base import (
    ALL,
    Dataset,
    Size,
    annotation_bytes,
    check_box,
    choose,
    inside,
    log,
    not_empty,
    sample_of,
    shared_image,
    size_in_file,
    unknown_fold,
    warn_of_sizes,
)
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import DatasetError
from lineside_runtime.wording import counted

FILE_MAX_BYTES = 1 << 30
_PREFIX = "instances_"
_ROBOFLOW = "_annotations.coco.json"


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None

    @property
    def stated(self) -> Size | None:
        return (self.width, self.height) if self.width and self.height else None


class _Images(msgspec.Struct):
    images: list[_Image]


class _Category(msgspec.Struct):
    id: int
    name: str

    def __post_init__(self) -> None:
        self.name = self.name.strip()


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    iscrowd: int = 0


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def files_of(root: Path) -> dict[str, Path]:
    """Returns the annotation files by the name of their fold; empty if this is no such layout."""
    found = {path.stem.removeprefix(_PREFIX): path for path in sorted((root / "annotations").glob("*.json"))}
    found |= {path.parent.name: path for path in sorted(root.glob(f"*/{_ROBOFLOW}"))}
    return found or ({ALL: root / _ROBOFLOW} if (root / _ROBOFLOW).is_file() else {})


def read(root: Path, fold: str) -> Dataset:
    """Reads one fold; ``train`` finds ``instances_train2017.json`` too. Crowds are left out, as the set's own tools do.

    An image that shows crowds alone is no good part, and is left out with a warning.
    Where a ``folds.csv`` lies beside one JSON file for all, it divides the images; its paths start at ``root``.
    """
    files = files_of(root)
    chosen = [path for name, path in files.items() if fold in (ALL, name) or name.rstrip("0123456789") == fold]
    divided = not chosen and (root / "folds.csv").is_file()
    if divided:
        chosen = list(files.values())
    if not chosen:
        raise unknown_fold(root, fold, set(files))
    parsed = {path: _parse(path) for path in chosen}
    _check_shared(root, files, parsed)
    names = tuple(dict.fromkeys(one.name for each in parsed.values() for one in each.categories))
    samples = [sample for path, each in parsed.items() for sample in _samples(root, path, each, names)]
    not_empty([sample[0] for sample in samples], root)
    if divided:
        wanted = set(choose(root, fold, [sample[0] for sample in samples], root))
        samples = [sample for sample in samples if sample[0] in wanted]
    return Dataset("coco", names, tuple(sample_of(*sample) for sample in sorted(samples)), names)


def _check_shared(root: Path, files: dict[str, Path], chosen: dict[Path, _File]) -> None:
    """Refuses images that another fold lists, too; files of other kinds, such as COCO's keypoints, are no folds."""
    kind = {path.name.startswith(_PREFIX) for path in chosen}
    others = [path for path in files.values() if path.name.startswith(_PREFIX) in kind]
    first: dict[str, list[Path]] = {}
    for path in sorted(others):
        for name in dict.fromkeys(image.file_name for image in _images(path, chosen)):
            first.setdefault(name, []).append(path)
    for name, listing in first.items():
        placed = {_place(root, path, name): path for path in reversed(listing)} if len(listing) > 1 else {}
        if len(placed) < len(listing) and placed and any(path in chosen for path in listing):
            raise shared_image(str(root), name, " and ".join(path.name for path in listing))


def _images(path: Path, chosen: dict[Path, _File]) -> list[_Image]:
    if path in chosen:
        return chosen[path].images
    try:
        return decode_json(annotation_bytes(path, FILE_MAX_BYTES), type=_Images).images
    except msgspec.DecodeError:  # it is refused where it is chosen
        return []


def _parse(path: Path) -> _File:
    try:
        return decode_json(annotation_bytes(path, FILE_MAX_BYTES), type=_File)
    except msgspec.DecodeError as error:
        raise DatasetError(f"{path} is no COCO file: {error}", action="Give COCO's instances file.") from error


def _samples(
    root: Path, path: Path, content: _File, names: tuple[str, ...]
) -> list[tuple[Path, list[tuple[float, ...]], list[int]]]:
    label_of = {one.id: names.index(one.name) for one in content.categories}
    images = {image.id: image for image in content.images}
    places = {image.id: _place(root, path, image.file_name) for image in content.images}
    boxed = {one.image_id for one in content.annotations}
    sizes = {number: size_in_file(place) for number, place in places.items() if number in boxed}
    differing = [
        (places[number], stated, size)
        for number, size in sizes.items()
        if size is not None and (stated := images[number].stated) is not None and stated != size
    ]
    _check_numbers(path, content, places)
    boxes: dict[int, list[tuple[float, ...]]] = {number: [] for number in images}
    labels: dict[int, list[int]] = {number: [] for number in images}
    for number, one in enumerate(content.annotations):
        where = f"{path}: annotations[{number}]"
        if one.image_id not in images or one.category_id not in label_of:
            raise DatasetError(where, expected="an image and a category of the file", actual=msgspec.to_builtins(one))
        if one.bbox is None:
            action = "Export with boxes (bbox): without one the image would be taken for a good part."
            raise DatasetError(f"{where} has no bbox", expected="x, y, width, height", actual=None, action=action)
        if not one.iscrowd:
            x, y, width, height = one.bbox
            box, image = (x, y, x + width, y + height), images[one.image_id]
            boxes[image.id].append(check_box(box, f"{where} of {image.file_name}", sizes[image.id], image.stated))
            labels[image.id].append(label_of[one.category_id])
    warn_of_sizes(root, differing)
    unplaced = {one.image_id for one in content.annotations if not boxes[one.image_id]}
    if unplaced:
        log.warning("%s: %s left out, with crowds (iscrowd) and no box", path, counted(len(unplaced), "image"))
    kept = [image for image in content.images if image.id not in unplaced]
    return [(places[image.id], boxes[image.id], labels[image.id]) for image in kept]


def _check_numbers(path: Path, content: _File, places: dict[int, Path]) -> None:
    """Refuses numbers and files that are there twice: annotations would be counted to another image or type."""
    for what, numbers in (
        ("image id", [str(one.id) for one in content.images]),
        ("category id", [str(one.id) for one in content.categories]),
        ("image", [str(places[one.id]) for one in content.images]),
    ):
        if len(set(numbers)) < len(numbers):
            twice = next(one for one in numbers if numbers.count(one) > 1)
            action = "Number images and categories anew where files are joined, and list each image once."
            raise DatasetError(f"{path}: the {what} {twice} is there twice", expected="it once", action=action)


def _place(root: Path, path: Path, file_name: str) -> Path:
    if not inside(file_name):
        raise DatasetError(f"{path}: file_name", expected="a path below the data set's folder", actual=file_name)
    fold = path.stem.removeprefix(_PREFIX)
    folders = (path.parent, root / fold, root / "images" / fold, root / "images", root)
    return next((folder / file_name for folder in folders if (folder / file_name).is_file()), folders[-1] / file_name)
