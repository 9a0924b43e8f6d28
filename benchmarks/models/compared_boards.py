"""Bad boards of DeepPCB and good ones of the same places, for everything that compares with a reference.

``bad`` is the photograph. There are two good boards of each place: ``drawn`` from the template
(`lineside_converters.data.part_variation`), and ``repaired``, the bad one with the template's pixels in its boxes.
``displaced`` also moves good and bad boards by up to 5 px and 2°, and changes their brightness by up to 10 %. A frame
that can't be registered counts as rejected.

The threshold of a design is the highest at which 99.5 % of the bad boards of all other designs are found. Intervals of
shares are by bootstrap over designs, and never narrower than Wilson's of the boards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_converters.data.part_variation import PartVariation, displace, vary
from lineside_converters.gates.statistics import interval_of_share
from lineside_models.datasets import Sample
from lineside_models.datasets.base import read_pixels
from lineside_models.frame import UInt8Array
from lineside_models.metrics import auroc, evaluate
from lineside_models.postprocess import Candidates

FOUND = 0.995
DISPLACED = PartVariation(shift_px=5.0, rotation_deg=2.0, brightness=0.1)
BARS = {"map50": 0.985, "false_rejects": 0.005, "found": FOUND}
CONDITIONS = ("aligned", "displaced")
REPAIRED_PX = 4
"""A box is repaired with so much around it."""

Kind = Literal["bad", "drawn", "repaired"]
Boxes = npt.NDArray[np.float32]
Boards = dict[str, dict[Kind, tuple[UInt8Array, Boxes]]]
"""By condition and kind: a frame ``(H, W) uint8`` and the boxes in it."""


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One board under one condition.

    Attributes:
        kind: Bad, or how the good board was made.
        boxes: True boxes, with ``labels``.
        found: Boxes, with ``scores`` and ``found_labels``; none where the frame can't be registered.
        compose_ms: Processor time of registration and composition.
        infer_ms: Wall time of inference and decoding.
    """

    design: str
    kind: Kind
    boxes: list[list[float]]
    labels: list[int]
    found: list[list[float]] = []
    found_labels: list[int] = []
    scores: list[float] = []
    fault: bool = False
    compose_ms: float = 0.0
    infer_ms: float = 0.0

    @property
    def strength(self) -> float:
        """Highest score; 1 for a fault."""
        return 1.0 if self.fault else max(self.scores, default=0.0)

    @property
    def truth(self) -> Candidates:
        """The true boxes, as `evaluate` takes them."""
        return _candidates(self.boxes, [1.0] * len(self.labels), self.labels)

    @property
    def candidates(self) -> Candidates:
        """The boxes that were found."""
        return _candidates(self.found, self.scores, self.found_labels)


Conditions = dict[str, list[Judged]]


def design_of(image: Path) -> str:
    """Returns the design of a board's photograph."""
    return image.parent.name


def boards_of(sample: Sample, rng: np.random.Generator) -> tuple[UInt8Array, Boards]:
    """Returns the template of a place, and the boards that are judged.

    Raises:
        ValueError: The sample has no reference.
    """
    if sample.reference is None:
        raise ValueError(f"{sample.path} has no reference")
    template = read_pixels(sample.reference, cv2.IMREAD_GRAYSCALE)
    frame = read_pixels(sample.path, cv2.IMREAD_GRAYSCALE)
    repaired = _repaired(frame, template, sample.boxes)
    none = np.zeros((0, 4), np.float32)
    return template, {
        "aligned": {
            "bad": (frame, sample.boxes),
            "drawn": (vary(template, PartVariation(), rng), none),
            "repaired": (repaired, none),
        },
        "displaced": {
            "bad": _displaced(frame, sample.boxes, rng),
            "drawn": (vary(template, DISPLACED, rng), none),
            "repaired": _displaced(repaired, none, rng),
        },
    }


