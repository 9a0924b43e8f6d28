"""Images of one class each: a folder for each class, or a list of images with class numbers.

- ``folders``: ``<class>/*.jpg``, or ``<fold>/<class>/*.jpg`` as ImageNet's own tools lay it out; ``folds.csv`` may
  divide the first.
- ``list``: ``dataset.txt``, ``val.txt`` or ``labels.txt`` with lines ``path, number`` or ``path number``; or
  ``labels.csv`` with the columns ``image`` and ``class_index``. The numbers are those of a model's outputs.
"""

from __future__ import annotations

import re
from pathlib import Path

from lineside_models.datasets.base import (
    ALL,
    Dataset,
    choose,
    folders_in,
    images_in,
    inside,
    not_empty,
    open_rows,
    read_text,
    sample_of,
    unknown_fold,
)
from lineside_runtime.errors import DatasetError

LISTS = ("dataset.txt", "val.txt", "labels.txt")
TABLE = "labels.csv"
_FOLDS = {"train", "val", "valid", "test"}
LIST_MAX_BYTES = 64 << 20
_LINE = re.compile(r"(?P<path>.+?)(?:\s*,\s*|\s+)(?P<number>\d+)\s*")


def list_of(root: Path) -> Path | None:
    """Returns the path of the list; ``None`` if there is none."""
    return next((root / name for name in (*LISTS, TABLE) if (root / name).is_file()), None)


def read_list(root: Path, fold: str) -> Dataset:
    """Reads a list; its folds are those of ``folds.csv``.

    Raises:
        DatasetError: A line is damaged, an image is missing, or the fold isn't known.
    """
    path = list_of(root) or root / LISTS[0]
    rows = _read_table(path) if path.name == TABLE else _read_lines(path)
    image_folder = root if all((root / name).is_file() for name, _ in rows[:1]) else root / "images"
    number_of: dict[Path, int] = {}
    for name, number in rows:
        if number_of.setdefault(image_folder / name, number) != number:
            numbers = f"{number_of[image_folder / name]} and {number}"
            raise DatasetError(f"{path}: {name} is listed twice", expected="one class an image", actual=numbers)
    images = _known(choose(root, fold, list(number_of), root), set(number_of), path.name)
    highest = max(number_of.values(), default=-1)
    vocabulary = tuple(str(number) for number in range(highest + 1))
    samples = tuple(sample_of(image, [], [number_of[image]]) for image in images)
    shown = tuple(str(number) for number in sorted(set(number_of.values())))
    return Dataset("list", shown, samples, vocabulary, boxed=False, numbered=True)


def _known(images: list[Path], known: set[Path], where: str) -> list[Path]:
    """Returns the images of a fold.

    Raises:
        DatasetError: ``folds.csv`` lists one that has no class.
    """
    if lost := [image for image in images if image not in known]:
        raise DatasetError(
            f"folds.csv lists {lost[0]}, which {'has no class' if lost[0].is_file() else 'is missing'}",
            expected=f"an image of {where}",
            action="Correct its path in folds.csv, or delete its line.",
        )
    return images


def _read_lines(path: Path) -> list[tuple[str, int]]:
    rows = []
    for number, line in enumerate(read_text(path, LIST_MAX_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        if found is None or not inside(found["path"]):
            raise DatasetError(f"{path}: line {number}", expected="'path, number'", actual=line[:200])
        rows.append((found["path"].strip(), int(found["number"])))
    return rows


def _read_table(path: Path) -> list[tuple[str, int]]:
    rows = []
    with open_rows(path) as table:
        for row in table:
            image, number = row.get("image") or "", row.get("class_index") or ""
            if not image or not inside(image) or not number.isdigit():
                raise DatasetError(f"{path}", expected="the columns image and class_index", actual=dict(row))
            rows.append((image, int(number)))
    return rows


def has_folders(root: Path) -> bool:
    """Returns whether the folder holds folders of images, or folds of them."""
    below = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return any(images_in(one) for one in below) or any(
        images_in(inner) for one in below for inner in one.iterdir() if inner.is_dir()
    )


def folds_of(root: Path) -> tuple[str, ...]:
    """Returns the names of fold folders, as in ``<fold>/<class>/*.jpg``; none in other layouts."""
    top = folders_in(root)
    if list_of(root) or any(images_in(one) for one in top):
        return ()
    return tuple(one.name for one in top)


def read_folders(root: Path, fold: str) -> Dataset:
    """Reads a folder for each class.

    Raises:
        DatasetError: There is no image, or no such fold.
    """
    top = folders_in(root)
    if not any(images_in(one) for one in top):
        return _read_divided(root, top, fold)
    names = tuple(one.name for one in top)
    class_of = {image: number for number, one in enumerate(top) for image in images_in(one)}
    images = _known(choose(root, fold, sorted(class_of), root), set(class_of), "a folder of a class")
    _refuse_nested(top)
    return _dataset(names, {image: class_of[image] for image in images})


def _refuse_nested(classes: list[Path]) -> None:
    """Refuses a class without images whose folder has folders of images: nothing would be learned of it."""
    for one in classes:
        below = () if images_in(one) else [inner for inner in folders_in(one) if images_in(inner)]
        if below:
            raise DatasetError(
                f"{one} has no image, but {below[0].relative_to(one.parent)} has",
                expected="the images of a class directly in its folder",
                action="Move the images one folder up; or make each of the inner folders a class of its own.",
            )


def _read_divided(root: Path, folds: list[Path], fold: str) -> Dataset:
    names = tuple(sorted({one.name for each in folds for one in folders_in(each)}))
    if fold != ALL and fold not in {one.name for one in folds}:
        raise unknown_fold(root, fold, {one.name for one in folds})
    taken = [one for one in folds if fold in (ALL, one.name)]
    if len(names) == 1 and len(folds) > 1 and {one.name for one in folds}.isdisjoint(_FOLDS):
        raise DatasetError(
            f"all images of {root} lie in folders called {names[0]}",
            expected="<class>/x.jpg, or <fold>/<class>/x.jpg with folds called train, val or test",
            actual=f"{folds[0].name}/{names[0]}",
            action="Move the images one folder up.",
        )
    _refuse_nested([one for each in taken for one in folders_in(each)])
    images = {image: names.index(one.name) for each in taken for one in folders_in(each) for image in images_in(one)}
    return _dataset(names, {image: images[image] for image in not_empty(sorted(images), root)})


def _dataset(names: tuple[str, ...], class_of: dict[Path, int]) -> Dataset:
    samples = tuple(sample_of(image, [], [number]) for image, number in class_of.items())
    return Dataset("folders", names, samples, names, boxed=False)
