"""Split a dataset's images into those to train on and a held-out share.

Of a data set with a train fold only that fold is used. Of one without folds a share is drawn as its val fold,
by the seed and by part, and written down; nothing of the training ever looks at it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from lineside_converters.training.data.samples import hold_out
from lineside_converters.training.settings import TrainingSettings
from lineside_models.datasets import ALL, Dataset, Sample, load_dataset
from lineside_models.datasets.base import log as data_log
from lineside_models.datasets.folds import divide, folds_csv, folds_of, groups_of, has_fold
from lineside_runtime.errors import DatasetError, InputNotFoundError
from lineside_runtime.files import write_atomic
from lineside_runtime.wording import counted

log = logging.getLogger("lineside.training")
_IS_FOLD = re.compile(r"train.*|val|valid|validation|test", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class DividedDataset:
    """Data set, divided.

    Attributes:
        dataset: Its layout and types.
        held: Held out to choose the checkpoint and the thresholds.
    """

    name: str
    dataset: Dataset
    rest: list[Sample]
    held: list[Sample]


def read_divided(
    root: Path, settings: TrainingSettings, *, with_clean: bool = True, references: bool = False
) -> DividedDataset:
    """Reads a data set, and holds a share of its parts out.

    Args:
        root: The data set's folder.
        settings: Of the run: shares, group, seed.
        with_clean: Whether images without annotations belong to it.
        references: Whether each sample names the image that it is compared with.

    Raises:
        DatasetError: The folder can't be read, has too few parts, or an image without a reference.
    """

    def read(fold: str) -> Dataset:
        dataset = load_dataset(root, fold, with_clean=with_clean, references=references)
        kept = tuple(sample for sample in dataset.samples if with_clean or len(sample.labels))
        return dataclasses.replace(dataset, samples=kept)

    dataset, (rest, held) = divide_samples(root, settings, read)
    return DividedDataset(root.resolve().name, dataset, rest, held)


class HasSamples(Protocol):
    """Anything with samples."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Its images."""


D = TypeVar("D", bound=HasSamples)


def divide_samples(
    root: Path, settings: TrainingSettings, read: Callable[[str], D]
) -> tuple[D, tuple[list[Sample], list[Sample]]]:
    """Reads the train fold of a folder, or draws one, and holds a share of its parts out.

    Where folds are drawn, they are written to ``settings.out / folds-<name>.csv``: as ``folds.csv`` in the data set's
    folder they hold for every command. A cross-validation writes none.

    Args:
        root: The data set's folder.
        settings: Of the run: shares, group, seed.

    Returns:
        What was read, and the images to train on and to hold out.

    Raises:
        InputNotFoundError: There is no such folder.
        DatasetError: The folder can't be read, has too few parts, has folds and none called train, or has one picture
            twice with different types.
    """
    if not root.is_dir():
        raise InputNotFoundError(f"no data folder at {root}", action="Give the folder that holds the images.")
    group_of = groups_of(root, settings.group)
    divided = has_fold(root, "train")
    if not divided:
        _refuse_other_folds(root)
    found = read("train" if divided else ALL)
    samples = found.samples if divided else _drawn(root, found.samples, settings, group_of)
    held, rest = hold_out(samples, share=settings.held_share, group_of=group_of, number=settings.held_number)
    if not held or not rest:
        raise DatasetError(
            f"{root.name} has too few images to keep some aside",
            expected="images of at least two parts",
            actual=f"{len(samples)} images",
        )
    _check_types(found.samples)
    _warn_of_copies(root, rest, [*held, *(_of_other_folds(read, samples) if divided else found.samples)])
    return found, (rest, held)


def _refuse_other_folds(root: Path) -> None:
    """Refuses folds of which none is called train: all would be trained on, those to judge on too."""
    folds = folds_of(root)
    if any(_IS_FOLD.fullmatch(name) for name in folds):
        raise DatasetError(
            f"{root} has folds, and none is called train",
            expected="train",
            actual=", ".join(folds),
            action="Rename the one to train on; or remove the division, and a val fold is drawn.",
        )


def _of_other_folds(read: Callable[[str], HasSamples], train: Sequence[Sample]) -> list[Sample]:
    """Returns the images of the other folds; none if these can't be read, as on a machine that has the train fold."""
    known = {sample.path for sample in train}
    quiet = logging.Filter("none")
    data_log.addFilter(quiet)  # what is wrong with the train fold was logged
    try:
        return [sample for sample in read(ALL).samples if sample.path not in known]
    except DatasetError:
        return []
    finally:
        data_log.removeFilter(quiet)


def _check_types(samples: Sequence[Sample]) -> None:
    """Refuses copies of one picture that show different types."""
    for first, *others in _copies(samples):
        for one in others:
            if set(one.labels.tolist()) != set(first.labels.tolist()):
                raise DatasetError(
                    f"{first.path} and {one.path} are one picture, and show different types",
                    expected="one annotation a picture",
                    action="Delete the one that is wrong.",
                )


def _warn_of_copies(root: Path, learned: Sequence[Sample], judged: Sequence[Sample]) -> None:
    """Warns of pictures to learn from whose copies a model is judged on."""
    known = {sample.path for sample in learned}
    found = []
    for copies in _copies([*learned, *(one for one in judged if one.path not in known)]):
        own = [one.path.name for one in copies if one.path in known]
        other = [one.path.name for one in copies if one.path not in known]
        found += [f"{own[0]} and {other[0]}"] if own and other else []
    if found:
        log.warning(
            "%s: %s both learned from and judged on, such as %s: figures are too good; delete the copies",
            root,
            counted(len(found), "picture is", "pictures are"),
            found[0],
        )


def _copies(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Returns the samples whose files have the same content; only files of one size are read."""
    found: list[list[Sample]] = []
    for same in _by(samples, lambda one: one.path.stat().st_size):
        found += _by(same, lambda one: hashlib.sha256(one.path.read_bytes()).digest())
    return found


def _by(samples: Sequence[Sample], key: Callable[[Sample], object]) -> list[list[Sample]]:
    alike: dict[object, list[Sample]] = {}
    for sample in samples:
        alike.setdefault(key(sample), []).append(sample)
    return [each for each in alike.values() if len(each) > 1]


def _drawn(
    root: Path, everything: tuple[Sample, ...], settings: TrainingSettings, group_of: Callable[[Sample], str]
) -> tuple[Sample, ...]:
    val = divide(everything, group_of, share=settings.val_share, seed=settings.seed)
    rest = tuple(sample for sample in everything if sample.path not in val)
    if not val or not rest:
        raise DatasetError(
            f"{root.name} has too few images to draw a val fold",
            expected="images of at least two parts",
            actual=f"{len(everything)} images",
        )
    if settings.held_number is not None:  # a fold of a cross-validation, whose folder is gone afterwards
        return rest
    table = settings.out / f"folds-{root.resolve().name}.csv"
    fold_of = {sample.path: "val" if sample.path in val else "train" for sample in everything}
    settings.out.mkdir(parents=True, exist_ok=True)
    write_atomic(table, folds_csv(everything, fold_of, root, group_of).encode())
    log.warning(
        "%s has no train fold: %d of its %d images are its val fold now; copy %s there as folds.csv to judge on them",
        root,
        len(val),
        len(fold_of),
        table,
    )
    return rest