def _repaired(frame: UInt8Array, template: UInt8Array, boxes: Boxes) -> UInt8Array:
    """Returns a frame whose boxes show what the template shows there."""
    repaired: UInt8Array = frame.copy()
    for x1, y1, x2, y2 in boxes.round().astype(int).tolist():
        rows = slice(max(0, y1 - REPAIRED_PX), y2 + REPAIRED_PX)
        columns = slice(max(0, x1 - REPAIRED_PX), x2 + REPAIRED_PX)
        repaired[rows, columns] = template[rows, columns]
    return repaired


def _displaced(frame: UInt8Array, boxes: Boxes, rng: np.random.Generator) -> tuple[UInt8Array, Boxes]:
    """Returns a frame that is moved and lit otherwise, and its boxes: their centres move, their sides stay."""
    shift = rng.uniform(-DISPLACED.shift_px, DISPLACED.shift_px, 2)
    angle = float(rng.uniform(-DISPLACED.rotation_deg, DISPLACED.rotation_deg))
    light = rng.uniform(1 - DISPLACED.brightness, 1 + DISPLACED.brightness)
    moved = displace(frame, shift=shift, rotation_deg=angle).astype(np.float32) * light
    height, width = frame.shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), angle, 1.0)[:, :2]
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2 - middle) @ matrix.T + middle + shift
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    limit = np.array([width, height, width, height])
    placed = np.clip(np.concatenate([centres - half, centres + half], 1), 0, limit)
    return np.asarray(moved.clip(0, 255), np.uint8), placed.astype(np.float32)


def figures(rows: list[Judged], labels: Sequence[str]) -> dict[str, Any]:
    """Returns the figures of all judged boards under one condition.

    Args:
        rows: Of all designs.
        labels: Of ``labels`` and ``found_labels`` in them.
    """
    kinds: dict[Kind, list[Judged]] = {
        kind: [each for each in rows if each.kind == kind] for kind in ("bad", "drawn", "repaired")
    }
    bad = kinds["bad"]
    thresholds = {
        design: threshold_of([each for each in bad if each.design != design]) for design in {one.design for one in bad}
    }
    rejected = {
        kind: rate([each.strength >= thresholds[each.design] for each in boards], [each.design for each in boards])
        for kind, boards in kinds.items()
    }
    timed = [each for each in rows if not each.fault]
    return {
        "map50": mean_precision(rows, 0.5, labels),
        "map33": mean_precision(rows, 0.33, labels),
        "found": rejected.pop("bad"),
        "false_rejects": rejected,
        "auroc": {
            kind: auroc([each.strength for each in kinds[kind]], [each.strength for each in bad]) for kind in rejected
        },
        "faults": {kind: sum(each.fault for each in boards) for kind, boards in kinds.items()},
        "compose_ms": float(np.median([each.compose_ms for each in timed])),
        "infer_ms": float(np.median([each.infer_ms for each in timed])),
    }


def mean_precision(rows: list[Judged], min_iou: float, labels: Sequence[str]) -> float:
    """Returns mAP on the bad boards."""
    bad = [each for each in rows if each.kind == "bad"]
    truths, found = [each.truth for each in bad], [each.candidates for each in bad]
    return evaluate(truths, found, labels=labels, thresholds=0.5, min_iou=min_iou).map50


def threshold_of(bad: list[Judged]) -> float:
    """Returns the highest threshold at which enough of the bad boards are found."""
    strengths = sorted(each.strength for each in bad)
    return strengths[int((1 - FOUND) * len(strengths) + 1e-9)]


def rate(rejected: Sequence[bool], designs: Sequence[str]) -> dict[str, float]:
    """Returns the share of rejected boards with its interval, by the design of each."""
    hits = np.array(rejected, np.bool_)
    low, high = interval_of_share(hits, designs)
    return {"count": int(hits.sum()), "of": len(hits), "share": float(hits.mean()), "low": low, "high": high}


def _candidates(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Candidates:
    return Candidates(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
    )
