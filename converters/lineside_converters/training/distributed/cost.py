"""Cost of a step: bytes sent, waiting, samples a second, memory; and a prediction for more workers.

The prediction plays a measured step of fewer workers again: gradients are handed over when they were, one bundle after
the other travels, each for as much longer as its scheme sends more with so many workers, and what isn't through at the
end of the backward pass is waited for. It assumes parts of the same size, the same kind of worker, and a link that
gives each worker what it gave before; it knows nothing of switches.
"""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from lineside_converters.training.distributed.exchange import HandedBucket

LEAST_STEPS = 5
"""So many steps after the last change of scheme are enough to say what a step costs."""

Exchanged = tuple[tuple[float, float], ...]
"""Of each bundle of gradients: seconds before the last one's that it was handed over, and that it travelled."""


def relative(handed: Sequence[HandedBucket]) -> Exchanged:
    """Returns the bundles of a step with their times before the last one's hand-over."""
    return tuple((handed[-1].at_s - each.at_s, each.seconds) for each in handed)


@dataclass(frozen=True, slots=True)
class StepCost:
    """Measurements of one step of one worker.

    Attributes:
        seconds: From its forward pass to the optimiser's end.
        waited_s: Of them, the training thread waited for others.
        backward_s: Backward pass, without the waiting.
        rows: This worker's samples.
        bytes_sent: By this worker.
        exchanged: Its gradients, where nothing else is waited for.
    """

    seconds: float
    waited_s: float
    forward_s: float
    backward_s: float
    rows: int
    bytes_sent: float
    exchanged: Exchanged = ()


@dataclass(slots=True)
class CostMeter:
    """Measured steps of one worker.

    Attributes:
        settled_at: Number of the first step after the last change of how gradients travel.
    """

    steps: list[StepCost] = field(default_factory=list)
    settled_at: int = 0

    def settled(self) -> list[StepCost]:
        """Returns the steps since the last change, or all where these are too few."""
        since = self.steps[self.settled_at :]
        return since if len(since) >= LEAST_STEPS else self.steps


