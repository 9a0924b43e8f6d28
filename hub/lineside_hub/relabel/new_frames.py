"""Corrected frames that a bundle has judged: what a training after it can learn from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lineside_hub.relabel.collection import NAME, open_collection
from lineside_hub.relabel.folds import TRAIN, VAL
from lineside_runtime.errors import InputNotFoundError


class NewFrames(msgspec.Struct, frozen=True, kw_only=True):
    """Frames of a dataset that one bundle has judged and a person has corrected or confirmed.

    Attributes:
        corrected: Of all, those on which a person changed a box.
    """

    corrected: int
    train: int
    val: int

    @property
    def count(self) -> int:
        """All of them."""
        return self.train + self.val


def new_frames(dataset: Path, bundle_sha256: str) -> NewFrames:
    """Counts the frames that a bundle has judged; the last correction of each image counts.

    Args:
        dataset: The folder that `relabel import` made.
        bundle_sha256: Of the bundle's manifest.

    Raises:
        InputNotFoundError: There is none.
        DatasetError: It is damaged.
    """
    if not (dataset / NAME).is_file():
        raise InputNotFoundError(
            f"{dataset} is no dataset of corrected frames",
            action="`lineside relabel export` and `lineside relabel import` make one; --relabelled names its folder.",
        )
    collection = open_collection(dataset, labels=())
    fold_of = collection.folds()
    mine = [line for line in collection.current().values() if line.image.bundle_sha256 == bundle_sha256]
    folds = [fold_of[line.image.file_name] for line in mine]
    changed = sum(any(change.kind != "kept" for change in line.changes) for line in mine)
    return NewFrames(corrected=changed, train=folds.count(TRAIN), val=folds.count(VAL))
