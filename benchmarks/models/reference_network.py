"""A detector that reads frame and reference, on board designs that it was not trained on.

The train fold of DeepPCB in three parts of three designs: trained on two parts, judged on the third, INT8. One network
a part, trained for ``--minutes`` of wall time as by ``lineside train detector --reference``, with ImageNet's weights at
first (`surface-12` has seen all designs). There are two good boards of each place: ``drawn`` from the template
(`lineside_converters.part_variation`), and ``repaired``, the bad one with the template's pixels in its boxes.
``displaced`` also moves good and bad boards by up to 5 px and 2°, and changes their brightness by up to 10 %. A frame
that can't be registered counts as rejected.

The threshold of a design is the highest at which 99.5 % of the bad boards of all other designs are found. Finished
trainings and judged frames are kept in ``benchmarks/.reference/``; parts that are not trained yet are left out, and
``parts`` says which were judged.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.inputs.data import shared
from benchmarks.smoke import kept, scaled
from lineside_converters.evaluation.bundle_runner import judge
from lineside_converters.loading.training_run import facts_of_run
from lineside_converters.optimizer import Optimizer
from lineside_converters.part_variation import PartVariation, displace, vary
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.trainer import train_detector
from lineside_models.datasets import Sample, load_dataset
from lineside_models.datasets.base import read_pixels
from lineside_models.frame import Frame, UInt8Array
from lineside_models.labels import LABELS, PCB
from lineside_models.metrics import auroc, evaluate, wilson
from lineside_models.postprocess import Candidates
from lineside_models.reference.reference_set import ReferenceSet
from lineside_runtime.config import Config
from lineside_runtime.errors import RegistrationError
from lineside_runtime.session import Session

KEPT = kept(".reference")
DATA = scaled("deeppcb", smoke="deeppcb-pairs")
PARTS: tuple[tuple[str, ...], ...] = scaled(
    (("00041", "77000", "12100"), ("20085", "50600", "44000"), ("13000", "92000", "12300")), smoke=(("0",), ("1",))
)
SETTINGS: dict[str, Any] = {
    "architecture": scaled("lite0@48", smoke="lite0@16"),
    "epochs": scaled(400, smoke=1),
    "batch": scaled(16, smoke=4),
    "canvas_px": scaled(160, smoke=64),
    "learning_rate": 5e-3,
    "evaluate_every": scaled(80, smoke=1),
    "held_share": scaled(0.04, smoke=0.5),
    "threads": 1,
}
FOUND = 0.995
DISPLACED = PartVariation(shift_px=5.0, rotation_deg=2.0, brightness=0.1)
BARS = {"map50": 0.985, "false_rejects": 0.005, "found": FOUND}
Kind = Literal["bad", "drawn", "repaired"]
Boxes = npt.NDArray[np.float32]
REPAIRED_PX = 4
"""A box is repaired with so much around it."""


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One board under one condition.

    Attributes:
        design: Of the board.
        kind: Bad, or how the good board was made.
        boxes: True boxes, with ``labels``.
        found: Boxes, with ``scores`` and ``found_labels``; none where the frame can't be registered.
        fault: Whether it can't be.
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


def run(minutes: float = 0.0) -> dict[str, Any]:
    """Trains the parts that are not trained yet, if minutes are given or nothing is, and judges all that are."""
    found: list[Conditions] = []
    rows = []
    for number in range(len(PARTS)):
        folder = KEPT / f"part-{number}"
        if not _is_trained(folder) and (minutes or scaled(False, smoke=True)):
            _train(number, folder, minutes or None)
        if _is_trained(folder):
            found.append(_judged(number, folder))
            rows.append(_part(number, folder, found[-1]))
    if not found:
        raise FileNotFoundError(f"no part is trained in {KEPT}: give --minutes, of each of {len(PARTS)} trainings")
    names = found[0]
    return {
        "data": DATA,
        "settings": {name: str(value) for name, value in SETTINGS.items()},
        "bars": BARS,
        "of_parts": len(PARTS),
        "parts": rows,
        **{name: _figures([each for part in found for each in part[name]]) for name in names},
    }


def _is_trained(folder: Path) -> bool:
    return (folder / "run" / "training.json").is_file()


def _root(number: int) -> Path:
    """Returns the data set with the train fold alone, of which a part is the val fold."""
    data, root = shared(DATA), KEPT / f"part-{number}" / "data"
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "PCBData").exists():
        (root / "PCBData").symlink_to((data / "PCBData").resolve())
    with (data / "folds.csv").open(newline="") as file:
        images = [row["image"] for row in csv.DictReader(file) if row["fold"] == "train"]
    rows = [f"{image},{'val' if _design(Path(image)) in PARTS[number] else 'train'}" for image in images]
    (root / "folds.csv").write_text("\n".join(["image,fold", *rows]) + "\n")
    return root


def _design(image: Path) -> str:
    return image.parent.name


def _train(number: int, folder: Path, minutes: float | None) -> None:
    config = DetectorConfig(data=(_root(number),), out=folder / "run", reference=True, minutes=minutes, **SETTINGS)
    train_detector(config, lambda _: None)


def _bundle(number: int, folder: Path) -> Path:
    """Returns the INT8 bundle of a run; made from its float network, calibrated on what it was trained on."""
    run, bundle = folder / "run", folder / "bundle"
    if not (bundle / "manifest.json").is_file():
        Optimizer(
            run / "float.onnx",
            optimization_level=scaled(1, smoke=0),  # nothing is learned in a smoke run
            out=bundle,
            data=(_root(number),),
            fold="train",
            judge_fold="train",
            max_drop=scaled(0.02, smoke=1.0),
            min_metric=scaled(None, smoke=0.0),
            name=f"reference-{number}",
            version="1.0.0",
            overwrite=True,
            **facts_of_run(run),
        ).run()
    return bundle


def _judged(number: int, folder: Path) -> Conditions:
    path = folder / "judged.json"
    if not path.is_file():
        samples = load_dataset(_root(number), "val", references=True).samples
        with Session(_bundle(number, folder), Config(threads=1, engines=("ort",))) as session:
            rows: Conditions = {"aligned": [], "displaced": []}
            for place, sample in enumerate(samples):
                _judge_board(session, sample, np.random.default_rng((number, place)), rows)
        path.write_bytes(msgspec.json.encode(rows))
    return msgspec.json.decode(path.read_bytes(), type=Conditions)


def _judge_board(session: Session, sample: Sample, rng: np.random.Generator, rows: Conditions) -> None:
    """Judges a bad board, and good ones of the same place, under both conditions."""
    if sample.reference is None:
        raise ValueError(f"{sample.path} has no reference")
    template = read_pixels(sample.reference, cv2.IMREAD_GRAYSCALE)
    frame = read_pixels(sample.path, cv2.IMREAD_GRAYSCALE)
    references = ReferenceSet([template])
    labels = [PCB.index(LABELS[label]) for label in sample.labels]
    repaired = _repaired(frame, template, sample.boxes)
    none = np.zeros((0, 4), np.float32)
    boards: dict[str, dict[Kind, tuple[UInt8Array, Boxes]]] = {
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
    for name, each in boards.items():
        for kind, (image, boxes) in each.items():
            row = Judged(
                design=_design(sample.path), kind=kind, boxes=boxes.tolist(), labels=labels if kind == "bad" else []
            )
            rows[name].append(_judge(session, references, image, row))


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


def _judge(session: Session, references: ReferenceSet, frame: UInt8Array, row: Judged) -> Judged:
    """Returns the row with what was found."""
    began = time.process_time()
    try:
        image = references.compose(frame).image
    except RegistrationError:
        return msgspec.structs.replace(row, fault=True)
    composed = time.process_time()
    answer = judge(session, Frame(image=image))
    found = answer.candidates
    return msgspec.structs.replace(
        row,
        found=found.boxes.tolist(),
        found_labels=found.labels.tolist(),
        scores=found.scores.astype(float).tolist(),
        compose_ms=1e3 * (composed - began),
        infer_ms=answer.timings.inference_ms + answer.timings.postprocess_ms,
    )


def _part(number: int, folder: Path, found: Conditions) -> dict[str, Any]:
    facts = msgspec.json.decode((folder / "run" / "training.json").read_bytes())
    [images] = facts["images"].values()
    start = facts["starts"][-1]
    return {
        "designs": list(PARTS[number]),
        "trained_on": {name: images[name] for name in ("train", "clean", "held")},
        "minutes": start["minutes"],
        "steps": facts["steps"],
        "int8_bytes": sum(path.stat().st_size for path in (folder / "bundle").glob("*/*.onnx")),
        **{f"map50_{name}": _map(rows, 0.5) for name, rows in found.items()},
    }


def _figures(rows: list[Judged]) -> dict[str, Any]:
    """Returns the figures of all judged boards under one condition."""
    kinds: dict[Kind, list[Judged]] = {
        kind: [each for each in rows if each.kind == kind] for kind in ("bad", "drawn", "repaired")
    }
    bad = kinds["bad"]
    thresholds = {
        design: _threshold([each for each in bad if each.design != design]) for design in {one.design for one in bad}
    }
    rejected = {
        kind: _rate(sum(each.strength >= thresholds[each.design] for each in boards), len(boards))
        for kind, boards in kinds.items()
    }
    timed = [each for each in rows if not each.fault]
    return {
        "map50": _map(rows, 0.5),
        "map33": _map(rows, 0.33),
        "found": rejected.pop("bad"),
        "false_rejects": rejected,
        "auroc": {
            kind: auroc([each.strength for each in kinds[kind]], [each.strength for each in bad]) for kind in rejected
        },
        "faults": {kind: sum(each.fault for each in boards) for kind, boards in kinds.items()},
        "compose_ms": float(np.median([each.compose_ms for each in timed])),
        "infer_ms": float(np.median([each.infer_ms for each in timed])),
    }


def _map(rows: list[Judged], min_iou: float) -> float:
    """Returns mAP on the bad boards."""
    bad = [each for each in rows if each.kind == "bad"]
    truths, found = [each.truth for each in bad], [each.candidates for each in bad]
    return evaluate(truths, found, labels=PCB, thresholds=0.5, min_iou=min_iou).map50


def _threshold(bad: list[Judged]) -> float:
    """Returns the highest threshold at which enough of the bad boards are found."""
    strengths = sorted(each.strength for each in bad)
    return strengths[int((1 - FOUND) * len(strengths) + 1e-9)]


def _rate(count: int, of: int) -> dict[str, float]:
    low, high = wilson(count, of)
    return {"count": count, "of": of, "share": count / of, "low": low, "high": high}


def _candidates(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Candidates:
    return Candidates(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
    )
