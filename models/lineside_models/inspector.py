"""`Inspector`: frames in, verdicts out, with whatever bundle a session has loaded."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from lineside_models import preprocess
from lineside_models.frame import Frame, UInt8Array
from lineside_models.identification.mark_reader import MarkReader
from lineside_models.identification.mark_reading import MarkReading
from lineside_models.identification.part_ids import read_ids
from lineside_models.identification.rules import lookup_fields
from lineside_models.inspection import PROBABILITIES_MAX, Inspection, Timings, Verdict
from lineside_models.metrology.measurement import Measurement
from lineside_models.postprocess import Candidates, Least, decode
from lineside_models.preprocess import Letterbox
from lineside_models.reference.reference_set import ReferenceSet, references_for
from lineside_models.slicing import FrameSlice, merge_slices, slice_frame
from lineside_models.verdict.decision import Decision, VerdictPolicy
from lineside_models.verdict.good_classes import good_of
from lineside_models.verdict.rules import AT_ROOT, BUNDLES_OWN, Rules
from lineside_runtime.bundle import Bundle, Manifest, Slicing
from lineside_runtime.errors import ConfigError, MarkError, MeasurementError, PartNotFoundError, RegistrationError
from lineside_runtime.session import Pinned, Prediction, Session
from lineside_runtime.tensors import DYNAMIC, Array

if TYPE_CHECKING:
    from lineside_models.identification.expected_values import ExpectedValues

FRAME_ERRORS = (ConfigError, MarkError, MeasurementError, PartNotFoundError, RegistrationError)
"""Errors of one frame, where others may be judged: rules or regions that don't fit its size, another part or none."""

CPU_BATCH_PIXELS = 4 * 224 * 224
"""Pixels of a batch on a CPU. Four images of 224x224 take 3 % less time each than one alone; of 640x640, whose
activations leave the cache, two take 4 % more and four 9 %."""


PROBABILITY_MOST = 1.05
"""Score above which a model's scores are no probabilities. Rounding of FP16 and INT8 outputs stays below."""

log = logging.getLogger("lineside.models")


@dataclasses.dataclass(frozen=True, slots=True)
class _Prepared:
    """Prepared slice of a frame."""

    index: int
    piece: FrameSlice
    tensor: Array
    letterbox: Letterbox
    preprocess_ms: float


@dataclasses.dataclass(slots=True)
class _Answers:
    """Results of one frame so far."""

    found: list[tuple[FrameSlice, Candidates]] = dataclasses.field(default_factory=list)
    last: Prediction | None = None
    fallbacks: int = 0
    cache_hits: int = 0
    preprocess_ms: float = 0.0
    inference_ms: float = 0.0
    postprocess_ms: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class FrameCandidates:
    """All candidates of a frame, before the decision.

    Attributes:
        candidates: Of the whole frame, those of its pieces put together.
        timings: By stage, the sum of its pieces.
        prediction: The last one, for bundle and devices.
        fallbacks: Calls that another device answered than the first one asked for.
        cache_hits: Calls that the result cache answered.
    """

    candidates: Candidates
    timings: Timings
    prediction: Prediction
    fallbacks: int = 0
    cache_hits: int = 0


