"""Run the gates on candidates beside the source model, and choose what the bundle holds.

The order is that of the costs: outputs on the calibration inputs, then accuracy, then speed, all interleaved.
A candidate that fails is left out with its error; where none is left, the first one's error is the run's.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lineside_converters.calibration_data import AnnotatedFrame, ModelInputs
from lineside_converters.gates.checks import (
    ROUNDS,
    Feed,
    Run,
    Times,
    check_accuracy,
    check_caller_metric,
    check_speed,
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
from lineside_converters.gates.statistics import Drop
from lineside_converters.levels import LevelOptions
from lineside_converters.progress import ProgressReporter
from lineside_converters.reports.report import GateResult, ModelFigures
from lineside_converters.targets import Target
from lineside_converters.tasks import DetectionTask, Task
from lineside_models.postprocess import Candidates
from lineside_runtime.bundle import Manifest, Variant, files_of
from lineside_runtime.errors import ConvertError, DeviceError, LinesideError, UnsupportedModelError
from lineside_runtime.precision import Precision

TIMED_PER_SHAPE = 2
TIMED_MAX = 6
SAME_SPEED = 0.03
"""Two variants of one engine whose times are this near are equally fast; then the one that is nearer to the source."""

_SOURCE = "source"
_CANNOT = (ConvertError, DeviceError, UnsupportedModelError)

CallerMetric = Callable[[Run], Sequence[float]]
"""Takes what runs a model (inputs by name to outputs by name) and returns a score a sample; higher is better."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CandidateVariant:
    """One form of the model, not proved yet.

    Attributes:
        variant: As it would stand in the manifest.
        engine: That it is made for.
        file: The model's file.
    """

    variant: Variant
    engine: str
    file: Path

    @property
    def size_bytes(self) -> int:
        """Of the model's file, and of its weights beside it."""
        files = files_of(self.variant.format, self.file.name)
        return sum((self.file.parent / name).stat().st_size for name in files)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedVariant:
    """A form of the model that passed its gates.

    Attributes:
        candidate: It.
        place: Where it was measured.
        figures: What was measured.
        gates: What it passed, or couldn't be measured here.
        ratio: Median share of the source model's time in ONNX Runtime, same threads, same inputs, interleaved.
        correlation: Least of an output with the source model's.
        drop: Of the task's metric; ``None`` if that was not measured.
        answers: What it says of the judged frames.
        timed_on: The device that timed it, where that isn't this machine; empty otherwise.
    """

    candidate: CandidateVariant
    place: ExecutionPlace
    figures: ModelFigures
    gates: tuple[GateResult, ...]
    ratio: float
    correlation: float
    drop: Drop | None
    answers: Sequence[Candidates]
    timed_on: str = ""

    @property
    def unproven(self) -> bool:
        """Whether a gate could not be measured, because the target is elsewhere."""
        return any(gate.status == "unproven" for gate in self.gates)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RejectedVariant:
    """A form of the model that is not shipped.

    Attributes:
        name: Of the variant.
        engine: That it was meant for.
        precision: It would have had.
        why: The measured reason, or why it couldn't be made.
        error: The gate that it failed; ``None`` if it couldn't be made, or another is faster.
        latency_ms: Of a frame; ``None`` if it wasn't timed.
        size_bytes: Of its files; 0 if there are none.
    """

    name: str
    engine: str
    precision: str
    why: str
    error: LinesideError | None = None
    latency_ms: float | None = None
    size_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CandidateEvaluation:
    """What was measured of all of them.

    Attributes:
        reference: Figures of the source model in ONNX Runtime.
        accepted: What may be shipped, fastest first.
        rejected: What may not, with the reasons.
        truths: Of the judged frames, without their pictures.
        answers: What the source model says of them.
        notes: What a reader has to know of how it was measured.
    """

    reference: ModelFigures
    accepted: tuple[EvaluatedVariant, ...]
    rejected: tuple[RejectedVariant, ...]
    truths: Sequence[AnnotatedFrame]
    answers: Sequence[Candidates]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What everything is proved against.

    Attributes:
        source: The float ONNX file that was given.
        clean: It after level 0.
        manifest: How frames go in and answers come out.
        material: The inputs.
        recipe: Brings the limits of parity and speed.
        target: Where it is to run.
        task: How it is judged; ``None`` where the outputs are the caller's.
        metric: The caller's own: takes what runs a model, returns a score a sample, higher is better.
        max_drop: How much lower the metric may be.
        seed: Of the interval's draws.
    """

    source: Path
    clean: Path
    manifest: Manifest
    inputs: ModelInputs
    recipe: LevelOptions
    target: Target
    task: Task | None
    metric: CallerMetric | None = None
    max_drop: float
    seed: int = 20


@dataclasses.dataclass(slots=True)
class _Subject:
    """A candidate on its way through the gates."""

    candidate: CandidateVariant
    place: ExecutionPlace
    run: Run
    parity: GateResult
    gates: list[GateResult]
    drop: Drop | None = None
    answers: Sequence[Candidates] = ()


Settle = Callable[[list[EvaluatedVariant], list[RejectedVariant]], "tuple[Times | None, list[EvaluatedVariant]]"]
"""Puts the speed gate to times of another machine: `lineside_converters.gates.remote_timing.Elsewhere.settle`."""


def prove(
    terms: Terms, candidates: Sequence[CandidateVariant], progress: ProgressReporter, settle: Settle | None = None
) -> CandidateEvaluation:
    """Measures candidates beside the source model.

    Args:
        terms: What they must prove, and on what.
        candidates: In the order of the target's engines.
        voice: Told what was found.
        settle: Times what passed the other gates elsewhere.

    Raises:
        ParityGateError: No candidate passes, and the first one's outputs differ by too much.
        AccuracyGateError: The same, and its accuracy drops by more than ``max_drop``.
        SpeedGateError: The same, and it is slower than the float model.
        DeviceError: None of them runs here.
    """
    with contextlib.ExitStack() as stack:
        cpu = execution_place("ort", "cpu")
        wanted = execution_place("ort", terms.target.kind)
        source = stack.enter_context(_load(terms, terms.source, wanted if wanted.wanted else cpu, "fp32"))
        remembered = CachedModel(source)
        refused: list[RejectedVariant] = []
        subjects = [
            subject
            for made in candidates
            if (subject := _through_parity(terms, made, remembered, stack, refused, progress)) is not None
        ]
        truths, answers = _through_accuracy(terms, source, subjects, refused, progress)
        feeds = choose_timed(terms.inputs.calibration)
        times = _time(terms, source, subjects, feeds, stack, progress)
        says = progress if settle is None else ProgressReporter(lambda _: None)  # whoever settles it says so
        proved = [one for subject in subjects if (one := _through_speed(terms, subject, times, refused, says))]
    reference = times[_SOURCE]
    if settle is not None:
        found, proved = settle(proved, refused)
        reference = found or reference
    if not proved:
        raise _first_error(refused)
    kept, slower = fastest_of_each_engine(proved)
    return CandidateEvaluation(
        reference=_figures(reference, terms.source.stat().st_size, terms.task, _before(proved)),
        accepted=tuple(kept),
        rejected=(*refused, *slower),
        truths=truths,
        answers=answers,
    )


def choose_timed(feeds: Sequence[Feed]) -> list[Feed]:
    """Returns a few inputs of every shape, so that small and large frames both count."""
    by_shape: dict[tuple[tuple[int, ...], ...], list[Feed]] = {}
    for feed in feeds:
        by_shape.setdefault(tuple(array.shape for array in feed.values()), []).append(feed)
    return [feed for group in by_shape.values() for feed in group[:TIMED_PER_SHAPE]][:TIMED_MAX]


def feed_per_shape(terms: Terms) -> list[Feed]:
    """Returns a calibration input of each shape that is timed."""
    feeds = choose_timed(terms.inputs.calibration)
    return list({tuple(array.shape for array in feed.values()): feed for feed in feeds}.values())


def _load(
    terms: Terms, model: Path, place: ExecutionPlace, precision: Precision
) -> contextlib.AbstractContextManager[Run]:
    return open_model(model, place, terms.manifest, precision=precision, threads=terms.target.threads)


def _through_parity(
    terms: Terms,
    made: CandidateVariant,
    source: Run,
    stack: contextlib.ExitStack,
    refused: list[RejectedVariant],
    progress: ProgressReporter,
) -> _Subject | None:
    recipe, judged = terms.recipe, bool(terms.inputs.judged) or terms.metric is not None
    reading = reading_of(terms.manifest.postprocess)
    feeds = terms.inputs.calibration
    try:
        place = execution_place(made.engine, terms.target.kind)
        run = stack.enter_context(_load(terms, made.file, place, made.variant.precision))
        gate = check_parity(
            source,
            run,
            list(progress.through(feeds, f"{made.variant.name}: outputs")),
            min_correlation=recipe.least(judged=judged, read=reading is not None),
            reading=reading,
        )
    except _CANNOT as error:
        refused.append(refuse(made, error))
        progress.say(f"{made.variant.name}: left out: {error}")
        return None
    progress.say(f"{made.variant.name}: parity: {gate.detail}")
    return _Subject(made, place, run, gate, [gate])


def _through_accuracy(
    terms: Terms, source: Run, subjects: list[_Subject], refused: list[RejectedVariant], progress: ProgressReporter
) -> tuple[Sequence[AnnotatedFrame], Sequence[Candidates]]:
    """Judges all that are left; those that fail are taken out of ``subjects``."""
    inputs, task = terms.inputs, terms.task
    truths: Sequence[AnnotatedFrame] = ()
    answers: Mapping[str, Sequence[Candidates]] = {_SOURCE: ()}
    if task is not None and inputs.judged and subjects:
        runs = {_SOURCE: source, **{one.candidate.variant.name: one.run for one in subjects}}
        truths, answers = answer_frames(runs, inputs.judged, terms.manifest, progress, "accuracy")
    before = terms.metric(source) if terms.metric is not None and subjects else None
    for subject in list(subjects):
        name = subject.candidate.variant.name
        try:
            if before is not None and terms.metric is not None:
                gate, subject.drop = check_caller_metric(
                    before, terms.metric(subject.run), max_drop=terms.max_drop, seed=terms.seed
                )
            elif task is not None and truths:
                subject.answers = answers[name]
                subject.drop = task.drop(truths, answers[_SOURCE], answers[name], seed=terms.seed)
                gate = check_accuracy(
                    subject.drop, metric=task.metric, max_drop=terms.max_drop, where=inputs.evaluation_source
                )
            else:
                continue
        except ConvertError as error:
            subjects.remove(subject)
            refused.append(refuse(subject.candidate, error))
            progress.say(f"{name}: left out: {error}")
        else:
            subject.gates.append(gate)
            progress.say(f"{name}: accuracy: {gate.detail}")
    return truths, answers[_SOURCE]


def _time(
    terms: Terms,
    source: Run,
    subjects: Sequence[_Subject],
    feeds: Sequence[Feed],
    stack: contextlib.ExitStack,
    progress: ProgressReporter,
) -> dict[str, Times]:
    """Times the source, each candidate, and the float model on each candidate's own engine where that reads ONNX."""
    runs = {_SOURCE: source, **{one.candidate.variant.name: one.run for one in subjects}}
    for subject in subjects:
        name = _float_on(subject.place)
        if terms.recipe.quantizes and subject.place.engine != "ort" and name not in runs:
            with contextlib.suppress(*_CANNOT):
                runs[name] = stack.enter_context(_load(terms, terms.clean, subject.place, "fp32"))
                runs[name](feeds[0])
    counted = partial(progress.count, "speed")
    times = time_together(runs, feeds, count=counted)
    slow = [one for one in subjects if _ratio(one, times) > terms.recipe.max_slowdown]
    if not slow or not terms.target.here:
        return times
    # Nobody is refused on one measurement, as something else may have struck it alone: a longer one decides.
    return time_together(runs, feeds, rounds=2 * ROUNDS, count=counted)


