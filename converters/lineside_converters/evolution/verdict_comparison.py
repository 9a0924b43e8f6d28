"""Verdicts of two bundles on the same frames: escapes and false rejects, and the intervals of their differences.

- Paired: both bundles judge the same frames, so that what makes a frame hard cancels out.
- The interval of a difference is Newcombe's (1998, "Improved confidence intervals for the difference between binomial
  proportions based on paired data", method 10), which holds for few errors too. Where several frames show one part it
  is widened to a bootstrap over the parts, as `interval_of_share` does for one bundle.
- The verdict error is the mean of both rates, so that it does not depend on how many bad parts the data have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from lineside_converters.gates.statistics import interval_of_share, widened_by_parts
from lineside_converters.progress import ProgressReporter
from lineside_converters.reports.report_parts import ReportStruct
from lineside_converters.thresholds.frames import FrameSet, read
from lineside_models.inspector import Inspector
from lineside_models.metrics import wilson
from lineside_models.verdict.good_classes import good_of
from lineside_runtime.bundle import Bundle
from lineside_runtime.session import Session

AT_ONCE = 4

Bools = npt.NDArray[np.bool_]


class ErrorDifference(ReportStruct, frozen=True, kw_only=True):
    """Difference of an error rate, candidate minus deployed, with its 95 % interval; below 0 is better."""

    value: float
    low: float
    high: float


class ComparedError(ReportStruct, frozen=True, kw_only=True):
    """An error rate of both bundles on the same frames, with 95 % intervals.

    Attributes:
        of: Frames that can show this error.
        before: Frames on which the deployed bundle errs.
        before_interval: Ends of the interval of its share.
        after: Frames on which the candidate errs.
        mended: Frames on which only the deployed bundle errs.
        new: Frames on which only the candidate errs.
    """

    of: int
    before: int
    before_interval: tuple[float, float]
    after: int
    after_interval: tuple[float, float]
    mended: int
    new: int
    difference: ErrorDifference


class SourceErrors(ReportStruct, frozen=True, kw_only=True):
    """Errors of both bundles on the frames of one data set.

    Attributes:
        escapes: Bad frames that pass, of the deployed bundle and of the candidate.
        false_rejects: Good frames that are rejected, likewise.
    """

    source: str
    bad: int
    good: int
    escapes: tuple[int, int]
    false_rejects: tuple[int, int]


class VerdictComparison(ReportStruct, frozen=True, kw_only=True):
    """Verdicts of two bundles.

    Attributes:
        parts: Parts that the frames show.
        escapes: Bad frames that pass.
        false_rejects: Good frames that are rejected; ``None`` without good frames.
        error: Difference of the mean of both rates; of the escapes alone without good frames.
    """

    frames: int
    parts: int
    escapes: ComparedError
    false_rejects: ComparedError | None
    error: ErrorDifference
    sources: tuple[SourceErrors, ...]


def compare_verdicts(
    deployed: Bundle, candidate: Bundle, frames: FrameSet, *, progress: ProgressReporter
) -> VerdictComparison:
    """Judges frames by both bundles at their own thresholds.

    Args:
        frames: Of `gather_frames` for the candidate, which may know more types.
    """
    bad = _bad(candidate, frames)
    before = _verdicts(deployed, frames, progress)
    after = _verdicts(candidate, frames, progress)
    return compared(bad, before, after, parts=frames.parts, sources=frames.sources)


def compared(
    bad: Bools,
    before: npt.NDArray[np.str_],
    after: npt.NDArray[np.str_],
    *,
    parts: Sequence[str],
    sources: Sequence[str],
) -> VerdictComparison:
    """Compares verdicts of the same frames.

    Args:
        bad: ``(F,)`` which frames show a defect.
        before: ``(F,)`` verdicts of the deployed bundle: ``good``, ``unsure`` or ``bad``.
        after: ``(F,)`` verdicts of the candidate.
        sources: Data set of each frame.
    """
    part_of, source_of = np.asarray(parts), np.asarray(sources)

    def errors(frames: Bools, wrong: str) -> ComparedError:
        return compared_error(before[frames] == wrong, after[frames] == wrong, part_of[frames])

    escapes = errors(bad, "good")
    false_rejects = errors(~bad, "bad") if not bad.all() else None
    return VerdictComparison(
        frames=len(bad),
        parts=len(set(parts)),
        escapes=escapes,
        false_rejects=false_rejects,
        error=escapes.difference if false_rejects is None else _mean(escapes.difference, false_rejects.difference),
        sources=tuple(
            SourceErrors(
                source=name,
                bad=int((bad & here).sum()),
                good=int((~bad & here).sum()),
                escapes=_counts(bad & here, "good", before, after),
                false_rejects=_counts(~bad & here, "bad", before, after),
            )
            for name in dict.fromkeys(sources)
            for here in [source_of == name]
        ),
    )


def _counts(frames: Bools, wrong: str, *verdicts: npt.NDArray[np.str_]) -> tuple[int, int]:
    first, second = (int((each[frames] == wrong).sum()) for each in verdicts)
    return first, second


def compared_error(before: Bools, after: Bools, parts: npt.ArrayLike) -> ComparedError:
    """Compares which frames two bundles err on.

    Args:
        before: ``(F,)`` whether the deployed bundle errs.
        after: ``(F,)`` whether the candidate errs.
        parts: ``(F,)`` the part that each frame shows.
    """
    return ComparedError(
        of=len(before),
        before=int(before.sum()),
        before_interval=interval_of_share(before, parts),
        after=int(after.sum()),
        after_interval=interval_of_share(after, parts),
        mended=int((before & ~after).sum()),
        new=int((after & ~before).sum()),
        difference=_difference(before, after, parts),
    )


def _difference(before: Bools, after: Bools, parts: npt.ArrayLike) -> ErrorDifference:
    count = len(before)
    if not count:
        return ErrorDifference(value=0.0, low=-1.0, high=1.0)
    value = (int(after.sum()) - int(before.sum())) / count
    low, high = widened_by_parts(_newcombe(before, after), after.astype(float) - before, parts)
    return ErrorDifference(value=value, low=low, high=high)


def _newcombe(before: Bools, after: Bools) -> tuple[float, float]:
    """Returns the ends of Newcombe's interval of ``after - before`` for paired shares."""
    count = len(before)
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    gone, new = int((before & ~after).sum()), int((after & ~before).sum())
    margins = (both + gone) * (new + neither) * (both + new) * (gone + neither)
    product = both * neither - gone * new
    # Continuity correction of the correlation, as in the paper.
    numerator = max(product - count / 2, 0) if product > 0 else product
    correlation = numerator / math.sqrt(margins) if margins else 0.0
    first, second = int(after.sum()), int(before.sum())
    (low_a, high_a), (low_b, high_b) = wilson(first, count), wilson(second, count)
    a, b = first / count, second / count

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    return a - b - reach(a - low_a, high_b - b), a - b + reach(high_a - a, b - low_b)


def _mean(one: ErrorDifference, other: ErrorDifference) -> ErrorDifference:
    """Returns the mean of two differences on different frames; their intervals add as squares."""
    value = (one.value + other.value) / 2
    below = math.hypot(one.value - one.low, other.value - other.low) / 2
    above = math.hypot(one.high - one.value, other.high - other.value) / 2
    return ErrorDifference(value=value, low=value - below, high=value + above)


def _bad(bundle: Bundle, frames: FrameSet) -> Bools:
    good = set(good_of(bundle.manifest.postprocess))
    return np.array([bool(set(true.labels.tolist()) - good) for true in read(frames)], bool)


def _verdicts(bundle: Bundle, frames: FrameSet, progress: ProgressReporter) -> npt.NDArray[np.str_]:
    found: list[str] = []
    source = (true.frame for true in read(frames))
    with Session(bundle) as session:
        inspector = Inspector(session, batch_size=AT_ONCE)
        while batch := list(islice(source, AT_ONCE)):
            found += [each.verdict for each in inspector.inspect_batch(batch)]
            progress.count(f"judge by {bundle.manifest.identity}", len(found), len(frames.makers))
    return np.array(found)
