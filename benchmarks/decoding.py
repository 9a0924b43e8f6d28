"""Decoding with suppression of one frame by the shipped detectors: what a verdict needs, and everything.

Baseline: everything, that is all candidates above the raw floor, as an evaluation needs them; the same outputs in turn.
Real frames where the development data lie beside the repository, else the line simulator's. Processor time of the
thread, so that what else runs here counts little; ``verdict_wall_ms`` is the wall clock's.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import shared
from benchmarks.smoke import scaled
from benchmarks.timing import spread
from lineside_models import zoo
from lineside_models.datasets import load_dataset
from lineside_models.frame import UInt8Array
from lineside_models.postprocess import decode, least_wanted
from lineside_models.preprocess import prepare
from lineside_models.simulator import Kind, render
from lineside_models.vision.images import read_image
from lineside_runtime.config import Config
from lineside_runtime.session import Session

BUNDLES = ("surface-12", "surface-12-float")
"""The first without box voting, the second with it."""
SETS: tuple[tuple[str, Kind], ...] = (("neu-det", "steel"), ("deeppcb", "pcb"))
FRAMES = scaled(24, smoke=2)
ROUNDS = scaled(30, smoke=3)


def run() -> dict[str, Any]:
    """Measures both detectors on both kinds of surface."""
    found: dict[str, Any] = {"baseline": "all candidates above the raw floor", "frames": FRAMES, "rounds": ROUNDS}
    for name in BUNDLES:
        with Session(zoo.path(name), Config(threads=1, engines=("ort",))) as session:
            found[name] = {data: _measure(session, *_images(data, kind)) for data, kind in SETS}
    return found


def _images(data: str, kind: Kind) -> tuple[str, list[UInt8Array]]:
    try:
        folder: Path = shared(data)
    except FileNotFoundError:
        return "simulator", [np.asarray(render(kind, seed).image, np.uint8) for seed in range(FRAMES)]
    samples = load_dataset(folder, "val").samples
    chosen = [samples[number * len(samples) // FRAMES] for number in range(FRAMES)]
    return data, [read_image(sample.path) for sample in chosen]


def _measure(session: Session, source: str, images: list[UInt8Array]) -> dict[str, Any]:
    how, labels = session.manifest.postprocess, session.manifest.labels
    least = least_wanted(how, len(labels))
    given = []
    for image in images:
        tensor, letterbox = prepare(image, session.manifest.preprocess)
        given.append(({name: np.array(value) for name, value in session.predict(tensor).items()}, [letterbox]))
    times: dict[str, list[float]] = {"verdict_ms": [], "verdict_wall_ms": [], "everything_ms": []}
    for turn in range(ROUNDS):
        for outputs, letterboxes in given:
            began_s, used_ns = time.perf_counter(), time.thread_time_ns()
            decode(outputs, how, letterboxes, least_score=least)
            took_ns = time.thread_time_ns()
            wall_ms = (time.perf_counter() - began_s) * 1e3
            decode(outputs, how, letterboxes)
            if turn:  # the first one warms up
                times["verdict_ms"].append((took_ns - used_ns) / 1e6)
                times["verdict_wall_ms"].append(wall_ms)
                times["everything_ms"].append((time.thread_time_ns() - took_ns) / 1e6)
    return {"source": source, "input": list(tensor.shape), **{name: spread(values) for name, values in times.items()}}
