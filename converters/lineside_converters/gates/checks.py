"""Limits of the accuracy and speed gates, and the paired timing of models."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_converters.gates.statistics import Drop, drop_of_mean
from lineside_converters.levels import LevelOptions
from lineside_converters.reports.report import GateResult
from lineside_runtime.errors import AccuracyGateError, SpeedGateError
from lineside_runtime.tensors import Array
from lineside_runtime.timing import interleave

Feed = Mapping[str, Array]
Run = Callable[[Feed], dict[str, Array]]

CALLERS_METRIC = "the caller's metric"

ROUNDS = 10
CALLS = 2
WARM_ROUNDS = 1


def check_accuracy(drop: Drop, *, metric: str, max_drop: float, where: str) -> GateResult:
    """Checks how much lower the task's metric is on the same annotated frames.

    Raises:
        AccuracyGateError: It dropped by more, or a figure is not a number.
    """
    figures = f"{metric} {drop.before:.4f} → {drop.after:.4f}"
    interval = f"{drop.confidence:.0%} interval of the drop {drop.low:+.4f} to {drop.high:+.4f}, on {where}"
    if not drop.drop <= max_drop:
        raise AccuracyGateError(
            "the converted model is less accurate",
            expected=f"a drop of at most {max_drop}",
            actual=f"{figures}; {interval}",
            action="Calibrate on more frames of the line, allow a larger max_drop, or use optimization_level=0.",
        )
    return GateResult(
        name="accuracy",
        status="passed",
        value=drop.drop,
        limit=max_drop,
        detail=f"drop of {figures}; {interval}",
    )


def check_decisions(gate: GateResult, drop: Drop, *, max_drop: float) -> GateResult:
    """Checks what counts at the thresholds: mAP ranks findings, and stays the same where all scores have moved.

    A finding near its threshold may change sides by chance: only a drop whose whole interval is too large fails.

    Args:
        gate: Result of the accuracy gate.
        drop: Drop of the F1 at the thresholds, of the same frames.

    Raises:
        AccuracyGateError: It drops by more.
    """
    figures = f"F1 at the thresholds {drop.before:.4f} → {drop.after:.4f}"
    if drop.low > max_drop:
        raise AccuracyGateError(
            "the converted model's scores have moved away from the thresholds",
            expected=f"a drop of the F1 of at most {max_drop}",
            actual=f"{figures}; {drop.confidence:.0%} interval of the drop {drop.low:+.4f} to {drop.high:+.4f}",
            action="Calibrate on more frames of the line, or allow a larger max_drop (--max-drop) and choose the new "
            "bundle's thresholds with lineside decide.",
        )
    return msgspec.structs.replace(gate, detail=f"{gate.detail}; {figures}")


def check_caller_metric(
    before: Sequence[float], after: Sequence[float], *, max_drop: float, seed: int, name: str = "", where: str = ""
) -> tuple[GateResult, Drop]:
    """Checks how much lower the caller's own metric is, or that of a model whose inputs are no frames.

    Args:
        before: A score a sample of the model that was given; higher is better.
        after: Value of the new model, in the same order.
        name: Of the metric; empty for the caller's.
        where: What it is measured on; empty for the caller's samples.

    Raises:
        AccuracyGateError: It is lower by more.
        BadInputFormatError: A score is not a number, or the two differ in length.
    """
    drop = drop_of_mean(before, after, seed=seed)
    where = where or f"{drop.frames} samples of the caller"
    return check_accuracy(drop, metric=name or CALLERS_METRIC, max_drop=max_drop, where=where), drop


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one model: ``(calls, frames)``."""

    samples_ms: npt.NDArray[np.float64]

    @property
    def mean_of_medians_ms(self) -> float:
        """Mean over the frames of each frame's median."""
        return float(np.median(self.samples_ms, 0).mean())

    @property
    def p95_ms(self) -> float:
        """95th percentile over all calls."""
        return float(np.percentile(self.samples_ms, 95))


