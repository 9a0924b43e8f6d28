"""Run the gates on a candidate's variants beside the source model, and choose what the bundle holds.

In the order of their cost: outputs on the calibration inputs, accuracy on the evaluation frames, speed, all
interleaved. A variant that fails is rejected with its error; where none is left, the first one's error is the run's.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from lineside_converters.candidate import (
    Candidate,
    CandidateEvaluation,
    CandidateVariant,
    EvaluatedVariant,
    RejectedVariant,
)
from lineside_converters.context import Context
from lineside_converters.data.calibration_data import AnnotatedFrame
from lineside_converters.gates.checks import (
    ROUNDS,
    Feed,
    Run,
    Times,
    check_accuracy,
    check_caller_metric,
    check_decisions,
    check_speed,
    max_ratio,
    ratio_of,
    time_together,
    unproven_speed_gate,
)
from lineside_converters.gates.loaded_models import (
    CachedModel,
    ExecutionPlace,
    answer_frames,
    execution_place,
    open_model,
)
from lineside_converters.gates.parity import check_parity, reading_of
from lineside_converters.gates.statistics import Drop, drop_of_f1
from lineside_converters.reports.report import GateResult, ModelFigures
from lineside_converters.tasks import DetectionTask, Task
from lineside_models.postprocess import Candidates, thresholds_of
from lineside_runtime.errors import ConvertError, DeviceError, LinesideError, UnsupportedModelError
from lineside_runtime.precision import Precision
from lineside_runtime.wording import counted

TIMED_PER_SHAPE = 2
TIMED_MAX = 6
SAME_SPEED = 0.03
"""Two variants of one engine whose times are this near are equally fast; then the one that is nearer to the source."""

_SOURCE = "source"
_CANNOT = (ConvertError, DeviceError, UnsupportedModelError)


class RemoteSpeedGate(Protocol):
    """Puts the speed gate to times of another machine: `lineside_converters.gates.remote_timing.RemoteTiming`."""

    notes: tuple[str, ...]

    def judge(
        self, accepted: Sequence[EvaluatedVariant], rejected: list[RejectedVariant]
    ) -> tuple[Times | None, list[EvaluatedVariant]]:
        """Returns the source model's times there and the variants that pass; appends the others to ``rejected``."""


def run_gates(candidate: Candidate, context: Context, remote: RemoteSpeedGate | None = None) -> CandidateEvaluation:
    """Measures a candidate's variants beside the source model.

    Args:
        remote: Judges the speed of what passed the other gates.

    Raises:
        ParityGateError: No variant passes, and the first one's outputs differ by too much.
        AccuracyGateError: The same, and its accuracy drops by more than ``max_drop``.
        SpeedGateError: The same, and it is slower than the float model, or gains too little for what it costs.
        DeviceError: None of them runs here.
    """
    with contextlib.ExitStack() as stack:
        gates = _GateRun(candidate, context, stack)
        for variant in candidate.variants:
            gates.check_parity(variant)
        gates.check_accuracy()
        gates.time()
        accepted = gates.check_speed(final=remote is None)
    reference, notes = gates.times[_SOURCE], tuple[str, ...]()
    if remote is not None:
        times, accepted = remote.judge(accepted, gates.rejected)
        reference, notes = times or reference, remote.notes
    if not accepted:
        raise _first_error(gates.rejected)
    kept, slower = fastest_of_each_engine(accepted)
    before = next((one.drop.before for one in accepted if one.drop is not None), None)
    return CandidateEvaluation(
        reference=_figures(reference, context.source.model.stat().st_size, context.task, before),
        accepted=tuple(kept),
        rejected=(*gates.rejected, *slower),
        truths=gates.truths,
        answers=gates.answers,
        notes=notes,
    )


@dataclasses.dataclass(slots=True)
class _Subject:
    """A variant on its way through the gates."""

    candidate: CandidateVariant
    place: ExecutionPlace
    run: Run
    parity: GateResult
    gates: list[GateResult]
    drop: Drop | None = None
    answers: Sequence[Candidates] = ()

    @property
    def name(self) -> str:
        return self.candidate.variant.name


