"""The classical difference from a reference, without training, on DeepPCB's train fold by board design.

Boards and thresholds are those of `benchmarks.models.compared_boards`, as of the network's benchmark
(``reference_network``), so that the figures of both compare. Each place has one template and no other good part, so
that ``difference`` tolerates edges that move by ``edge_px``, and nothing else. For each design, ``edge_px`` is the one
with the fewest false rejects on the other designs, and ``grow_px`` the one with the best mAP there. All types count as
one.

``learned`` is ``lineside learn-reference`` as a user runs it: at some places of each design, good boards that are drawn
from the template, displaced, become a bundle, whose own threshold judges other good boards and the bad one.

``registration`` has the error on templates that were moved by a known motion, and the correlation of photographs with
the template of their place and of another design.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.inputs.data import shared
from benchmarks.models.compared_boards import (
    BARS,
    CONDITIONS,
    DISPLACED,
    Boards,
    Judged,
    boards_of,
    design_of,
    figures,
    mean_precision,
    rate,
    threshold_of,
)
from benchmarks.smoke import scaled
from lineside_converters.data.part_variation import displace, vary
from lineside_models.anomaly.packaging import DECODER
from lineside_models.datasets import Sample, load_dataset
from lineside_models.frame import Frame, UInt8Array
from lineside_models.inspector import Inspector
from lineside_models.postprocess import decode
from lineside_models.preprocess import Letterbox
from lineside_models.reference.composition import Tolerance, compose
from lineside_models.reference.learning import learn_reference
from lineside_models.reference.network import OUTPUT, DifferenceNetwork
from lineside_models.reference.packaging import LABEL, write_bundle
from lineside_models.reference.registration import ReferenceTemplate, RegistrationLimits
from lineside_runtime.bundle import Postprocess
from lineside_runtime.config import Config
from lineside_runtime.errors import RegistrationError
from lineside_runtime.session import Session

DATA = scaled("deeppcb", smoke="deeppcb-pairs")
FOLD = scaled("train", smoke="all")
EVERY = 1
EDGES_PX = scaled((1, 2), smoke=(1,))
GROWN_PX = scaled((10, 12, 14), smoke=(8,))
LEVEL = 30.0
"""Grey levels from which a pixel of the map belongs to a region, whose greatest value is its score."""

LEARNED_FROM = scaled(20, smoke=6)
LEARNED_PLACES = scaled(3, smoke=1)
"""Of each design."""

TRIED = scaled(6, smoke=2)
"""Good boards of each learned place that are judged."""

Choice = tuple[int, int]
"""``edge_px`` and ``grow_px``."""

Rows = dict[Choice, dict[str, list[Judged]]]


def run() -> dict[str, Any]:
    """Judges one place in `EVERY`."""
    samples = load_dataset(shared(DATA), FOLD, references=True).samples[::EVERY]
    rows: Rows = {(edge, grow): {name: [] for name in CONDITIONS} for edge in EDGES_PX for grow in GROWN_PX}
    motions: list[_Motion] = []
    with _Networks() as networks:
        for place, sample in enumerate(samples):
            rng = np.random.default_rng((7, place))
            template, boards = boards_of(sample, rng)
            _judge_place(template, boards, design_of(sample.path), networks, rows)
            motions.append(_motion(template, _of_another_design(samples, place), boards, rng))
    chosen = _chosen(rows)
    judged = {
        name: [row for design, choice in chosen.items() for row in _of(rows[choice][name], design)]
        for name in CONDITIONS
    }
    return {
        "data": DATA,
        "fold": FOLD,
        "places": len(samples),
        "designs": len(chosen),
        "bars": BARS,
        "chosen": {design: {"edge_px": edge, "grow_px": grow} for design, (edge, grow) in chosen.items()},
        "difference": {name: figures(each, [LABEL]) for name, each in judged.items()},
        "learned": _learned(samples),
        "registration": _registration(motions),
    }


class _Networks:
    """The network for each growth; the frames of one place need them all."""

    def __enter__(self) -> dict[int, DifferenceNetwork]:
        self._open = {grow: DifferenceNetwork(grow) for grow in GROWN_PX}
        return self._open

    def __exit__(self, *_: object) -> None:
        for network in self._open.values():
            network.__exit__(None, None, None)


def _judge_place(
    template: UInt8Array, boards: Boards, design: str, networks: dict[int, DifferenceNetwork], rows: Rows
) -> None:
    reference = ReferenceTemplate(template)
    tolerances = {edge: Tolerance.around(template, template, edge) for edge in EDGES_PX}
    for name, kinds in boards.items():
        for kind, (image, boxes) in kinds.items():
            row = Judged(design=design, kind=kind, boxes=boxes.tolist(), labels=[0] * len(boxes))
            began = time.process_time()
            try:
                found = reference.register(image)
            except RegistrationError:
                for each in rows.values():
                    each[name].append(msgspec.structs.replace(row, fault=True))
                continue
            registered = time.process_time() - began
            for edge, tolerance in tolerances.items():
                began = time.process_time()
                composed = compose(image, reference, found, tolerance)
                compose_ms = 1e3 * (registered + time.process_time() - began)
                for grow, network in networks.items():
                    filled = _found(network, composed, msgspec.structs.replace(row, compose_ms=compose_ms))
                    rows[edge, grow][name].append(filled)


def _found(network: DifferenceNetwork, composed: UInt8Array, row: Judged) -> Judged:
    """Returns the row with regions, their greatest values over 255 as scores."""
    began = time.perf_counter()
    values = network.difference(composed)
    height, width = composed.shape[:2]
    how = Postprocess(name=DECODER, params={"maps": [OUTPUT], "calibration": [[1 / 16, -LEVEL / 16]]})
    (found,) = decode({OUTPUT: values[None, None]}, how, [Letterbox(1.0, 1.0, width, height)])
    took_ms = 1e3 * (time.perf_counter() - began)
    boxes = found.boxes if values.max() >= LEVEL else found.boxes[:0]
    steps = np.ceil(boxes / 2).astype(int)
    scores = [float(values[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)].max()) / 255 for x1, y1, x2, y2 in steps]
    return msgspec.structs.replace(
        row, found=boxes.tolist(), found_labels=[0] * len(boxes), scores=scores, infer_ms=took_ms
    )


def _chosen(rows: Rows) -> dict[str, Choice]:
    """Returns the choice for each design, made on all others as they were photographed."""
    first = next(iter(rows.values()))["aligned"]
    chosen = {}
    for design in sorted({row.design for row in first}):
        others = {choice: [row for row in each["aligned"] if row.design != design] for choice, each in rows.items()}
        edge = min(EDGES_PX, key=lambda px: _false_rejects(others[px, GROWN_PX[0]]))
        grow = max(GROWN_PX, key=lambda px: mean_precision(others[edge, px], 0.5, [LABEL]))
        chosen[design] = (edge, grow)
    return chosen


def _false_rejects(rows: Sequence[Judged]) -> tuple[int, float]:
    threshold = threshold_of([row for row in rows if row.kind == "bad"])
    good = [row.strength for row in rows if row.kind != "bad"]
    return sum(strength >= threshold for strength in good), float(np.mean(good))


def _of(rows: Sequence[Judged], design: str) -> list[Judged]:
    return [row for row in rows if row.design == design]


def _learned(samples: Sequence[Sample]) -> dict[str, Any]:
    """Learns references of some places as a user does, and judges other boards of them."""
    rejected: dict[str, list[bool]] = {"drawn": [], "bad": []}
    designs: dict[str, list[str]] = {"drawn": [], "bad": []}
    times_ms: list[float] = []
    for number, sample in enumerate(_some_of_each_design(samples)):
        rng = np.random.default_rng((11, number))
        template, boards = boards_of(sample, rng)
        good = [vary(template, DISPLACED, rng) for _ in range(LEARNED_FROM + TRIED)]
        learned = learn_reference([Frame(image=image) for image in good[:LEARNED_FROM]], [template])
        with tempfile.TemporaryDirectory() as folder:
            bundle = write_bundle(learned, Path(folder) / "bundle", name="place")
            with Session(bundle, Config(threads=1, engines=("ort",))) as session:
                inspector = Inspector(session)
                for kind, images in (("drawn", good[LEARNED_FROM:]), ("bad", [boards["displaced"]["bad"][0]])):
                    for image in images:
                        began = time.process_time()
                        rejected[kind].append(not _passes(inspector, image))
                        designs[kind].append(design_of(sample.path))
                        times_ms.append(1e3 * (time.process_time() - began))
    return {
        "good_frames": LEARNED_FROM,
        "false_rejects": rate(rejected["drawn"], designs["drawn"]),
        "found": rate(rejected["bad"], designs["bad"]),
        "frame_ms": float(np.median(times_ms)),
    }


def _passes(inspector: Inspector, image: UInt8Array) -> bool:
    try:
        return inspector.inspect(Frame(image=image)).passed
    except RegistrationError:
        return False


def _some_of_each_design(samples: Sequence[Sample]) -> list[Sample]:
    designs: dict[str, list[Sample]] = {}
    for sample in samples:
        designs.setdefault(design_of(sample.path), []).append(sample)
    return [one for each in designs.values() for one in each[:: max(1, len(each) // LEARNED_PLACES)][:LEARNED_PLACES]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Motion:
    """Error of a known motion in pixels at the worst corner, and the correlations; ``nan`` where nothing correlates."""

    error_px: float
    same: float
    other: float


def _motion(template: UInt8Array, other: UInt8Array, boards: Boards, rng: np.random.Generator) -> _Motion:
    reference = ReferenceTemplate(template, RegistrationLimits(quality=-1.0))
    shift = rng.uniform(-DISPLACED.shift_px, DISPLACED.shift_px, 2)
    angle = float(rng.uniform(-DISPLACED.rotation_deg, DISPLACED.rotation_deg))
    height, width = template.shape
    true = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    true[:, 2] += shift
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float64).T
    try:
        found: npt.NDArray[np.float64] = reference.register(displace(template, shift=shift, rotation_deg=angle)).matrix
        error = float(np.abs(found @ corners - true @ corners).max())
    except RegistrationError:
        error = float("nan")
    return _Motion(error, _quality(reference, boards["aligned"]["bad"][0]), _quality(reference, other))


def _of_another_design(samples: Sequence[Sample], place: int) -> UInt8Array:
    """Returns the photograph of the next place of another design."""
    design = design_of(samples[place].path)
    around = [*samples[place:], *samples[:place]]
    other = next(each for each in around if design_of(each.path) != design)
    image = cv2.imread(str(other.path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise FileNotFoundError(other.path)
    return np.asarray(image, np.uint8)


def _quality(reference: ReferenceTemplate, frame: UInt8Array) -> float:
    try:
        return reference.register(frame).quality
    except RegistrationError:
        return float("nan")


def _registration(motions: Sequence[_Motion]) -> dict[str, Any]:
    errors, same, other = (
        np.array([getattr(each, name) for each in motions]) for name in ("error_px", "same", "other")
    )
    return {
        "error_px": {"p50": float(np.nanmedian(errors)), "p99": float(np.nanquantile(errors, 0.99))},
        "not_registered": int(np.isnan(errors).sum()),
        "same_place": {"least": float(np.nanmin(same)), "p1": float(np.nanquantile(same, 0.01))},
        "other_design": {"most": float(np.nanmax(np.nan_to_num(other, nan=-1.0)))},
        "refused_same_place": int(np.isnan(same).sum()),
    }
