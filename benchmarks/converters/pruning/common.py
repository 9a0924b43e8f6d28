"""Data, folder of finished work and evaluation on the val fold with an interval, shared by all parts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.inputs import drawn
from benchmarks.inputs.data import shared
from benchmarks.smoke import SMOKE, kept
from lineside_converters.data.calibration_data import AnnotatedFrame, annotated_frame
from lineside_converters.gates.loaded_models import answer_frames, execution_place, open_model
from lineside_converters.gates.statistics import Drop, drop_of_map50
from lineside_converters.optimizer import Optimizer
from lineside_converters.options import Effort
from lineside_converters.progress import ProgressReporter
from lineside_models.datasets import load_dataset
from lineside_models.postprocess import Candidates
from lineside_runtime.bundle import Manifest
from lineside_runtime.precision import Precision

HOME = kept(".pruning")
"""Finished and half finished work, from which a run goes on."""

SEED = 20


def data_set(name: str) -> Path:
    """Returns the folder of a data set; in a smoke run a small drawn one, of classes that can be learnt for x-sdd."""
    if not SMOKE or name != "x-sdd":
        return shared(name)
    HOME.mkdir(parents=True, exist_ok=True)
    return drawn.textures(HOME / name, {"train": 96, "val": 12})


def print_progress(text: str) -> None:
    """Prints on stderr, as stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def val_frames(folder: Path, labels: Sequence[str]) -> list[AnnotatedFrame]:
    """Returns all annotated frames of a val fold."""
    dataset = load_dataset(folder, "val")
    return [annotated_frame(sample, labels, number, dataset) for number, sample in enumerate(dataset.samples)]


def progress_printer() -> Callable[[str, int, int], None]:
    """Returns a listener that prints the progress of a long step every ten seconds."""
    last_s = 0.0

    def count(what: str, done: int, total: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > 10:
            last_s = time.monotonic()
            print_progress(f"{what}: {done} of {total}")

    return count


def answers(
    model: Path,
    frames: Sequence[AnnotatedFrame],
    manifest: Manifest,
    engine: str = "ort",
    precision: Precision = "fp32",
) -> list[Candidates]:
    """Returns the candidates that a model finds in each frame."""
    with open_model(model, execution_place(engine, "cpu"), manifest, precision=precision, threads=1) as run:
        return answer_frames({"model": run}, frames, manifest, ProgressReporter(print_progress), "answers")[1]["model"]


def map_drop(
    frames: Sequence[AnnotatedFrame], before: Sequence[Candidates], after: Sequence[Candidates], labels: Sequence[str]
) -> Drop:
    """Returns the drop of mAP@0.5 with its paired bootstrap interval."""
    return drop_of_map50(frames, before, after, types=len(labels), seed=SEED)


def drop_row(drop: Drop) -> dict[str, Any]:
    """Returns the result file's row of a drop, in points."""
    return {
        "before": round(drop.before, 4),
        "after": round(drop.after, 4),
        "drop_points": round(100 * drop.drop, 2),
        "interval_points": [round(100 * drop.low, 2), round(100 * drop.high, 2)],
        "confidence": drop.confidence,
        "frames": drop.frames,
    }


def pruning_optimizer(
    model: Path, target: str, *, data: Sequence[Path], name: str, work: str, effort: Effort
) -> Optimizer:
    """Returns an optimizer that prunes, distils and quantises on the train folds, without a gate of accuracy.

    Args:
        work: Folder below `HOME` for finished steps.
    """
    return Optimizer(
        model,
        target_device=target,
        optimization_level=2,
        data=data,
        fold="train",
        max_drop=1.0,
        min_metric=0.0,
        name=name,
        out=HOME / f"{work.partition('/')[0]}.bundle",
        work=HOME / work,
        overwrite=True,
        seed=SEED,
        effort=effort,
        on_progress=print_progress,
        on_count=progress_printer(),
    )
