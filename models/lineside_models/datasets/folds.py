"""Folds of a dataset, images that show one part, and division into folds by part."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from lineside_models.datasets import classes, coco, deeppcb, masks, table, voc, yolo
from lineside_models.datasets.base import ALL, Sample, parts_in, read_folds
from lineside_runtime.errors import DatasetError

FOLDS = "folds.csv"
_BOARDS = {"deeppcb": r"group([^/]*)"}
"""Layouts whose folders name the part; a board of DeepPCB was photographed in many places."""

_PAIR = re.compile(r"_(test|temp)$")  # a board and its defect-free template


def folds_of(root: Path) -> tuple[str, ...]:
    """Returns the names of a folder's folds, sorted; none without folds.

    Raises:
        DatasetError: ``folds.csv`` is damaged.
    """
    if (root / FOLDS).is_file():
        return tuple(sorted(set(read_folds(root / FOLDS).values())))
    if coco.files_of(root):
        return tuple(sorted(coco.files_of(root)))
    lists = root / "ImageSets" / "Main"
    if voc.folders_of(root):
        return tuple(sorted(path.stem for path in lists.glob("*.txt")))
    if yolo.is_one(root):
        return tuple(sorted(yolo.fold_folders(root)))
    return classes.folds_of(root)


def check_fold(root: Path, fold: str) -> None:
    """Refuses a fold of a folder without folds.

    Raises:
        DatasetError: The folder has no folds, and another than ``all`` is named.
    """
    if fold != ALL and root.is_dir() and not folds_of(root):
        raise DatasetError(
            f"{root} has no folds, so that there is no fold {fold!r}",
            expected=ALL,
            actual=fold,
            action=f"Take fold {ALL!r}, or divide the folder by a {FOLDS} with the columns image and fold; "
            "`lineside train` writes one into its --out as folds-<folder>.csv.",
        )


def has_fold(root: Path, fold: str) -> bool:
    """Returns whether the folder has a fold of this name; ``train2017`` counts as ``train``."""
    return any(name == fold or name.rstrip("0123456789") == fold for name in folds_of(root))


def base_of(root: Path) -> Path:
    """Returns the folder that the paths in ``folds.csv`` start at."""
    if not table.is_one(root) and (boards := deeppcb.folder_of(root)) is not None:
        return boards
    if table.is_one(root) or coco.files_of(root):
        return root
    found = voc.folders_of(root)
    if found:
        return found[1]
    return root / "images" if (root / "images").is_dir() and (yolo.is_one(root) or masks.is_pairs(root)) else root


def groups_of(root: Path, pattern: str = "") -> Callable[[Sample], str]:
    """Returns a function that names the part of an image.

    Args:
        root: The data set's folder.
        pattern: A regular expression on the image's path below `base_of`; its first group, or all that it matched, is
            the part. Empty: the column ``group`` or ``part`` of ``folds.csv``, or one that ends in ``_group``; without
            such a column the file's name.

    Raises:
        DatasetError: The pattern is no regular expression.
    """
    base = base_of(root)
    if pattern:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise DatasetError(
                f"group {pattern!r} is not usable",
                expected="a regular expression",
                actual=error,
                action="Give another pattern.",
            ) from error
        return lambda sample: _matched(compiled, _below(sample.path, base))
    column = parts_in(root / FOLDS)

    def group_of(sample: Sample) -> str:
        listed = column.get(_below(sample.path, base)) or column.get(sample.path.name)  # `relabel import` lists names
        return listed or _PAIR.sub("", sample.part_id)

    return group_of


def parts_of(root: Path, layout: str) -> Callable[[Sample], str]:
    """Returns a function that names the part of an image: the board in DeepPCB's layout, else as `groups_of`.

    Args:
        root: The data set's folder.
        layout: Its name, from ``load_dataset``.
    """
    return groups_of(root, _BOARDS.get(layout, ""))


def divide(samples: Iterable[Sample], group_of: Callable[[Sample], str], *, share: float, seed: int) -> set[Path]:
    """Draws about a share of the images, stratified by type; images of one part stay together.

    The order is by a hash of the part's name and the seed, so that a new image moves no other across much.

    Returns:
        The paths that were drawn.
    """
    parts: dict[str, list[Sample]] = {}
    for sample in samples:
        parts.setdefault(group_of(sample), []).append(sample)

    def order(part: str) -> tuple[int, str]:
        first = next((int(s.labels[0]) for s in parts[part] if len(s.labels)), -1)
        return first, hashlib.sha256(f"{seed} {part}".encode()).hexdigest()

    every = max(2, round(1 / share))
    chosen = [part for number, part in enumerate(sorted(parts, key=order)) if number % every == every // 2]
    return {sample.path for part in chosen for sample in parts[part]}


def in_fold(samples: Iterable[Sample], root: Path, table: Path, fold: str) -> tuple[Sample, ...]:
    """Returns the samples of a folder that a table beside another folder, written by `folds_csv`, counts to a fold.

    Raises:
        DatasetError: The table is damaged.
    """
    fold_of, base = read_folds(table), base_of(root)
    return tuple(sample for sample in samples if fold_of.get(_below(sample.path, base)) == fold)


def divides(table: Path, root: Path) -> bool:
    """Returns whether most images that a table of folds lists are in this folder: some may have been deleted since.

    Raises:
        DatasetError: The table is damaged.
    """
    base, names = base_of(root), read_folds(table)
    return 2 * sum((base / name).is_file() for name in names) > len(names)


def folds_csv(
    samples: Sequence[Sample], fold_of: Mapping[Path, str], root: Path, group_of: Callable[[Sample], str]
) -> str:
    """Returns a ``folds.csv`` that divides a folder by ``fold_of``."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["image", "group", "fold"])
    base = base_of(root)
    for sample in samples:
        rows.writerow([_below(sample.path, base), group_of(sample), fold_of[sample.path]])
    return out.getvalue()


def _below(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def _matched(pattern: re.Pattern[str], name: str) -> str:
    found = pattern.search(name)
    if found is None:
        raise DatasetError(
            f"the group of {name} isn't known", expected=f"a path that matches {pattern.pattern}", actual=name
        )
    return found[1] if pattern.groups else found[0]
