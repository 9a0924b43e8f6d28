"""From candidates to a verdict: thresholds, doubtful scores, smallest sizes and regions by type.

::

    candidates ─► large enough? ─► inside? ─► score ≥ threshold ──────────► detection: the part is bad
                       │             │            ≥ unsure_from ──────────► doubtful: unsure, unless it is bad
                       └─ no ────────┴─ doesn't count

A classifier of which one class is right passes a part only where a class of good parts, or its background, is the
likeliest. Where it isn't and no defect reaches its threshold either, the part is unsure: none of the classes. A defect
below a threshold that somebody has set for it is none, and passes if the classifier has a class of good parts at all.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lineside_models.inspection import Detection, Verdict
from lineside_models.postprocess import (
    NEAR_MISS_FROM,
    WHOLE_FRAME,
    Candidates,
    as_detections,
    check_labels,
    nearest,
    thresholds_of,
    unsure_from_of,
)
from lineside_models.postprocess.candidates import read
from lineside_models.postprocess.decoders.classification import ClassificationParams
from lineside_models.verdict.good_classes import DECODER, good_of, passes_nothing
from lineside_models.verdict.regions import RegionMasks
from lineside_models.verdict.rules import AT_ROOT, BUNDLES_OWN, OTHERS, Rules, check_types
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import ConfigError

Floats = npt.NDArray[np.float64]

SIZES_KEPT = 8
"""Sizes of frames whose regions are kept ready; a line's cameras have one each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Decision on candidates.

    Attributes:
        detections: The defects, highest score first.
        doubtful: Candidates in their band of doubt, highest score first.
        near_miss: How near the strongest candidate came that counts and is no defect: its share of its threshold, 0 to
            1.
        none_of_them: Whether a classifier's part is neither a defect nor good.
    """

    detections: tuple[Detection, ...]
    doubtful: tuple[Detection, ...]
    near_miss: float
    none_of_them: bool = False

    @property
    def verdict(self) -> Verdict:
        """``bad`` with a defect, else ``unsure`` with a doubt, else ``good``."""
        if self.detections:
            return "bad"
        return "unsure" if self.doubtful or self.none_of_them else "good"


class VerdictPolicy:
    """Decides by rules laid over a bundle's own; thread-safe.

    Args:
        where: Returns the path of a rule by its key, for the message of an error.

    Raises:
        ConfigError: The rules name a type that the bundle hasn't, or a band of doubt lies above its threshold.
    """

    def __init__(
        self, manifest: Manifest, rules: Rules = BUNDLES_OWN, *, where: Callable[[str], str] = AT_ROOT
    ) -> None:
        self.manifest = manifest
        self.rules = rules
        labels = manifest.labels
        check_types(rules, labels, where=where)
        self._bars, self._floors = _bars(manifest, rules, where)
        how = manifest.postprocess
        self._classes = read(how.params, ClassificationParams) if how.name == DECODER else None
        self._passes_nothing = passes_nothing(how)
        self._good = np.isin(np.arange(len(labels)), good_of(how))
        self._set = _thresholds_set(manifest, rules)
        self._least = np.zeros(len(labels))
        per_mm = rules.scale or 1.0
        for table, unit in ((rules.min_size_px, 1.0), (rules.min_size_mm, per_mm)):
            for label, value in _by_label(table, labels).items():
                self._least[label] = max(self._least[label], value * unit)
        self._areas: dict[tuple[int, int], RegionMasks] = {}
        self._lock = threading.Lock()

    @property
    def least_score(self) -> Floats:
        """``(C,)`` the score below which nothing of a type can be a defect, a doubt, or a near miss told exactly."""
        if not len(self._bars):
            return np.ones(1)
        if self.manifest.postprocess.name in WHOLE_FRAME:
            return np.zeros(len(self._bars))
        return np.minimum(self._floors, self._bars * NEAR_MISS_FROM)

    @property
    def thresholds(self) -> dict[str, float]:
        """Least score of a defect of each type; types of good parts are left out."""
        bars = zip(self.manifest.labels, self._bars.tolist(), strict=False)
        return {label: bar for label, bar in bars if np.isfinite(bar)}

    def decide(self, candidates: Candidates, size: tuple[int, int]) -> Decision:
        """Decides on the candidates of one frame.

        Args:
            candidates: All of them, from `lineside_models.postprocess.decode`.
            size: ``(height, width)`` of the frame in pixels.

        Raises:
            ConfigError: The model has more classes than the bundle has labels, or the regions don't fit the frame.
        """
        labels = self.manifest.labels
        areas = self._areas_for(size)  # also where nothing was found: regions that don't fit must not pass parts
        if not len(candidates):
            return Decision((), (), 0.0, none_of_them=self._passes_nothing)
        check_labels(candidates, labels)
        bars = self._bars[candidates.labels]
        counts = self._counting(candidates, areas)
        bad = counts & (candidates.scores >= bars)
        below = counts & ~bad
        doubtful = below & (candidates.scores >= self._floors[candidates.labels])
        if self._classes is not None:  # what it says of the whole frame is no box to leave out
            doubtful |= ~counts & (candidates.scores >= bars) & _covers_frame(candidates.boxes, size)
        near = nearest(candidates.scores, bars, below)
        nothing = not bad.any() and self._none_of_them(candidates)
        if nothing:
            doubtful[0] |= not self._good[candidates.labels[0]]
        defects = as_detections(candidates, bad, labels)
        return Decision(defects, as_detections(candidates, doubtful, labels), near, none_of_them=nothing)

    def _none_of_them(self, candidates: Candidates) -> bool:
        """Returns whether candidates without a defect have no good class either."""
        if self._passes_nothing:
            return True
        likeliest, score = int(candidates.labels[0]), float(candidates.scores[0])
        if self._classes is None or not self._classes.excludes or self._good[likeliest]:
            return False
        if self._set[likeliest] and score < self._bars[likeliest]:
            return False
        return not self._classes.first_class or score >= 1 - float(candidates.scores.sum())

    def _counting(self, candidates: Candidates, areas: RegionMasks | None) -> npt.NDArray[np.bool_]:
        sides = candidates.boxes[:, 2:] - candidates.boxes[:, :2]
        counts = np.asarray(sides.max(axis=1) >= self._least[candidates.labels], bool)
        if areas is not None and counts.any():
            counts &= areas.shares(candidates.boxes, candidates.labels) >= self.rules.min_inside
        return counts

    def _areas_for(self, size: tuple[int, int]) -> RegionMasks | None:
        if not self.rules.regions:
            return None
        with self._lock:
            found = self._areas.get(size)
            if found is None:
                found = RegionMasks(self.rules.regions, self.manifest.labels, size)
                if len(self._areas) >= SIZES_KEPT:
                    self._areas.pop(next(iter(self._areas)))
                self._areas[size] = found
            return found


def _covers_frame(boxes: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    frame = np.array(size[::-1], np.float32)
    return np.asarray((boxes[:, 2:] - boxes[:, :2] > frame - 1).all(axis=1), bool)


def _bars(manifest: Manifest, rules: Rules, where: Callable[[str], str]) -> tuple[Floats, Floats]:
    """Returns the threshold and the begin of the band of doubt of each type."""
    labels = manifest.labels
    good = good_of(manifest.postprocess)
    for name in [labels[label] for label in good if label < len(labels)]:
        for key in ("thresholds", "unsure_from"):
            if name in getattr(rules, key):
                path, means = f"{where(key)}.{name}", f"{name} means a good part"
                raise ConfigError(path, expected="a class of defects", actual=means)
    bars = thresholds_of(manifest.postprocess, len(labels))
    floors = np.minimum(unsure_from_of(manifest.postprocess, len(labels)), bars)
    if rules.confidence_threshold is not None:
        bars = np.full(len(labels), rules.confidence_threshold)
        floors = bars.copy()
    for label, value in _by_label(rules.thresholds, labels).items():
        bars[label] = floors[label] = value
    if good:
        bars[list(good)] = floors[list(good)] = np.inf
    for label, value in _by_label(rules.unsure_from, labels).items():
        if value > bars[label] and labels[label] in rules.unsure_from:
            path = f"{where('unsure_from')}.{labels[label]}"
            raise ConfigError(path, expected=f"at most its threshold, {bars[label]:g}", actual=value)
        if label not in good:
            floors[label] = min(value, bars[label])
    return bars, floors


def _thresholds_set(manifest: Manifest, rules: Rules) -> npt.NDArray[np.bool_]:
    """Returns ``(C,)`` of which types the bundle or the rules set the threshold."""
    labels = manifest.labels
    if rules.confidence_threshold is not None or manifest.postprocess.params.get("thresholds"):
        return np.ones(len(labels), bool)
    return np.isin(np.arange(len(labels)), list(_by_label(rules.thresholds, labels)))


def _by_label(table: Mapping[str, float], labels: Sequence[str]) -> dict[int, float]:
    found = dict.fromkeys(range(len(labels)), table[OTHERS]) if OTHERS in table else {}
    return {**found, **{label: table[name] for label, name in enumerate(labels) if name in table}}