def time_together(
    runs: Mapping[str, Run],
    feeds: Sequence[Feed],
    *,
    rounds: int | None = None,
    calls: int = CALLS,
    count: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Times]:
    """Times models in turn on the same inputs (`lineside_runtime.timing`).

    Args:
        runs: The models, by name.
        rounds: How many turns each has on each input, `ROUNDS` if not given; who begins changes from round to round.
        count: Told how many rounds of how many are done.
    """
    rounds = rounds or ROUNDS
    taken = {name: np.zeros((rounds, calls, len(feeds))) for name in runs}
    order = list(runs.items())[::-1]  # behind one round that warms up, who was named first begins
    on_each = (interleave({name: partial(run, feed) for name, run in order}, calls_a_turn=calls) for feed in feeds)
    for number, by_feed in enumerate(itertools.islice(zip(*on_each, strict=True), WARM_ROUNDS + rounds)):
        for name in runs if number >= WARM_ROUNDS else ():
            taken[name][number - WARM_ROUNDS] = np.transpose([times_ms[name] for times_ms in by_feed])
        count(number + 1, WARM_ROUNDS + rounds)
    return {name: Times(samples.reshape(-1, len(feeds))) for name, samples in taken.items()}


def ratio_of(candidate: Times, reference: Times) -> float:
    """Returns the candidate's share of the reference's time: each frame's median over the paired calls, and of those
    the geometric mean, because small and large frames differ.
    """
    return float(np.exp(np.log(np.median(candidate.samples_ms / reference.samples_ms, 0)).mean()))


def max_ratio(level: LevelOptions, min_speedup: float, drop: Drop | None) -> float:
    """Returns the largest share of the float model's time that a variant may take.

    A quantized variant that costs accuracy, or whose accuracy was not compared, must gain something for it.
    """
    costs = level.quantizes and (drop is None or drop.drop > 0)
    return level.max_slowdown / min_speedup if costs else level.max_slowdown


def check_speed(
    reference: Times,
    candidate: Times,
    *,
    max_slowdown: float,
    where: str,
    drop: Drop | None = None,
) -> GateResult:
    """Checks what `time_together` measured.

    Args:
        max_slowdown: Largest median ratio of paired calls; below 1 where a gain is asked for, see `max_ratio`.
        drop: What it costs, for the message.

    Raises:
        SpeedGateError: It is slower, or gains too little.
    """
    ratio = ratio_of(candidate, reference)
    means = f"{reference.mean_of_medians_ms:.2f} → {candidate.mean_of_medians_ms:.2f} ms a frame on {where}"
    figures = f"{ratio:.3f} times the time in paired calls of each frame (means, not paired: {means})"
    if max_slowdown < ratio <= 1:
        cost = "accuracy was not compared" if drop is None else f"accuracy drops by {drop.drop:.4f}"
        raise SpeedGateError(
            f"the converted model is only {1 / ratio:.2f} times as fast as the float model, and {cost}",
            expected=f"at least {1 / max_slowdown:.3g} times as fast, at most {max_slowdown:.3f} times the time",
            actual=figures,
            action="Keep the float model for this machine, or accept less with --min-speedup 1 (min_speedup=1), such "
            "as for the smaller file.",
        )
    if not ratio <= max_slowdown:
        raise SpeedGateError(
            "the converted model is slower",
            expected=f"at most {max_slowdown:.4g} times the source model's time",
            actual=figures,
            action="Keep the float model for this machine, or try another target_device.",
        )
    return GateResult(
        name="speed",
        status="passed",
        value=ratio,
        limit=max_slowdown,
        detail=figures,
    )


def unproven_speed_gate(device: str, *, max_slowdown: float) -> GateResult:
    """Returns the speed gate of a target that isn't here."""
    return GateResult(
        name="speed",
        status="unproven",
        value=None,
        limit=max_slowdown,
        detail=f"speed unproven: no {device} was here to measure on",
    )
