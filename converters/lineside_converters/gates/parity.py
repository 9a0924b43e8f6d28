"""The parity gate: does a converted model give the source model's outputs for the same inputs?

Compared is what the outputs say, where that is known (`reading_of`): a detector's scores, and its distances where it
sees something. Its raw maps tell less: logits of -7 and of -9 both say "nothing here", and a map of a stride at which
nothing was found is noise in either model. A transformer's queries have no order: a small change of their scores lets
two of them change places, so each is compared with the one that answers as it does. Outputs of other heads, and of
detectors that saw nothing, are compared as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_converters.gates.checks import Feed, Run
from lineside_converters.reports.report import GateResult
from lineside_models.postprocess.decoders.box_scores import answers
from lineside_models.postprocess.decoders.dfl import read_params
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import ParityGateError
from lineside_runtime.tensors import Array

Floats = npt.NDArray[np.float64]
Said = Iterator[tuple[str, Floats, Floats, Floats]]
Reading = Callable[[Mapping[str, Array], Mapping[str, Array]], Said]
"""From both models' outputs of a frame to what they say: a name, two arrays ``(C, N)``, and the weights of the N."""

SEEN_MIN = 0.05
"""Frames on which both models' best score is lower are not compared."""


@dataclasses.dataclass(slots=True)
class _Moments:
    """Sums over all frames from which the centred correlation of two outputs follows, per channel.

    Where the size of axis 1 changes from input to input, as the words of a text do, it is no channel: all of the output
    is one then.
    """

    shape: tuple[int, ...] = ()
    count: float = 0
    a: npt.NDArray[np.float64] | float = 0.0
    b: npt.NDArray[np.float64] | float = 0.0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0

    def add(self, wanted: Array, found: Array) -> None:
        """Adds one frame's outputs ``(B, C, ...)``."""
        a, b = (_by_channel(array) for array in (wanted, found))
        if self.count and self.shape != a.shape[:1]:
            a, b = a.reshape(1, -1), b.reshape(1, -1)
            self._join()
        self.weigh(a, b, np.ones(a.shape[1]))

    def weigh(self, a: Floats, b: Floats, weights: Floats) -> None:
        """Adds ``(C, N)`` of both, each column with its weight."""
        self.shape = a.shape[:1]
        self.count += float(weights.sum())
        self.a = self.a + a @ weights
        self.b = self.b + b @ weights
        self.aa += float(((a * a) @ weights).sum())
        self.bb += float(((b * b) @ weights).sum())
        self.ab += float(((a * b) @ weights).sum())

    def _join(self) -> None:
        """Merges the sums of several channels into one."""
        self.count *= np.size(self.a)
        self.a, self.b = np.sum(self.a, keepdims=True), np.sum(self.b, keepdims=True)

    def correlation(self) -> float:
        """Returns the cosine of both outputs after the mean of the reference, per channel, is subtracted."""
        mean = np.asarray(self.a) / max(self.count, 1e-300)
        ab = self.ab - float(mean @ (np.asarray(self.a) + np.asarray(self.b))) + self.count * float(mean @ mean)
        aa = self.aa - self.count * float(mean @ mean)
        bb = self.bb - 2 * float(mean @ np.asarray(self.b)) + self.count * float(mean @ mean)
        floor = 1e-12 * max(self.aa, self.bb, 1e-300)  # what rounding leaves of a constant
        if aa <= floor and bb <= floor:
            return 1.0  # both constant and equal
        return ab / float(np.sqrt(aa * bb)) if aa > floor and bb > floor else 0.0


def _by_channel(array: Array) -> npt.NDArray[np.float64]:
    values = array.astype(np.float64)
    if values.ndim < 2:
        return values.reshape(1, -1)
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def check_parity(
    reference: Run, candidate: Run, feeds: Sequence[Feed], *, min_correlation: float, reading: Reading | None = None
) -> GateResult:
    """Compares the outputs of two models on the same inputs.

    The measure is the cosine over all frames after each channel's mean is taken away. Without that a map of logits that
    are all near −4.6, as a detector's are where nothing is, has a cosine near 1 with any other such map.

    Args:
        min_correlation: Least correlation of the worst output, or of the worst of what they say.
        reading: What the outputs say, where that is known.

    Raises:
        ParityGateError: It correlates less, or an output is not finite, is missing or has another shape.
    """
    raw: dict[str, _Moments] = {}
    moments_of: dict[str, _Moments] = {}
    for feed in feeds:
        wanted, found = reference(feed), candidate(feed)
        for name, array in wanted.items():
            _check_comparable(name, array, found.get(name))
            raw.setdefault(name, _Moments()).add(array, found[name])
        for name, ours, theirs, weights in reading(wanted, found) if reading is not None else ():
            moments_of.setdefault(name, _Moments()).weigh(ours, theirs, weights)
    maps = {name: moments.correlation() for name, moments in raw.items()}
    read = {name: moments.correlation() for name, moments in moments_of.items()}
    return _judged(read or maps, maps if read else {}, len(feeds), min_correlation)


