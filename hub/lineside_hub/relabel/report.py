"""Disagreement of model and people over the history of a dataset."""

from __future__ import annotations

import collections
from pathlib import Path

import msgspec

from lineside_hub.relabel import box_changes
from lineside_hub.relabel.collection import NAME, open_collection
from lineside_runtime.errors import InputNotFoundError


class RelabelReport(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a dataset of corrected frames.

    Attributes:
        good: Of those, without a box.
        people: Images by who corrected them last.
        bundles: Images by the bundle that had judged them.
        boxes: Count of each kind of change: ``kept``, ``moved``, ``type``, ``added``, ``deleted``.
        confusion: Boxes by the model's type and the person's type; ``-`` stands for no box.
        agreed: Share of the images on which the model had exactly the right boxes and types.
    """

    dataset: Path
    images: int
    good: int
    folds: dict[str, int]
    people: dict[str, int]
    bundles: dict[str, int]
    boxes: dict[str, int]
    confusion: dict[str, dict[str, int]]
    agreed: float


def report(dataset: Path) -> RelabelReport:
    """Computes the report; the last correction of each image counts.

    Args:
        dataset: The folder that `importer.import_corrections` made.

    Raises:
        InputNotFoundError: There is none.
        DatasetError: It is damaged.
    """
    if not (dataset / NAME).is_file():
        raise InputNotFoundError(f"{dataset} is no dataset of corrected frames", action="`relabel import` makes one.")
    collection = open_collection(dataset, labels=())
    lines = list(collection.current().values())
    every = [change for line in lines for change in line.changes]
    agreed = sum(all(change.kind in ("kept", "moved") for change in line.changes) for line in lines)
    return RelabelReport(
        dataset=dataset,
        images=len(lines),
        good=sum(not line.boxes for line in lines),
        folds=_counted(list(collection.folds().values())),
        people=_counted([line.by for line in lines]),
        bundles=_counted([line.image.bundle for line in lines]),
        boxes=box_changes.count(every),
        confusion=box_changes.confusion(every),
        agreed=agreed / len(lines) if lines else 1.0,
    )


def _counted(names: list[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(names).items()))