def _reference(subject: _Subject, times: Mapping[str, Times]) -> Times:
    """Returns the float model's times in ONNX Runtime or the candidate's own engine, whichever is faster."""
    own = times.get(_float_on(subject.place), times[_SOURCE])
    return min(own, times[_SOURCE], key=lambda one: one.mean_of_medians_ms)


def _ratio(subject: _Subject, times: Mapping[str, Times]) -> float:
    return ratio_of(times[subject.candidate.variant.name], _reference(subject, times))


def _float_on(place: ExecutionPlace) -> str:
    return f"float on {place}"


def _through_speed(
    terms: Terms,
    subject: _Subject,
    times: Mapping[str, Times],
    refused: list[RejectedVariant],
    progress: ProgressReporter,
) -> EvaluatedVariant | None:
    made, own = subject.candidate, times[subject.candidate.variant.name]
    reference = _reference(subject, times)
    limit, where = terms.recipe.max_slowdown, _where(terms, subject.place)
    try:
        if not (terms.target.here and subject.place.wanted):
            gate = unproven_speed_gate(terms.target.name, max_slowdown=limit)
        else:
            gate = check_speed(reference, own, max_slowdown=limit, where=where)
    except ConvertError as error:
        refused.append(refuse(made, error, own.mean_of_medians_ms))
        progress.say(f"{made.variant.name}: left out: {error}")
        return None
    progress.say(f"{made.variant.name}: speed: {gate.detail}")
    after = None if subject.drop is None else subject.drop.after
    return EvaluatedVariant(
        candidate=made,
        place=subject.place,
        figures=_figures(own, made.size_bytes, terms.task, after),
        gates=(*subject.gates, gate),
        ratio=ratio_of(own, times[_SOURCE]),
        correlation=subject.parity.value or 0.0,
        drop=subject.drop,
        answers=subject.answers,
    )