def _judged(
    figures: Mapping[str, float], beside: Mapping[str, float], frames: int, min_correlation: float
) -> GateResult:
    worst = min(figures, key=figures.__getitem__)
    listed = _listed(figures) + (f" (raw outputs: {_listed(beside)})" if beside else "")
    if not figures[worst] >= min_correlation:
        raise ParityGateError(
            f"output {worst!r} is not what the source model gives",
            expected=f"correlation of at least {min_correlation}",
            actual=listed,
            action="Calibrate on frames that look like the line's, or use optimization_level=0.",
        )
    return GateResult(
        name="parity",
        status="passed",
        value=figures[worst],
        limit=min_correlation,
        detail=f"least correlation of an output with the source model's on {frames} frames: {listed}",
    )


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())


def reading_of(postprocess: Postprocess) -> Reading | None:
    """Returns how outputs of this head are read; ``None`` if they are compared as they are.

    Raises:
        ConfigError: Its parameters can't be read.
    """
    if postprocess.name == "detr":
        return functools.partial(_read_queries, postprocess.params)
    if postprocess.name != "dfl_anchor_free":
        return None
    params = read_params(postprocess.params)

    def read(wanted: Mapping[str, Array], found: Mapping[str, Array]) -> Said:
        ours, theirs = (_scores(each, params.strides) for each in (wanted, found))
        seen = ours.max(0)
        if max(seen.max(initial=0.0), theirs.max(initial=0.0)) < SEEN_MIN:
            return
        yield "scores", ours, theirs, np.ones(ours.shape[1])
        sides = [_distances(each, params.strides, params.reg_bins) for each in (wanted, found)]
        yield "distances", sides[0], sides[1], seen

    return read


def _read_queries(params: Mapping[str, Any], wanted: Mapping[str, Array], found: Mapping[str, Array]) -> Said:
    """Yields scores and boxes of a transformer's queries, each beside its partner of the other model."""
    ours, theirs = (answers(each, params) for each in (wanted, found))
    for boxes, scores, other_boxes, other_scores in zip(*ours, *theirs, strict=True):
        seen = scores.max(axis=1)
        if max(seen.max(initial=0.0), other_scores.max(initial=0.0)) < SEEN_MIN:
            continue
        partner = _partners(np.concatenate([boxes, scores], 1), np.concatenate([other_boxes, other_scores], 1), seen)
        yield "scores", scores.T, other_scores[partner].T, np.ones(len(scores))
        yield "boxes", boxes.T, other_boxes[partner].T, seen


def _partners(rows: Floats, others: Floats, seen: Floats) -> npt.NDArray[np.int64]:
    """Returns for each row ``(N,)`` the row of the other model that is its partner; the likeliest choose first."""
    distance = np.abs(rows[:, None] - others[None]).sum(axis=2)
    partner = np.zeros(len(rows), np.int64)
    for row in np.argsort(-seen, kind="stable"):
        partner[row] = distance[row].argmin()
        distance[:, partner[row]] = np.inf
    return partner


def _scores(outputs: Mapping[str, Array], strides: Sequence[int]) -> Floats:
    """Returns scores ``(C, N)`` of all cells of all strides and frames, 0 to 1."""
    logits = np.concatenate([_by_channel(outputs[f"cls_{stride}"]) for stride in strides], axis=1)
    scores: Floats = 1 / (1 + np.exp(-logits.clip(-60, 60)))
    return scores


def _distances(outputs: Mapping[str, Array], strides: Sequence[int], bins: int) -> Floats:
    """Returns each side's mean distance ``(4, N)``, in strides."""
    logits = np.concatenate([_by_channel(outputs[f"box_{stride}"]) for stride in strides], axis=1)
    spread = logits.reshape(4, bins, -1)
    spread = np.exp(spread - spread.max(1, keepdims=True))
    steps: Any = np.arange(bins, dtype=np.float64)[None, :, None]
    distances: Floats = (spread * steps).sum(1) / spread.sum(1)
    return distances


def _check_comparable(name: str, wanted: Array, found: Array | None) -> None:
    if found is None or found.shape != wanted.shape:
        raise ParityGateError(
            f"output {name!r}", expected=wanted.shape, actual="no such output" if found is None else found.shape
        )
    if not np.isfinite(wanted).all():
        raise ParityGateError(
            f"output {name!r} of the source model has values that are not finite",
            action="Calibrate on frames that look like the line's, or export the model again.",
        )
    if not np.isfinite(found).all():
        raise ParityGateError(f"output {name!r} has values that are not finite", action="Use optimization_level=0.")
