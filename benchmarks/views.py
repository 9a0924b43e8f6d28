"""Parts that several cameras see: from the frames to the part's verdict, by as many threads as cameras, or by one.

Baseline: ``[inspect] workers = 1``, which judges one camera's frame after the other; the same parts in turn, in one
process. Each thread's engine call has one thread of its own, as on a device.
"""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from benchmarks.smoke import scaled
from benchmarks.timing import spread
from lineside_agent.config import InspectConfig
from lineside_agent.inspection.active_bundle import ActiveInspector
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.inspection.pipeline import InspectionPipeline
from lineside_agent.inspection.views import Views, source_of
from lineside_models import zoo
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_runtime.bundle import open_bundle

BUNDLE = "surface-12"
SIZE = (640, 480)
PARTS, WARM_UP = scaled((300, 20), smoke=(2, 1))


def run() -> dict[str, Any]:
    """Measures with two cameras, and with as many as there are cores where those are more."""
    cores = len(os.sched_getaffinity(0))
    found: dict[str, Any] = {"baseline": "workers = 1", "bundle": BUNDLE, "size": list(SIZE), "parts": PARTS}
    cv2.setNumThreads(1)  # as the agent with several workers
    for cameras in sorted({2, max(2, cores)}):
        found[f"{cameras} cameras"] = _measure(cameras, min(cameras, cores))
    return found


def _measure(cameras: int, workers: int) -> dict[str, Any]:
    active = ActiveInspector()
    active.swap(loaded := load("a", open_bundle(zoo.path(BUNDLE)), InspectConfig()))
    latencies: dict[int, list[float]] = {1: [], workers: []}
    views = [_part(cameras, number) for number in range(8)]
    pipelines = {size: _Judge(active, size) for size in latencies}
    for number in range(WARM_UP + PARTS):
        turn = list(pipelines) if number % 2 else list(reversed(pipelines))
        for size in turn:
            took_ms = pipelines[size].judge(views[number % len(views)])
            if number >= WARM_UP:
                latencies[size].append(took_ms)
    for judge in pipelines.values():
        judge.pipeline.close()
    loaded.close()
    ratios = [at_once / alone for at_once, alone in zip(latencies[workers], latencies[1], strict=True)]
    return {
        "workers": workers,
        "one_after_the_other_ms": spread(latencies[1]),
        "at_once_ms": spread(latencies[workers]),
        "ratio_median": statistics.median(ratios),
    }


class _Judge:
    """One pipeline, a part at a time."""

    def __init__(self, active: ActiveInspector, at_once: int) -> None:
        self._left: Iterator[Views] = iter(())
        self._latency_ms = 0.0
        self.pipeline = InspectionPipeline(
            lambda: next(self._left, None),
            active,
            outputs=[],
            record=self._record,
            stop=threading.Event(),
            at_once=at_once,
        )

    def judge(self, part: Views) -> float:
        self._left = iter((part,))
        self.pipeline.run()
        return self._latency_ms

    def _record(self, row: Any, _: Any) -> bool:
        self._latency_ms = row.latency_ms
        return True


def _part(cameras: int, number: int) -> Views:
    names = [f"camera-{camera}" for camera in range(cameras)]
    shots = []
    for camera, name in enumerate(names):
        image = cv2.resize(np.asarray(render("steel", 100 * camera + number).image), SIZE)
        shots.append(Frame(image=image, source=name, sequence=number, part_id=f"part-{number}"))
    return Views(tuple(shots), source_of(names), number, f"part-{number}")