class Inspector:
    """Inspects frames; thread-safe.

    The session may be reloaded at any time: each frame is prepared, run and decoded by the manifest of the bundle
    that answers it.

    Attributes:
        session: Holds the bundle.
        rules: Laid over the bundle's own.
    """

    def __init__(
        self,
        session: Session,
        *,
        batch_size: int = 16,
        rules: Rules = BUNDLES_OWN,
        references: Sequence[UInt8Array] = (),
        expected: ExpectedValues | None = None,
        where: Callable[[str], str] = AT_ROOT,
    ) -> None:
        """Makes an inspector.

        Args:
            session: Stays the caller's to close.
            batch_size: At most so many frames, or pieces of frames, go through the model at once; on a CPU at most
                `CPU_BATCH_PIXELS`, or one.
            rules: Laid over the bundle's own.
            references: Images of good parts to compare with, in place of those in the bundle.
            expected: What marks must agree with, by part.
            where: Returns the path of a rule by its key, for the message of an error.

        Raises:
            ConfigError: ``batch_size`` is below 1, the rules don't fit the bundle, it compares with references and has
                none, it compares with none and some are given, or ``read`` needs expected values.
            MissingExtraError: What reads the marks of a rule in ``read`` is not installed.
            RegistrationError: A reference shows nothing to register by.
        """
        if batch_size < 1:
            raise ConfigError("batch_size", expected="an integer of at least 1", actual=batch_size)
        self.session = session
        self.rules = rules
        self._batch_size = batch_size
        self._given = tuple(references)
        self._references = (session.bundle.digest, references_for(session.bundle, self._given))
        self._decider = VerdictPolicy(session.manifest, rules, where=where)
        self._marks = MarkReader(rules.read, expected, rules.locate)

    @property
    def thresholds(self) -> dict[str, float]:
        """Least score of a defect of each type, by the rules and the bundle."""
        return self._decider.thresholds

    def inspect(self, frame: Frame, *, confidence_threshold: float | None = None) -> Inspection:
        """Inspects one frame.

        Args:
            frame: What a camera gave.
            confidence_threshold: Least score of a defect, 0 to 1, instead of any other threshold; ``None`` for the
                rules' or the bundle's own, by type.

        Raises:
            ConfigError: The bundle's post-processing is not known here, or the rules don't fit the bundle or the frame.
            MeasurementError: The rules in ``measure`` don't fit the frame or the calibration.
            MarkError: The rules in ``read`` don't fit the frame.
            RegistrationError: The frame can't be compared with the reference.
            DeviceError: Every device failed.
        """
        return self.inspect_batch([frame], confidence_threshold=confidence_threshold)[0]

    def inspect_batch(
        self, frames: Sequence[Frame], *, confidence_threshold: float | None = None, cut_out: bool = False
    ) -> list[Inspection]:
        """Inspects frames; those whose tensors have one shape go through the model together.

        Args:
            confidence_threshold: As for `inspect`.
            cut_out: Whether they are pieces of a frame, which `Rules.frame_problem` doesn't judge: a piece
                of a good part can be of one grey value.

        Returns:
            One verdict a frame, in their order. A frame's share of its batch's time is its ``inference_ms``.

        Raises:
            ConfigError: As for `inspect`.
            MeasurementError: As for `inspect`.
            MarkError: As for `inspect`.
            RegistrationError: A frame can't be compared with the reference.
            DeviceError: Every device failed.
        """
        with self.session.pinned() as pinned:
            decider = self._decider_for(pinned.manifest, confidence_threshold)
            least = _least_score(decider)
            if self._slicing(pinned.manifest) is not None:
                least = float(np.min(least))  # what an edge cut in two may be surer in the other piece
            found = self._find(frames, pinned, least)
        return [
            _verdict(frame, finding, decider, self._marks, cut_out=cut_out)
            for frame, finding in zip(frames, found, strict=True)
        ]

    def find(self, frames: Sequence[Frame]) -> list[FrameCandidates]:
        """Returns all candidates of frames above the raw floor, for evaluations and thresholds.

        Raises:
            ConfigError: The bundle's post-processing is not known here.
            RegistrationError: A frame can't be compared with the reference.
            DeviceError: Every device failed.
        """
        with self.session.pinned() as pinned:
            return self._find(frames, pinned, 0.0)

    def prepare(self, frame: Frame) -> Array:
        """Returns the input of a whole frame: ``(1, C, H, W)``.

        Raises:
            RegistrationError: The frame can't be compared with the reference.
        """
        bundle = self.session.bundle
        return preprocess.prepare(self.compose(frame, bundle), bundle.manifest.preprocess)[0]

    def compose(self, frame: Frame, bundle: Bundle) -> UInt8Array:
        """Returns the image that the pre-processing of a bundle takes: composed with its reference, if it has one.

        Raises:
            RegistrationError: The frame can't be compared with the reference.
        """
        references = self._references_of(bundle)
        return frame.image if references is None else references.compose(frame.image).image

    @property
    def reads_part_id(self) -> bool:
        """Whether a rule reads the part's id."""
        return any(rule.part_id for rule in self.rules.read)

    @property
    def needs_part_id(self) -> bool:
        """Whether marks are compared with expected values of a part whose id no rule reads here."""
        return not self.reads_part_id and bool(lookup_fields(self.rules.read))

    def frame_problem(self, frame: Frame) -> str:
        """Returns why a frame can't be judged, as `Rules.frame_problem`; empty if it can."""
        return self.rules.frame_problem(frame.image)

    def _find(self, frames: Sequence[Frame], pinned: Pinned, least_score: Least) -> list[FrameCandidates]:
        answers = [_Answers() for _ in frames]
        for batch in self._batches(frames, pinned.bundle):
            _run(batch, pinned, answers, least_score)
        good = good_of(pinned.manifest.postprocess)
        return [_finding(each, frame.size, good) for each, frame in zip(answers, frames, strict=True)]

    def _batches(self, frames: Sequence[Frame], bundle: Bundle) -> Iterator[list[_Prepared]]:
        manifest = bundle.manifest
        size = self._batch_size if _free_batch(manifest) else 1
        most_pixels = CPU_BATCH_PIXELS if "/cpu" in self.session.used_device else math.inf
        slicing = self._slicing(manifest)
        waiting: dict[tuple[int, ...], list[_Prepared]] = {}
        for index, frame in enumerate(frames):
            started_ns = time.perf_counter_ns()
            whole = self.compose(frame, bundle)
            for piece in slice_frame(frame.size, slicing):
                image = whole[piece.y1 : piece.y2, piece.x1 : piece.x2]
                tensor, letterbox = preprocess.prepare(image, manifest.preprocess)
                took_ms = (time.perf_counter_ns() - started_ns) / 1e6
                batch = waiting.setdefault(tensor.shape, [])
                batch.append(_Prepared(index, piece, tensor, letterbox, took_ms))
                height, width = tensor.shape[-2:]
                if len(batch) == size or (len(batch) + 1) * height * width > most_pixels:
                    yield waiting.pop(tensor.shape)
                started_ns = time.perf_counter_ns()
        yield from waiting.values()

    def _references_of(self, bundle: Bundle) -> ReferenceSet | None:
        digest, references = self._references
        if digest != bundle.digest:  # the session was reloaded
            references = references_for(bundle, self._given)
            self._references = (bundle.digest, references)
        return references

    def _slicing(self, manifest: Manifest) -> Slicing | None:
        own = manifest.preprocess.slicing
        return self.rules.slicing_of(None if own is msgspec.UNSET else own)

    def _decider_for(self, manifest: Manifest, threshold: float | None) -> VerdictPolicy:
        if threshold is not None:
            if not 0 <= threshold <= 1:  # NaN, or per cent, would pass every part
                raise ConfigError("confidence_threshold", expected="None or a number 0 to 1", actual=threshold)
            only = {"confidence_threshold": threshold, "thresholds": {}, "unsure_from": {}}
            return VerdictPolicy(manifest, msgspec.structs.replace(self.rules, **only))
        if self._decider.manifest is not manifest:  # the session was reloaded
            self._decider = VerdictPolicy(manifest, self.rules)
        return self._decider


