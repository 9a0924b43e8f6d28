"""The reference that drift is measured against, learned from the first frames.

Of each descriptor the `TAIL` lowest and highest values are cut off. How many later frames may lie out there is known
whatever the values' distribution is: the share beyond the k-th lowest of N is within Clopper and Pearson's bound for
k - 1 of N. The distance is Mahalanobis' from the first half, and its tail comes from the second, which it hasn't seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from lineside_agent.health.drift.descriptors import Descriptors

TAIL = 0.02
"""Share of the learned frames beyond each end."""

RISK = 0.01
"""Chance that the learned shares are too low for any of the tests."""

LEAST_SHARE = Descriptors(brightness=0.05, contrast=0.1, sharpness=0.0)
LEAST = Descriptors(brightness=1.0, contrast=1.0, sharpness=0.1)
"""A change from the median by less than this share of it, or less than that, is none: the picture of a camera in a box
differs by a tenth of a grey value from frame to frame, and by a few as the lamp warms up."""

_FAR = 3.0


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a learned distribution.

    Attributes:
        count: Number of learned frames beyond it, at most.
    """

    bound: float
    count: int
    frames: int


class FrameReference(msgspec.Struct, frozen=True, kw_only=True):
    """Reference of the camera's frames.

    Attributes:
        low: Lower tail of each descriptor.
        high: Upper tail of each descriptor.
        mean: Of the descriptors, ``(3,)``.
        precision: Inverse of their covariance, ``(3, 3)``.
    """

    frames: int
    median: tuple[float, ...]
    low: tuple[Tail, ...]
    high: tuple[Tail, ...]
    mean: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    distance: Tail


class DriftVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a verdict that drift detection uses.

    Attributes:
        bundle: Digest of the bundle.
        types: Defect types that were found, each once.
        near_miss: See `lineside_models.inspection.Inspection`.
    """

    bundle: str
    passed: bool
    unsure: bool
    types: tuple[str, ...]
    near_miss: float


class VerdictReference(msgspec.Struct, frozen=True, kw_only=True):
    """Reference of a bundle's verdicts.

    Attributes:
        bundle: Its digest.
        frames: Number of learned verdicts.
        types: Number of parts by defect type.
        near_miss: Upper tail of the near misses.
    """

    bundle: str
    frames: int
    bad: int
    unsure: int
    types: dict[str, int]
    near_miss: Tail


def learn_frames(samples: Sequence[Descriptors]) -> FrameReference:
    """Learns the reference of frames.

    Args:
        samples: ``(N, 3)``; 50 or more.
    """
    values = np.array(samples, float)
    half = len(values) // 2
    median = np.median(values, 0)
    least = np.maximum(np.array(LEAST_SHARE) * np.abs(median), np.array(LEAST))
    mean = values[:half].mean(0)
    # However still the camera's picture is, the least change is so many standard deviations, and so far at most.
    precision = np.linalg.inv(np.cov(values[:half], rowvar=False) + np.diag((least / _FAR) ** 2))
    far = [distance(sample, mean, precision) for sample in values[half:]]
    return FrameReference(
        frames=len(values),
        median=tuple(median.tolist()),
        low=tuple(_mirrored(_beyond(-column, margin)) for column, margin in zip(values.T, least.tolist(), strict=True)),
        high=tuple(_beyond(column, margin) for column, margin in zip(values.T, least.tolist(), strict=True)),
        mean=tuple(mean.tolist()),
        precision=tuple(tuple(row) for row in precision.tolist()),
        distance=_at_least(upper_tail(far), _FAR**2),
    )


def distance(sample: NDArray[np.float64], mean: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Returns the squared Mahalanobis distance of a sample ``(3,)``."""
    off = sample - mean
    return float(off @ precision @ off)


def learn_verdicts(judged: Sequence[DriftVerdict]) -> VerdictReference:
    """Learns the reference of verdicts, all of one bundle."""
    types = [name for one in judged for name in one.types]
    return VerdictReference(
        bundle=judged[0].bundle,
        frames=len(judged),
        bad=sum(not one.passed and not one.unsure for one in judged),
        unsure=sum(one.unsure for one in judged),
        types={name: types.count(name) for name in sorted(set(types))},
        near_miss=upper_tail([one.near_miss for one in judged]),
    )


def upper_tail(values: Sequence[float]) -> Tail:
    """Returns the upper tail; later frames strictly beyond its bound are counted."""
    beyond = max(1, round(TAIL * len(values)))
    return Tail(bound=sorted(values)[-beyond], count=beyond - 1, frames=len(values))


def _beyond(column: NDArray[np.float64], margin: float) -> Tail:
    """Returns the upper tail, no nearer to the median than the smallest change that counts."""
    return _at_least(upper_tail(column.tolist()), float(np.median(column)) + margin)


def _at_least(tail: Tail, bound: float) -> Tail:
    """Moves the bound outwards: at most as many frames lie beyond it then, so the count still holds."""
    return msgspec.structs.replace(tail, bound=max(tail.bound, bound))


def _mirrored(tail: Tail) -> Tail:
    return msgspec.structs.replace(tail, bound=-tail.bound)