class _GateRun:
    """The source model and those variants that have passed so far, loaded.

    Attributes:
        truths: What is truly in the evaluation frames.
        times: By name, of the source model, the variants and the float model on their engines.
    """

    def __init__(self, candidate: Candidate, context: Context, stack: contextlib.ExitStack) -> None:
        self._candidate, self._context, self._stack = candidate, context, stack
        place = execution_place("ort", context.target.kind)
        self._source = self._open(
            context.source.model, place if place.wanted else execution_place("ort", "cpu"), "fp32"
        )
        self._source_outputs = CachedModel(self._source)
        self.subjects: list[_Subject] = []
        self.rejected: list[RejectedVariant] = []
        self.truths: Sequence[AnnotatedFrame] = ()
        self.answers: Sequence[Candidates] = ()
        self.times: Mapping[str, Times] = {}

    def check_parity(self, candidate: CandidateVariant) -> None:
        context, name = self._context, candidate.variant.name
        reading = reading_of(context.manifest.postprocess)
        try:
            place = execution_place(candidate.engine, context.target.kind)
            run = self._open(candidate.file, place, candidate.variant.precision)
            gate = check_parity(
                self._source_outputs,
                run,
                list(context.progress.through(context.inputs.calibration, f"{name}: outputs")),
                min_correlation=context.level.least(judged=context.judges_accuracy, read=reading is not None),
                reading=reading,
            )
        except _CANNOT as error:
            self._reject(candidate, error)
            return
        context.progress.report(f"{name}: parity: {gate.detail}")
        self.subjects.append(_Subject(candidate, place, run, gate, [gate]))

    def check_accuracy(self) -> None:
        """Compares accuracy by the caller's metric, else on the evaluation frames; without either nothing is done."""
        context = self._context
        answers = self._answer()
        metric, task, limits = context.limits.metric, context.task, context.limits
        before = metric(self._source) if metric is not None and self.subjects else None
        for subject in list(self.subjects):
            try:
                if before is not None and metric is not None:
                    after = metric(subject.run)
                    gate, subject.drop = check_caller_metric(
                        before,
                        after,
                        max_drop=limits.max_drop,
                        seed=limits.seed,
                        name=limits.metric_name,
                        where=context.inputs.evaluation_source if limits.metric_name else "",
                    )
                elif task is not None and self.truths:
                    subject.answers = answers[subject.name]
                    subject.drop = task.drop(self.truths, self.answers, subject.answers, seed=limits.seed)
                    where = context.inputs.evaluation_source
                    gate = check_accuracy(subject.drop, metric=task.metric, max_drop=limits.max_drop, where=where)
                    gate = self._check_decisions(gate, subject)
                else:
                    continue
            except ConvertError as error:
                self.subjects.remove(subject)
                self._reject(subject.candidate, error)
            else:
                subject.gates.append(gate)
                context.progress.report(f"{subject.name}: accuracy: {gate.detail}")

    def _check_decisions(self, gate: GateResult, subject: _Subject) -> GateResult:
        """Checks a detector at its thresholds, unless those of a pruned network were fitted anew."""
        context, pruning = self._context, self._candidate.pruning
        if not isinstance(context.task, DetectionTask) or (pruning is not None and pruning.postprocess is not None):
            return gate
        thresholds = thresholds_of(context.manifest.postprocess, len(context.manifest.labels))
        drop = drop_of_f1(self.truths, self.answers, subject.answers, thresholds=thresholds, seed=context.limits.seed)
        return check_decisions(gate, drop, max_drop=context.limits.max_drop)

    def _answer(self) -> Mapping[str, Sequence[Candidates]]:
        """Sets the truths and the source model's answers, and returns those of the variants by name."""
        context = self._context
        if context.task is None or not context.inputs.evaluation or not self.subjects:
            return {}
        runs = {_SOURCE: self._source, **{one.name: one.run for one in self.subjects}}
        self.truths, answers = answer_frames(
            runs, context.inputs.evaluation, context.manifest, context.progress, "accuracy"
        )
        self.answers = answers[_SOURCE]
        return answers

    def time(self) -> None:
        """Times the source, each variant, and the float model on each variant's own engine where that reads ONNX."""
        context = self._context
        feeds = choose_timed(context.inputs.calibration)
        runs = {_SOURCE: self._source, **{one.name: one.run for one in self.subjects}}
        for subject in self.subjects:
            name = _float_on(subject.place)
            if context.level.quantizes and subject.place.engine != "ort" and name not in runs:
                with contextlib.suppress(*_CANNOT):
                    runs[name] = self._open(self._candidate.model, subject.place, "fp32")
                    runs[name](feeds[0])
        count = partial(context.progress.count, "speed")
        self.times = time_together(runs, feeds, count=count)
        slow = any(ratio_of(self.times[one.name], self._reference(one)) > self._limit(one) for one in self.subjects)
        if slow and context.target.here:
            # Nobody is rejected on one measurement, as something else may have struck it alone: a longer one decides.
            self.times = time_together(runs, feeds, rounds=2 * ROUNDS, count=count)

    def check_speed(self, *, final: bool) -> list[EvaluatedVariant]:
        """Returns what passes.

        Args:
            final: Whether these times decide, and are reported; else those of another machine do.
        """
        return [one for subject in self.subjects if (one := self._check_speed_of(subject, final)) is not None]

    def _check_speed_of(self, subject: _Subject, final: bool) -> EvaluatedVariant | None:
        context, own = self._context, self.times[subject.name]
        limit, threads = self._limit(subject), context.target.threads
        where = f"{subject.place.device.name} {subject.place}, {counted(threads, 'thread')}"
        try:
            if final and context.target.here and subject.place.wanted:
                gate = check_speed(self._reference(subject), own, max_slowdown=limit, where=where, drop=subject.drop)
            else:
                gate = unproven_speed_gate(context.target.name, max_slowdown=limit)
        except ConvertError as error:
            self._reject(subject.candidate, error, own.mean_of_medians_ms)
            return None
        if final:
            context.progress.report(f"{subject.name}: speed: {gate.detail}")
        after = None if subject.drop is None else subject.drop.after
        return EvaluatedVariant(
            candidate=subject.candidate,
            place=subject.place,
            figures=_figures(own, subject.candidate.size_bytes, context.task, after),
            gates=(*subject.gates, gate),
            ratio=ratio_of(own, self.times[_SOURCE]),
            correlation=subject.parity.value or 0.0,
            drop=subject.drop,
            answers=subject.answers,
        )

    def _limit(self, subject: _Subject) -> float:
        return max_ratio(self._context.level, self._context.limits.min_speedup, subject.drop)

    def _reference(self, subject: _Subject) -> Times:
        """Returns the float model's times in ONNX Runtime or the variant's own engine, whichever is faster."""
        source = self.times[_SOURCE]
        own = self.times.get(_float_on(subject.place), source)
        return min(own, source, key=lambda one: one.mean_of_medians_ms)

    def _open(self, model: Path, place: ExecutionPlace, precision: Precision) -> Run:
        context = self._context
        return self._stack.enter_context(
            open_model(model, place, context.manifest, precision=precision, threads=context.target.threads)
        )

    def _reject(self, candidate: CandidateVariant, error: LinesideError, latency_ms: float | None = None) -> None:
        self.rejected.append(RejectedVariant.of(candidate, error, latency_ms))
        self._context.progress.report(f"{candidate.variant.name}: left out: {error}")