def _least_score(decider: VerdictPolicy) -> Least:
    """Returns the least score to decode; 0 for anomaly models, whose strongest region scores the frame."""
    return 0.0 if decider.manifest.task == "anomaly" else decider.least_score


def _anomaly_score(found: Candidates, manifest: Manifest) -> float | None:
    return float(found.scores[0]) if manifest.task == "anomaly" and len(found) else None


def _probabilities(found: Candidates, manifest: Manifest) -> dict[str, float]:
    if manifest.postprocess.name != "classification":
        return {}
    best: dict[str, float] = {}
    for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True):
        best.setdefault(manifest.labels[label], score)  # a frame in pieces has several of a class, the best first
        if len(best) == PROBABILITIES_MAX:
            break
    return best


def _free_batch(manifest: Manifest) -> bool:
    name = manifest.preprocess.input
    return any(spec.name == name and spec.shape and spec.shape[0] == DYNAMIC for spec in manifest.inputs)


def _run(batch: list[_Prepared], pinned: Pinned, answers: list[_Answers], least_score: Least) -> None:
    manifest = pinned.manifest
    tensor = batch[0].tensor if len(batch) == 1 else np.concatenate([prepared.tensor for prepared in batch])
    prediction = pinned.infer({manifest.preprocess.input: tensor})
    started_ns = time.perf_counter_ns()
    letterboxes = [prepared.letterbox for prepared in batch]
    found = decode(prediction.outputs, manifest.postprocess, letterboxes, least_score=least_score)
    postprocess_ms = (time.perf_counter_ns() - started_ns) / 1e6 / len(batch)
    for prepared, candidates in zip(batch, found, strict=True):
        if len(candidates) and candidates.scores[0] > PROBABILITY_MOST:
            _warn_of_logits(manifest.identity, pinned.bundle.digest)
        answer = answers[prepared.index]
        answer.found.append((prepared.piece, candidates))
        answer.last = prediction
        answer.fallbacks += prediction.fell_back
        answer.cache_hits += prediction.cached is not None
        answer.preprocess_ms += prepared.preprocess_ms
        answer.inference_ms += prediction.inference_ms / len(batch)
        answer.postprocess_ms += postprocess_ms