def _where(terms: Terms, place: ExecutionPlace) -> str:
    threads = terms.target.threads
    return f"{place.device.name} {place}, {threads} thread{'s' if threads > 1 else ''}"


def _figures(times: Times, size_bytes: int, task: Task | None, metric: float | None) -> ModelFigures:
    return ModelFigures(
        latency_ms=times.mean_of_medians_ms,
        latency_p95_ms=times.p95_ms,
        size_bytes=size_bytes,
        map50=metric if isinstance(task, DetectionTask) else None,
    )


def _before(proved: Sequence[EvaluatedVariant]) -> float | None:
    return next((one.drop.before for one in proved if one.drop is not None), None)


def refuse(made: CandidateVariant, error: LinesideError, latency_ms: float | None = None) -> RejectedVariant:
    """Returns what is said of a form that failed."""
    return RejectedVariant(
        name=made.variant.name,
        engine=made.engine,
        precision=made.variant.precision,
        why=str(error),
        error=error,
        latency_ms=latency_ms,
        size_bytes=made.size_bytes,
    )


def _first_error(refused: Sequence[RejectedVariant]) -> LinesideError:
    gates = [one.error for one in refused if isinstance(one.error, ConvertError)]
    others = [one.error for one in refused if one.error is not None]
    return (gates or others or [ConvertError("nothing could be made of this model")])[0]


def fastest_of_each_engine(proved: Sequence[EvaluatedVariant]) -> tuple[list[EvaluatedVariant], list[RejectedVariant]]:
    """Returns the fastest form for each engine, fastest engine first, and the others with the reason.

    Where speed could not be measured on the target, that is the fastest of each precision, in the order of the target's
    engines: how INT8 and FP16 compare there, no other device can tell.
    """
    best: dict[str, EvaluatedVariant] = {}
    worse: list[EvaluatedVariant] = []
    for one in proved:
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
    return RejectedVariant(
        name=worse.candidate.variant.name,
        engine=worse.candidate.engine,
        precision=worse.candidate.variant.precision,
        why=f"{better.candidate.variant.name} takes {better.figures.latency_ms:.2f} ms on the same engine at a "
        f"correlation of {better.correlation:.4f}, this {worse.figures.latency_ms:.2f} ms at {worse.correlation:.4f}",
        latency_ms=worse.figures.latency_ms,
        size_bytes=worse.candidate.size_bytes,
    )