def choose_timed(feeds: Sequence[Feed]) -> list[Feed]:
    """Returns a few inputs of every shape, so that small and large frames both count."""
    by_shape: dict[tuple[tuple[int, ...], ...], list[Feed]] = {}
    for feed in feeds:
        by_shape.setdefault(tuple(array.shape for array in feed.values()), []).append(feed)
    return [feed for group in by_shape.values() for feed in group[:TIMED_PER_SHAPE]][:TIMED_MAX]


def feed_per_shape(context: Context) -> list[Feed]:
    """Returns a calibration input of each shape that is timed."""
    feeds = choose_timed(context.inputs.calibration)
    return list({tuple(array.shape for array in feed.values()): feed for feed in feeds}.values())


def _float_on(place: ExecutionPlace) -> str:
    return f"float on {place}"


def _figures(times: Times, size_bytes: int, task: Task | None, metric: float | None) -> ModelFigures:
    return ModelFigures(
        latency_ms=times.mean_of_medians_ms,
        latency_p95_ms=times.p95_ms,
        size_bytes=size_bytes,
        map50=metric if isinstance(task, DetectionTask) else None,
    )


def _first_error(rejected: Sequence[RejectedVariant]) -> LinesideError:
    gates = [one.error for one in rejected if isinstance(one.error, ConvertError)]
    others = [one.error for one in rejected if one.error is not None]
    return (gates or others or [ConvertError("nothing could be made of this model")])[0]


def fastest_of_each_engine(
    accepted: Sequence[EvaluatedVariant],
) -> tuple[list[EvaluatedVariant], list[RejectedVariant]]:
    """Returns the fastest variant for each engine, fastest engine first, and the others with the reason.

    Where speed could not be measured on the target, that is the fastest of each precision, in the order of the target's
    engines: how INT8 and FP16 compare there, no other device can tell.
    """
    best: dict[str, EvaluatedVariant] = {}
    worse: list[EvaluatedVariant] = []
    for one in accepted:
        have = best.setdefault(_rivals(one), one)
        if have is not one:
            better, other = (one, have) if _beats(one, have) else (have, one)
            best[_rivals(one)] = better
            worse.append(other)
    kept = list(best.values())
    if not any(one.unproven for one in kept):
        kept.sort(key=lambda one: one.figures.latency_ms)
    return kept, [_outrun(other, best[_rivals(other)]) for other in worse]


def _rivals(one: EvaluatedVariant) -> str:
    return f"{one.candidate.engine} {one.candidate.variant.precision if one.unproven else ''}"


def _beats(one: EvaluatedVariant, other: EvaluatedVariant) -> bool:
    mine, its = one.figures.latency_ms, other.figures.latency_ms
    if abs(mine - its) <= SAME_SPEED * its:
        return one.correlation > other.correlation
    return mine < its


def _outrun(worse: EvaluatedVariant, better: EvaluatedVariant) -> RejectedVariant:
    why = (
        f"{better.candidate.variant.name} takes {better.figures.latency_ms:.2f} ms on the same engine at a correlation "
        f"of {better.correlation:.4f}, this {worse.figures.latency_ms:.2f} ms at {worse.correlation:.4f}"
    )
    return RejectedVariant.of(worse.candidate, why, worse.figures.latency_ms)
