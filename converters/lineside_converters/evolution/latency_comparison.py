"""Times of two bundles: whole verdicts in turn on this machine, or inferences on a device of the fleet."""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_converters.candidate import CandidateVariant
from lineside_converters.gates.statistics import CONFIDENCE, RESAMPLES, SEED
from lineside_converters.gates.timing_bundle import write_timing_bundle
from lineside_converters.options import DeviceTimer
from lineside_converters.reports.report_parts import ReportStruct
from lineside_link.messages import Shapes, VariantTimes
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_runtime.bundle import Bundle, Variant
from lineside_runtime.errors import TimingError
from lineside_runtime.session import Session
from lineside_runtime.timing import interleave

FRAMES, ROUNDS = 6, 16

Floats = npt.NDArray[np.float64]


class LatencyComparison(ReportStruct, frozen=True, kw_only=True):
    """Times of both bundles.

    Attributes:
        where: The machine or device.
        what: ``verdict``: from the frame to its verdict; ``inference``: the network alone.
        before_ms: Of the deployed bundle: median over the rounds, geometric mean over the frames.
        ratio: Candidate's share of the deployed one's time, of paired rounds.
        low: Lower end of its 95 % interval.
    """

    where: str
    what: str
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float


def compare_here(deployed: Bundle, candidate: Bundle, frames: Sequence[Frame]) -> LatencyComparison:
    """Times whole verdicts in turn."""
    with Session(deployed) as one, Session(candidate) as other:
        inspectors = {"before": Inspector(one), "after": Inspector(other)}
        times = np.zeros((2, len(frames), ROUNDS))
        for row, frame in enumerate(frames):
            calls = {name: partial(each.inspect, frame) for name, each in inspectors.items()}
            for number, took in enumerate(islice(interleave(calls), ROUNDS)):
                times[:, row, number] = took["before"][0], took["after"][0]
        where = f"this machine ({other.used_device})"
    return compared_times(times[0], times[1], where=where, what="verdict")


def compared_times(before: Floats, after: Floats, *, where: str, what: str) -> LatencyComparison:
    """Compares times.

    Args:
        before: ``(frames, rounds)`` milliseconds of the deployed bundle.
        after: The same of the candidate; a round of both is a pair.
    """
    logs = np.log(after) - np.log(before)
    rounds = logs.shape[1]
    drawn = np.random.default_rng(SEED).integers(rounds, size=(RESAMPLES, rounds))
    means = np.median(logs[:, drawn], axis=2).mean(axis=0)
    low, high = np.exp(np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)))
    return LatencyComparison(
        where=where,
        what=what,
        before_ms=_typical(before),
        after_ms=_typical(after),
        ratio=math.exp(float(np.median(logs, axis=1).mean())),
        low=float(low),
        high=float(high),
    )


def _typical(times: Floats) -> float:
    return float(np.exp(np.log(np.median(times, axis=1)).mean()))


def compare_on(
    timer: DeviceTimer, deployed: Bundle, candidate: Bundle, frames: Sequence[Frame], *, work: Path
) -> LatencyComparison:
    """Has a device time the networks of both bundles, in turn where their inputs are alike.

    Args:
        work: For the bundle that is sent.

    Raises:
        TimingError: The device may not or can't, or runs no variant of one of them.
        BrokerError: It does not answer.
    """
    bundles = {"before": deployed, "after": candidate}
    shapes = {name: _shapes(bundle, frames) for name, bundle in bundles.items()}
    alike = shapes["before"] == shapes["after"]
    answers: dict[str, VariantTimes] = {}
    for group in [list(bundles)] if alike else [[name] for name in bundles]:
        folder = _write(bundles[group[-1]], {name: bundles[name] for name in group}, work / "timing")
        try:
            answer = timer.time(folder, rounds=2 * ROUNDS, shapes=shapes[group[0]])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for name in group:
            answers[name] = _fastest([each for each in answer.variants if each.variant.startswith(f"{name}-")], timer)
    before, after = (np.array(answers[name].rounds_ms, np.float64) for name in bundles)
    if before.shape != after.shape:  # other inputs: geometric means over the shapes, round by round
        before, after = (np.exp(np.log(each).mean(axis=1, keepdims=True)) for each in (before, after))
    return compared_times(before.T, after.T, where=f"{timer.device}, {answers['after'].device}", what="inference")


def _shapes(bundle: Bundle, frames: Sequence[Frame]) -> Shapes:
    name = bundle.manifest.preprocess.input
    with Session(bundle) as session:
        inspector = Inspector(session)
        found = dict.fromkeys(inspector.prepare(frame).shape for frame in frames)
    return tuple({name: shape} for shape in found)


def _write(model: Bundle, bundles: dict[str, Bundle], folder: Path) -> Path:
    variants = [
        _renamed(prefix, bundle, variant)
        for prefix, bundle in bundles.items()
        for variant in bundle.manifest.variants
        if not variant.stages
    ]
    version = f"{model.manifest.version[:48]}-{secrets.token_hex(4)}"
    return write_timing_bundle(folder, model.manifest, variants, version=version).path


def _renamed(prefix: str, bundle: Bundle, variant: Variant) -> CandidateVariant:
    name = f"{prefix}-{variant.name}"
    named = msgspec.structs.replace(variant, name=name, file=f"{name}/{Path(variant.file).name}")
    return CandidateVariant(variant=named, engine="", file=bundle.file(variant.file))


def _fastest(times: Sequence[VariantTimes], timer: DeviceTimer) -> VariantTimes:
    ran = [each for each in times if each.rounds_ms]
    if not ran:
        raise TimingError(
            f"{timer.device} runs no variant of a bundle that it was to time",
            actual="; ".join(f"{each.variant}: {each.why}" for each in times),
        )
    return min(ran, key=lambda each: float(np.median(np.array(each.rounds_ms))))
