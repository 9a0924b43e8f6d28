"""Compare the model's boxes with a person's: kept, moved, retyped, added, deleted.

Boxes are paired by overlap, largest first, those of one type before others, each box once. A box without a partner of
at least `PAIR_IOU` was added or deleted by the person.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np

from lineside_hub.relabel.selection import Box
from lineside_hub.relabel.validation import PersonBox
from lineside_models.metrics import box_iou

ChangeKind = Literal["kept", "moved", "type", "added", "deleted"]

PAIR_IOU = 0.5
"""Overlap from which two boxes are of one defect, as in mAP@0.5."""

KEPT_PX = 1.0
"""A side that moved by no more was kept: tools round."""

NOTHING = "-"
"""In a confusion matrix: no box of the model (added) or no box of the person (deleted)."""


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person's change of one box.

    Attributes:
        kind: ``type`` where the person gave another type, moved or not.
        model: The model's box; ``None`` for one that was added.
        person: The person's box; ``None`` for one that was deleted.
    """

    kind: ChangeKind
    model: Box | None = None
    person: PersonBox | None = None


def compare(model: Sequence[Box], person: Sequence[PersonBox]) -> tuple[Change, ...]:
    """Returns a person's changes of the model's boxes of one image.

    Args:
        model: ``type, score, x1, y1, x2, y2`` each, in pixels.
        person: ``type, x1, y1, x2, y2`` each, in pixels of the same image.
    """
    changes = []
    left_model, left_person = dict(enumerate(model)), dict(enumerate(person))
    for theirs, ours in _pairs(model, person):
        if theirs in left_model and ours in left_person:
            changes.append(_paired(left_model.pop(theirs), left_person.pop(ours)))
    changes += [Change(kind="deleted", model=box) for box in left_model.values()]
    changes += [Change(kind="added", person=box) for box in left_person.values()]
    return tuple(changes)


def _pairs(model: Sequence[Box], person: Sequence[PersonBox]) -> list[tuple[int, int]]:
    """Returns all pairs that overlap enough, the best first."""
    if not model or not person:
        return []
    overlap = box_iou(np.array([box[2:] for box in model], float), np.array([box[1:] for box in person], float))
    found = [(int(i), int(j)) for i, j in zip(*np.nonzero(overlap >= PAIR_IOU), strict=True)]
    return sorted(found, key=lambda pair: (model[pair[0]][0] != person[pair[1]][0], -overlap[pair]))


def _paired(model: Box, person: PersonBox) -> Change:
    if model[0] != person[0]:
        return Change(kind="type", model=model, person=person)
    moved = max(abs(a - b) for a, b in zip(model[2:], person[1:], strict=True))
    return Change(kind="kept" if moved <= KEPT_PX else "moved", model=model, person=person)


def count(changes: Iterable[Change]) -> dict[str, int]:
    """Counts the boxes of each kind of change."""
    found = collections.Counter(change.kind for change in changes)
    return {kind: found[kind] for kind in ("kept", "moved", "type", "added", "deleted")}


def confusion(changes: Iterable[Change]) -> dict[str, dict[str, int]]:
    """Returns the confusion matrix of types, ``{model: {person: boxes}}``; `NOTHING` stands for no box."""
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for change in changes:
        model = change.model[0] if change.model is not None else NOTHING
        person = change.person[0] if change.person is not None else NOTHING
        table[model][person] += 1
    return {model: dict(sorted(table[model].items())) for model in sorted(table)}