@functools.lru_cache(maxsize=16)
def _warn_of_logits(identity: str, _digest: str) -> None:
    """Warns once a bundle; several inspectors may run it."""
    log.warning(
        "%s: its scores go above 1, so they are no probabilities and no threshold fits them: they are probably logits. "
        'Set activation = "sigmoid" (or "softmax") in postprocess.params if the decoder has it, or export the model '
        "with its sigmoid",
        identity,
    )


def _finding(answer: _Answers, size: tuple[int, int], good: Sequence[int]) -> FrameCandidates:
    if answer.last is None:
        raise ValueError("a frame without a slice has no answer")
    started_ns = time.perf_counter_ns()
    candidates = merge_slices(_agreeing(answer.found, good), size)
    timings = Timings(
        preprocess_ms=answer.preprocess_ms,
        inference_ms=answer.inference_ms,
        postprocess_ms=answer.postprocess_ms + (time.perf_counter_ns() - started_ns) / 1e6,
    )
    return FrameCandidates(candidates, timings, answer.last, answer.fallbacks, answer.cache_hits)


def _agreeing(found: list[tuple[FrameSlice, Candidates]], good: Sequence[int]) -> list[tuple[FrameSlice, Candidates]]:
    """Drops a classifier's good classes unless all slices agree on one."""
    if not good or len(found) == 1 or all(len(each) and each.labels[0] in good for _, each in found):
        return found
    return [(piece, each.only(~np.isin(each.labels, good))) for piece, each in found]


def _verdict(
    frame: Frame, finding: FrameCandidates, decider: VerdictPolicy, marks: MarkReader, *, cut_out: bool
) -> Inspection:
    started_ns = time.perf_counter_ns()
    decision: Decision = decider.decide(finding.candidates, frame.size)
    measured = decider.rules.measured(frame.image)
    read = marks.read(frame.image, frame.part_id, frame.read_id)
    problem = "" if cut_out else decider.rules.frame_problem(frame.image)
    verdict = _with_frame_problem(_with_readings(_with_measurements(decision.verdict, measured), read), problem)
    decided_ms = (time.perf_counter_ns() - started_ns) / 1e6
    timings, prediction = finding.timings, finding.prediction
    height, width = frame.size
    return Inspection(
        part_id=next(iter(read_ids(read)), "") or frame.read_id or frame.part_id,
        source=frame.source,
        sequence=frame.sequence,
        captured_at_ns=frame.captured_at_ns,
        passed=verdict == "good",
        verdict=verdict,
        detections=decision.detections,
        doubtful=decision.doubtful,
        timings=msgspec.structs.replace(timings, postprocess_ms=timings.postprocess_ms + decided_ms),
        bundle=prediction.bundle,
        requested_device=prediction.requested_device,
        used_device=prediction.used_device,
        fallbacks=finding.fallbacks,
        cache_hits=finding.cache_hits,
        width=width,
        height=height,
        near_miss=decision.near_miss,
        anomaly_score=_anomaly_score(finding.candidates, decider.manifest),
        probabilities=_probabilities(finding.candidates, decider.manifest),
        measurements=measured,
        readings=read,
        frame_problem=problem,
    )


def _with_measurements(verdict: Verdict, measured: Sequence[Measurement]) -> Verdict:
    """Returns the verdict with measured values: one out of tolerance is bad; a part that could not be measured never
    passes."""
    if any(not one.in_tolerance and not one.error for one in measured):
        return "bad"
    return "unsure" if verdict == "good" and any(one.error for one in measured) else verdict


def _with_readings(verdict: Verdict, read: Sequence[MarkReading]) -> Verdict:
    """Returns the verdict with marks: one that rejects the part is bad; a part with a fault never passes."""
    if any(one.failure == "reject" for one in read):
        return "bad"
    return "unsure" if verdict == "good" and any(one.failure for one in read) else verdict


def _with_frame_problem(verdict: Verdict, problem: str) -> Verdict:
    """Returns the verdict with what is wrong with the frame: a part that it can't show never passes."""
    return "unsure" if verdict == "good" and problem else verdict
