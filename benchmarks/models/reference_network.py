"""A detector that reads frame and reference, on board designs that it was not trained on.

The train fold of DeepPCB in three parts of three designs: trained on two parts, judged on the third, INT8. One network
a part, trained as by ``lineside train detector --reference`` with ImageNet's weights at first (`surface-12` has seen
all designs), until the learning rate has fallen; ``--minutes`` ends a training earlier. Boards and thresholds are those
of `benchmarks.models.compared_boards`.

Finished trainings and judged frames are kept in ``benchmarks/.reference/``, so that a run that was stopped goes on.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.inputs.data import shared
from benchmarks.models.compared_boards import BARS, Conditions, Judged, boards_of, design_of, figures, mean_precision
from benchmarks.smoke import SMOKE, kept, scaled
from lineside_converters.evaluation.bundle_runner import judge
from lineside_converters.loading.training_run import facts_of_run
from lineside_converters.optimizer import Optimizer
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.trainer import train_detector
from lineside_converters.training.run_folder import resumed_or_begun
from lineside_models.datasets import Sample, load_dataset
from lineside_models.frame import Frame, UInt8Array
from lineside_models.labels import LABELS, PCB
from lineside_models.reference.reference_set import ReferenceSet
from lineside_runtime.config import Config
from lineside_runtime.errors import RegistrationError
from lineside_runtime.session import Session

KEPT = kept(".reference")
CORES = min(2, len(os.sched_getaffinity(0)))
DATA = scaled("deeppcb", smoke="deeppcb-pairs")
PARTS: tuple[tuple[str, ...], ...] = scaled(
    (("00041", "77000", "12100"), ("20085", "50600", "44000"), ("13000", "92000", "12300")), smoke=(("0",), ("1",))
)
SETTINGS: dict[str, Any] = {
    "architecture": scaled("lite0@48", smoke="lite0-short@16"),
    "epochs": scaled(200, smoke=1),
    "batch": scaled(16, smoke=4),
    "canvas_px": scaled(160, smoke=64),
    "learning_rate": 5e-3,
    "evaluate_every": scaled(40, smoke=1),
    "held_share": scaled(0.04, smoke=0.5),
    "threads": 1,
}
CALIBRATED_EVERY = scaled(4, smoke=1)


def run(minutes: float | None = None) -> dict[str, Any]:
    """Trains the parts that are not trained yet, and judges all."""
    train = partial(_train, minutes=minutes)
    if SMOKE:
        list(map(train, range(len(PARTS))))
    else:
        with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(train, range(len(PARTS))))
    found: list[Conditions] = []
    rows = []
    for number in range(len(PARTS)):
        found.append(_judged(number, _folder(number)))
        rows.append(_part(number, _folder(number), found[-1]))
    names = found[0]
    return {
        "data": DATA,
        "settings": {name: str(value) for name, value in SETTINGS.items()},
        "bars": BARS,
        "parts": rows,
        **{name: figures([each for part in found for each in part[name]], PCB) for name in names},
    }


def _folder(number: int) -> Path:
    return KEPT / f"part-{number}"


def _root(number: int, *, every: int = 1) -> Path:
    """Returns the data set with one image in ``every`` of the train fold, of which a part is the val fold."""
    data, root = shared(DATA), _folder(number) / (f"data-{every}" if every > 1 else "data")
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "PCBData").exists():
        (root / "PCBData").symlink_to((data / "PCBData").resolve())
    with (data / "folds.csv").open(newline="") as file:
        images = [row["image"] for row in csv.DictReader(file) if row["fold"] == "train"][::every]
    rows = [f"{image},{'val' if design_of(Path(image)) in PARTS[number] else 'train'}" for image in images]
    (root / "folds.csv").write_text("\n".join(["image,fold", *rows]) + "\n")
    return root


def _train(number: int, minutes: float | None) -> None:
    run = _folder(number) / "run"
    if (run / "training.json").is_file():
        return
    config = DetectorConfig(data=(_root(number),), out=run, reference=True, minutes=minutes, **SETTINGS)
    train_detector(resumed_or_begun(config), lambda _: None)


def _bundle(number: int, folder: Path) -> Path:
    """Returns the INT8 bundle of a run; made from its float network, calibrated on some of what it was trained on."""
    run, bundle = folder / "run", folder / "bundle"
    if not (bundle / "manifest.json").is_file():
        Optimizer(
            run / "float.onnx",
            optimization_level=scaled(1, smoke=0),  # nothing is learned in a smoke run
            out=bundle,
            data=(_root(number, every=CALIBRATED_EVERY),),
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
    template, boards = boards_of(sample, rng)
    references = ReferenceSet([template])
    labels = [PCB.index(LABELS[label]) for label in sample.labels]
    for name, each in boards.items():
        for kind, (image, boxes) in each.items():
            row = Judged(
                design=design_of(sample.path), kind=kind, boxes=boxes.tolist(), labels=labels if kind == "bad" else []
            )
            rows[name].append(_judge(session, references, image, row))


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
    return {
        "designs": list(PARTS[number]),
        "trained_on": {name: images[name] for name in ("train", "clean", "held")},
        "minutes": facts["elapsed_s"] / 60,
        "steps": facts["steps"],
        "int8_bytes": sum(path.stat().st_size for path in (folder / "bundle").glob("*/*.onnx")),
        **{f"map50_{name}": mean_precision(rows, 0.5, PCB) for name, rows in found.items()},
    }
