"""Putting a converted model through its gates beside the model that it was made of."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lineside_converters.evaluate import map50
from lineside_converters.gates import (
    Feed,
    Run,
    Times,
    check_accuracy,
    check_parity,
    check_speed,
    time_pair,
    unproven_speed,
)
from lineside_converters.judging import prepared
from lineside_converters.material import Material
from lineside_converters.recipes import Recipe
from lineside_converters.report import Figures, Gate
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort import OrtBackend
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.devices import Device, DeviceKind
from lineside_runtime.session import Session

THREADS = 1
"""While timing: what is compared are two models, and a second thread's waiting would blur it."""

TIMED_PER_SHAPE = 2
TIMED_MAX = 6
_CPU_ONLY = Config(engines=("ort",), fallback_strategy="error")


@dataclasses.dataclass(frozen=True, slots=True)
class Proof:
    """What was measured of both models.

    Attributes:
        reference: Figures of the source model.
        candidate: Figures of what was made of it.
        gates: What was passed, or couldn't be measured here.
    """

    reference: Figures
    candidate: Figures
    gates: tuple[Gate, ...]


def prove(
    reference: Bundle,
    candidate: Bundle,
    material: Material,
    recipe: Recipe,
    *,
    max_drop: float,
    device_kind: DeviceKind,
    say: Callable[[str], None],
) -> Proof:
    """Compares outputs, accuracy and speed of two bundles with one variant each.

    Args:
        reference: The source model.
        candidate: What was made of it.
        material: The frames.
        recipe: Brings the limits of parity and speed.
        max_drop: How much lower the mean average precision may be.
        device_kind: Where the model is to run.
        say: Told in words what was found.

    Raises:
        ParityGateError: The outputs differ by too much.
        AccuracyGateError: Accuracy drops by more than ``max_drop``.
        SpeedGateError: The candidate is slower.
    """
    gates: list[Gate] = []
    with Session(reference, _CPU_ONLY) as source, Session(candidate, _CPU_ONLY) as made:
        feeds = [prepared(source, frame) for frame in material.calibration]
        limit = recipe.min_correlation if material.judged else recipe.min_correlation_alone
        gates.append(check_parity(source.predict, made.predict, feeds, min_correlation=limit))
        say(f"parity: {gates[-1].detail}")
        accuracies: tuple[float | None, float | None] = (None, None)
        if material.judged:
            before, after = map50(source, material.judged), map50(made, material.judged)
            accuracies = (before, after)
            gates.append(check_accuracy(before, after, max_drop=max_drop, where=material.judged_source))
            say(f"accuracy: {gates[-1].detail}")
    gate, times = _prove_speed(reference, candidate, choose_timed(feeds), recipe, device_kind)
    gates.append(gate)
    say(f"speed: {gate.detail}")
    figures = [
        Figures(
            latency_ms=each.mean_of_medians_ms, latency_p95_ms=each.p95_ms, size_bytes=_size(bundle), map50=accuracy
        )
        for each, bundle, accuracy in zip(times, (reference, candidate), accuracies, strict=True)
    ]
    return Proof(figures[0], figures[1], tuple(gates))


def choose_timed(feeds: Sequence[Feed]) -> list[Feed]:
    """Returns a few inputs of every shape, so that small and large frames both count."""
    by_shape: dict[tuple[tuple[int, ...], ...], list[Feed]] = {}
    for feed in feeds:
        by_shape.setdefault(tuple(array.shape for array in feed.values()), []).append(feed)
    return [feed for group in by_shape.values() for feed in group[:TIMED_PER_SHAPE]][:TIMED_MAX]


def _prove_speed(
    reference: Bundle, candidate: Bundle, feeds: Sequence[Feed], recipe: Recipe, kind: DeviceKind
) -> tuple[Gate, tuple[Times, Times]]:
    """Times both on the wanted kind of device, or on the CPU without a verdict where it isn't here."""
    devices = [device for device in OrtBackend().probe() if device.kind == kind]
    cpu = next(device for device in OrtBackend().probe() if device.kind == "cpu")
    device = devices[0] if devices else cpu
    with _loaded(_model(reference), device, "fp32") as one, _loaded(_model(candidate), device, recipe.precision) as two:
        times = time_pair(one, two, feeds)
    if not devices:
        return unproven_speed(kind, max_slowdown=recipe.max_slowdown), times
    where = f"{device.name} {device}, {THREADS} thread, {len(feeds)} frames"
    return check_speed(*times, max_slowdown=recipe.max_slowdown, where=where), times


@contextlib.contextmanager
def _loaded(model: Path, device: Device, precision: str) -> Iterator[Run]:
    options = LoadOptions(threads=THREADS, precision="int8" if precision == "int8" else "fp32")
    executable = OrtBackend().load(model, device, options)
    try:
        yield executable.run
    finally:
        executable.close()


def _model(bundle: Bundle) -> Path:
    return bundle.file(bundle.manifest.variants[0].file)


def _size(bundle: Bundle) -> int:
    return bundle.manifest.files[bundle.manifest.variants[0].file].size