class WorkerCost(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one worker, as they are sent to the driver.

    Attributes:
        steps: Measured.
        seconds: Of them together.
        waited_s: Of them, for others.
        rows: Samples of this worker in them.
        step_s: Median.
        compute_s: Median of what isn't waiting.
        memory_bytes: Peak resident memory of the process.
        scheme: How gradients travelled at the end.
        shares: Of a batch, by worker, at the end.
        exchanged: A step's gradients, medians; empty where more than them is waited for.
    """

    steps: int
    seconds: float
    waited_s: float
    rows: int
    bytes_sent: float
    step_s: float
    compute_s: float
    memory_bytes: int
    layout: str
    layout_why: str
    scheme: str
    scheme_why: str
    shares: tuple[float, ...]
    exchanged: Exchanged = ()


def figures_of(
    meter: CostMeter, *, layout: str, layout_why: str, scheme: str, scheme_why: str, shares: Sequence[float]
) -> WorkerCost:
    """Returns a worker's figures; see `WorkerCost`."""
    steps = meter.settled()
    return WorkerCost(
        steps=len(steps),
        seconds=sum(each.seconds for each in steps),
        waited_s=sum(each.waited_s for each in steps),
        rows=sum(each.rows for each in steps),
        bytes_sent=sum(each.bytes_sent for each in steps),
        step_s=_median([each.seconds for each in steps]),
        compute_s=_median([each.seconds - each.waited_s for each in steps]),
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        layout=layout,
        layout_why=layout_why,
        scheme=scheme,
        scheme_why=scheme_why,
        shares=tuple(shares),
        exchanged=_middle([each.exchanged for each in steps], statistics.median),
    )


def _middle(steps: Sequence[Exchanged], middle: Callable[[Sequence[float]], float]) -> Exchanged:
    """Joins bundle by bundle those that were cut as the last one was: DDP cuts anew after its first step."""
    alike = [each for each in steps if len(each) == len(steps[-1])]
    return tuple(
        (middle([before_s for before_s, _ in same]), middle([seconds for _, seconds in same]))
        for same in zip(*alike, strict=True)
    )


class ScalingPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted cost of a step with another number of workers.

    Attributes:
        bytes_per_step: Sent by a worker.
        communication_share: Waiting of a step.
        samples_per_second: Of all workers.
    """

    workers: int
    step_s: float
    bytes_per_step: float
    communication_share: float
    samples_per_second: float


class CostReport(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of training on several workers; ``report.json`` of a run.

    Attributes:
        scheme: How gradients travelled at the end.
        steps: That the figures are of.
        bytes_per_step: Sent by a worker in a step, the mean over workers.
        communication_share: Of the steps' time, that a worker waited for gradients and parameters; the mean.
        samples_per_second: Of all workers together, over the steps' time.
        step_s: Median of a step, the mean over workers.
        compute_s: Median of what of a step isn't waiting, the mean over workers.
        memory_bytes: Peak resident memory of the largest worker's process, with the pictures in it.
        shares: Of a batch, by worker, at the end.
        restarts: How often the workers began again from a checkpoint.
        predicted: What more workers of the same kind would cost, with parts of the same size.
    """

    workers: int
    epochs: int
    layout: str
    layout_why: str
    scheme: str
    scheme_why: str
    steps: int
    bytes_per_step: float
    communication_share: float
    samples_per_second: float
    step_s: float
    compute_s: float
    memory_bytes: int
    shares: tuple[float, ...]
    restarts: int
    predicted: tuple[ScalingPrediction, ...]


def report(workers: Sequence[WorkerCost], *, epochs: int, restarts: int) -> CostReport:
    """Joins the figures of the workers, the first one's first."""
    count, first = len(workers), workers[0]
    mean = statistics.fmean
    base = CostReport(
        workers=count,
        epochs=epochs,
        layout=first.layout,
        layout_why=first.layout_why,
        scheme=first.scheme,
        scheme_why=first.scheme_why,
        steps=first.steps,
        bytes_per_step=mean(each.bytes_sent / each.steps for each in workers),
        communication_share=mean(each.waited_s / each.seconds for each in workers),
        samples_per_second=sum(each.rows for each in workers) / max(each.seconds for each in workers),
        step_s=mean(each.step_s for each in workers),
        compute_s=mean(each.compute_s for each in workers),
        memory_bytes=max(each.memory_bytes for each in workers),
        shares=first.shares,
        restarts=restarts,
        predicted=(),
    )
    if count == 1:
        return base
    exchanged = _middle([each.exchanged for each in workers], mean)
    more = tuple(predict(base, workers=count * factor, exchanged=exchanged) for factor in (2, 4))
    return msgspec.structs.replace(base, predicted=more)


def predict(of: CostReport, *, workers: int, exchanged: Exchanged) -> ScalingPrediction:
    """Predicts a step of more workers from one of fewer.

    Args:
        of: Measured, with at least two workers.
        exchanged: A step's gradients; without them all that was waited is taken to grow as the bytes do.
    """
    growth = ((workers - 1) / workers) / ((of.workers - 1) / of.workers)
    waited_s = of.step_s - of.compute_s
    more_s = _left_over(exchanged, growth) - _left_over(exchanged, 1.0) if exchanged else waited_s * (growth - 1)
    waits_s = waited_s + more_s
    step_s = of.compute_s + waits_s
    rows = of.samples_per_second * of.step_s / of.workers
    return ScalingPrediction(
        workers=workers,
        step_s=step_s,
        bytes_per_step=of.bytes_per_step * growth,
        communication_share=waits_s / step_s,
        samples_per_second=workers * rows / step_s,
    )


def _left_over(exchanged: Exchanged, growth: float) -> float:
    """Returns the seconds behind the last hand-over at which the last bundle is through."""
    through_s = -exchanged[0][0]
    for before_s, seconds in exchanged:
        through_s = max(through_s, -before_s) + seconds * growth
    return through_s


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0
