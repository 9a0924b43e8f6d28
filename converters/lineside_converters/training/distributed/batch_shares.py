"""Shares of a batch for workers of unequal speed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lineside_converters.training.strategy import BatchPart

UNEVEN = 1.25
"""Ratio of the slowest to the fastest worker below which shares stay: it is within the error of measurement."""

SMALLEST = 0.05
"""Least share of a batch."""


def balanced(shares: Sequence[float], seconds: Sequence[float]) -> tuple[float, ...]:
    """Returns shares with which all workers would take the same time; the old ones if they nearly do.

    Args:
        shares: Of a batch, by worker; they sum to 1.
        seconds: That each worker took for its share.
    """
    if max(seconds) < UNEVEN * min(seconds):
        return tuple(shares)
    speeds = [share / second for share, second in zip(shares, seconds, strict=True)]
    wanted = [max(SMALLEST, speed / sum(speeds)) for speed in speeds]
    return tuple(each / sum(wanted) for each in wanted)


def part_of(shares: Sequence[float], rank: int) -> BatchPart:
    """Returns a worker's part."""
    ends = [0.0, *itertools.accumulate(shares)]
    return BatchPart(rank, ends[rank], 1.0 if rank == len(shares) - 1 else ends[rank + 1])


class ShareSchedule:
    """Shares of a batch by step, the same on all workers."""

    def __init__(self, world: int) -> None:
        self._from: list[tuple[int, tuple[float, ...]]] = [(0, (1 / world,) * world)]

    def at(self, step: int) -> tuple[float, ...]:
        """Returns the shares of a step."""
        return next(shares for first, shares in reversed(self._from) if first <= step)

    def add(self, step: int, shares: Sequence[float]) -> None:
        """Sets the shares from a step on."""
        if tuple(shares) != self.at(step):
            self._from = [each for each in self._from if each[0] < step] + [(step, tuple(shares))]

    def state(self) -> list[list[float]]:
        """Returns rows of a step and its shares."""
        return [[float(first), *shares] for first, shares in self._from]

    def restore(self, state: list[list[float]]) -> None:
        """Takes over what `state` returned for the same number of workers."""
        if len(state[0]) - 1 == len(self._from[0][1]):
            self._from = [(int(row[0]), tuple(row[1:])) for row in state]
