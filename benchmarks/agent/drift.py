"""What watching for drift costs a frame, how soon it alarms, and how often it does without a reason.

Cost: `describe` and all tests on one frame, as they run behind the line's signal; CPU time of the process, since other
work on the machine would count otherwise. Baseline: one ``cv2.cvtColor`` of the whole frame to grey.

Delays and false alarms: frames of the line simulator's boards, each rendered once and drawn at random, ten seeds; what
is learned, and what comes after it, differ in each. Boards of the simulator differ more from each other in brightness
than those of one product on a line.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from benchmarks.smoke import scaled
from lineside_agent.health.drift.descriptors import Descriptors, describe
from lineside_agent.health.drift.detector import DriftDetector, DriftSettings
from lineside_agent.health.drift.reference import DriftVerdict
from lineside_models.labels import LABELS
from lineside_models.simulator import render

SIZES = scaled(((200, 200), (640, 640), (1200, 1920), (3000, 4000)), smoke=((200, 200),))
BAR_MS = 0.5
ROUNDS = scaled(60, smoke=2)
SEEDS = scaled(10, smoke=1)
RENDERED = scaled(400, smoke=8)
CLEAN_FRAMES = scaled(100_000, smoke=100)
MOST = scaled(2000, smoke=20)
BAD = 0.03

Image = np.ndarray[Any, np.dtype[np.uint8]]
Spoil = Callable[[Image, int], Image]

SPOILS: dict[str, Spoil] = {
    "lens knocked: blur of 1.5 px": lambda image, _: _blurred(image, 1.5),
    "lens creeping: 0.01 px of blur a frame": lambda image, number: _blurred(image, 0.01 * number),
    "lamp fails: 30 % of the light gone": lambda image, _: _darker(image, 0.7),
    "lamp ages: 0.1 % of the light a frame": lambda image, number: _darker(image, max(0.0, 1 - 0.001 * number)),
    "lens covered": lambda image, _: np.zeros_like(image),
}


def run() -> dict[str, Any]:
    images = [render("pcb", seed, size=(160, 160)).image for seed in range(RENDERED)]
    looks = [describe(image) for image in images]
    watches = [_learned(looks, seed) for seed in range(SEEDS)]
    return {
        "rules": "500 frames learned, one false alarm in a million frames at most",
        "bar_ms": BAR_MS,
        "cpu_ms_a_frame": {f"{width}x{height}": _cost(height, width) for height, width in SIZES},
        "clean": _clean(looks, watches[0]),
        "frames_to_the_alarm": {
            name: _delay([_camera(images, looks, spoil, seed) for seed in range(SEEDS)])
            for name, spoil in SPOILS.items()
        }
        | {
            f"wave: {share:.0%} bad instead of {BAD:.0%}": _delay([_wave(looks, share, seed) for seed in range(SEEDS)])
            for share in (0.1, 0.3, 0.6)
        },
    }


def _blurred(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _darker(image: Image, factor: float) -> Image:
    return (image * factor).astype(np.uint8)


def _judgement(rng: np.random.Generator, bad: float) -> DriftVerdict:
    is_bad = bool(rng.random() < bad)
    types = (LABELS[0],) if is_bad else ()
    return DriftVerdict(bundle="b", passed=not is_bad, unsure=False, types=types, near_miss=float(rng.beta(1, 4)))


def _learned(looks: list[Descriptors], seed: int) -> DriftDetector:
    rng, rules = np.random.default_rng(seed), DriftSettings()
    watch = DriftDetector(rules)
    for _ in range(rules.reference_frames):
        watch.add_frame(looks[int(rng.integers(len(looks)))])
        watch.add_verdict(_judgement(rng, BAD), LABELS)
    return watch


def _cost(height: int, width: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    watch, said = _learned([describe(image)] * 2, 0), _judgement(rng, 0.0)

    def whole() -> None:
        watch.add_frame(describe(image))
        watch.add_verdict(said, LABELS)

    calls: dict[str, Callable[[], object]] = {
        "drift": whole,
        "of it the descriptors": lambda: describe(image),
        "baseline: cvtColor": lambda: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.process_time_ns()
            call()
            times[name].append((time.process_time_ns() - began) / 1e6)
    return {name: round(statistics.median(each), 4) for name, each in times.items()} | {
        "drift p95": round(statistics.quantiles(times["drift"], n=20)[-1], 4)
    }


def _clean(looks: list[Descriptors], watch: DriftDetector) -> dict[str, Any]:
    rng = np.random.default_rng(99)
    alarms = 0
    for number in rng.integers(0, len(looks), CLEAN_FRAMES).tolist():
        watch.add_frame(looks[number])
        watch.add_verdict(_judgement(rng, BAD), LABELS)
        if watch.alarms():
            alarms += 1
            watch.clear()
    return {"frames": CLEAN_FRAMES, "false_alarms": alarms, "chance_promised_at_most": CLEAN_FRAMES / 1e6}


def _camera(images: list[Image], looks: list[Descriptors], spoil: Spoil, seed: int) -> int | None:
    watch, rng = _learned(looks, seed), np.random.default_rng(1000 + seed)
    for number in range(1, MOST + 1):
        watch.add_frame(describe(spoil(images[int(rng.integers(len(images)))], number)))
        if watch.alarms():
            return number
    return None


def _wave(looks: list[Descriptors], share: float, seed: int) -> int | None:
    watch, rng = _learned(looks, seed), np.random.default_rng(1000 + seed)
    for number in range(1, MOST + 1):
        watch.add_verdict(_judgement(rng, share), LABELS)
        if watch.alarms():
            return number
    return None


def _delay(frames: list[int | None]) -> dict[str, Any]:
    found = sorted(each for each in frames if each is not None)
    return {
        "median": statistics.median(found) if found else None,
        "worst": found[-1] if found else None,
        "never": f"{frames.count(None)} of {len(frames)} within {MOST} frames",
    }
