"""The images of a data set that may be learnt from, and those that are held out of them to choose by.

A data set that brings a train fold is learnt from in that alone. Of one without folds a share is drawn as its val fold,
by the seed and by part, and written down; nothing of the training ever looks at it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from lineside_converters.training.samples import hold_out
from lineside_converters.training.settings import Settings
from lineside_models.datasets import ALL, Dataset, Sample, load_dataset
from lineside_models.datasets.folds import divide, folds_csv, groups_of, has_fold
from lineside_runtime.errors import DatasetError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.training")


@dataclasses.dataclass(frozen=True, slots=True)
class Divided:
    """One data set.

    Attributes:
        name: Of its folder.
        dataset: What can be learnt from; its ``samples`` are ``rest`` and ``held``.
        rest: To learn from.
        held: To choose the checkpoint and the thresholds by.
        val: How many images were put aside as a val fold here; 0 where the data set brings its folds.
    """

    name: str
    dataset: Dataset
    rest: list[Sample]
    held: list[Sample]
    val: int = 0


def read_divided(root: Path, settings: Settings, *, with_clean: bool = True) -> Divided:
    """Reads what can be learnt from in a folder, and holds a share of its parts out.

    Args:
        root: The data set's folder.
        settings: Of the run: shares, group, seed. Where folds are drawn here, they are written to
            ``settings.out / folds-<name>.csv``: as ``folds.csv`` in the data set's folder they hold for every command.
        with_clean: Whether images on which nothing is annotated belong to it.

    Raises:
        DatasetError: The folder can't be read, or has too few parts.
    """
    group_of = groups_of(root, settings.group)
    if has_fold(root, "train"):
        dataset, val = load_dataset(root, "train", with_clean=with_clean), 0
    else:
        dataset, val = _drawn(root, settings, group_of)
    if not with_clean:
        dataset = dataclasses.replace(dataset, samples=tuple(s for s in dataset.samples if len(s.labels)))
    held, rest = hold_out(dataset.samples, share=settings.held_share, group_of=group_of)
    if not held or not rest:
        raise DatasetError(
            f"{root.name} has too few images to keep some aside",
            expected="images of at least two parts",
            actual=f"{len(dataset.samples)} images",
        )
    return Divided(root.resolve().name, dataset, rest, held, val)


def _drawn(root: Path, settings: Settings, group_of: Callable[[Sample], str]) -> tuple[Dataset, int]:
    everything = load_dataset(root, ALL, with_clean=True)
    val = divide(everything.samples, group_of, share=settings.val_share, seed=settings.seed)
    rest = tuple(sample for sample in everything.samples if sample.path not in val)
    if not val or not rest:
        raise DatasetError(
            f"{root.name} has too few images to draw a val fold",
            expected="images of at least two parts",
            actual=f"{len(everything.samples)} images",
        )
    table = settings.out / f"folds-{root.resolve().name}.csv"
    fold_of = {sample.path: "val" if sample.path in val else "train" for sample in everything.samples}
    settings.out.mkdir(parents=True, exist_ok=True)
    write_atomic(table, folds_csv(everything.samples, fold_of, root, group_of).encode())
    log.warning(
        "%s has no train fold: %d of %d images are its val fold now, see %s", root, len(val), len(fold_of), table
    )
    return dataclasses.replace(everything, samples=rest), len(val)
