"""Control chart of a share of parts (p-chart), with run rules.

Limits: W. A. Shewhart's three standard deviations of the binomial distribution, by the size of each subgroup
(NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.3.2). A camera sees thousands of parts an hour, for which these
limits are too narrow whenever the true share varies a little; Laney's p′-chart widens them by the variation between
subgroups (D. B. Laney, "Improved Control Charts for Attributes", Quality Engineering 14 (4), 2002).

Run rules: L. S. Nelson, "The Shewhart Control Chart – Tests for Special Causes", Journal of Quality Technology 16 (4),
1984; Western Electric, Statistical Quality Control Handbook, 1956.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from lineside_runtime.errors import BadInputFormatError

Rules = Literal["nelson", "western-electric"]

RULES: dict[Rules, tuple[int, ...]] = {"nelson": (1, 2, 3, 4, 5, 6, 7, 8), "western-electric": (1, 2, 5, 6)}
"""Numbers of Nelson's rules in each set; Western Electric's run on one side is eight points, not nine."""

RULE_TEXTS = {
    1: "a point beyond three sigma",
    2: "nine points in a row on one side of the center line (Western Electric: eight)",
    3: "six points in a row that rise or fall",
    4: "fourteen points in a row that rise and fall in turn",
    5: "two of three points in a row beyond two sigma on one side",
    6: "four of five points in a row beyond one sigma on one side",
    7: "fifteen points in a row within one sigma",
    8: "eight points in a row beyond one sigma, on both sides",
}


class Subgroup(msgspec.Struct, frozen=True, kw_only=True):
    """Parts that were inspected together.

    Attributes:
        at_ns: Unix time of its begin.
        inspected: Number of parts, 1 or more.
    """

    at_ns: int
    inspected: int
    rejected: int


class ChartPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A point of the chart.

    Attributes:
        share: Of rejected parts.
        z: Distance from the center line in sigmas of this subgroup.
        signals: Numbers of the rules that end with this point.
    """

    subgroup: Subgroup
    share: float
    lower: float
    upper: float
    z: float
    signals: tuple[int, ...] = ()


class ControlChart(msgspec.Struct, frozen=True, kw_only=True):
    """A p-chart.

    Attributes:
        center: Share of rejected parts in the base.
        spread: Sigma of the points in binomial sigmas: 1 for Shewhart's limits, Laney's σz for the p′-chart.
        base: Number of subgroups, from the first, that center and spread were computed from.
    """

    center: float
    spread: float
    base: int
    points: tuple[ChartPoint, ...]


def p_chart(
    subgroups: Sequence[Subgroup], *, rules: Rules = "nelson", laney: bool = False, base: int | None = None
) -> ControlChart:
    """Makes the chart of subgroups, oldest first.

    Args:
        laney: Whether limits follow the variation between subgroups (p′-chart).
        base: Number of subgroups, from the first, that set the limits; ``None`` for all.

    Raises:
        BadInputFormatError: There are no subgroups, or the counts of one make no sense.
    """
    base = len(subgroups) if base is None else base
    if not 1 <= base <= len(subgroups) or any(not 0 <= one.rejected <= one.inspected > 0 for one in subgroups):
        raise BadInputFormatError(
            "subgroups of a control chart",
            expected="one or more, 0 <= rejected <= inspected, and a base of 1 to all of them",
            actual=f"{len(subgroups)}, base {base}",
            action="Widen the time, or choose longer steps.",
        )
    learned = subgroups[:base]
    center = sum(one.rejected for one in learned) / sum(one.inspected for one in learned)
    sigmas = [math.sqrt(center * (1 - center) / one.inspected) for one in subgroups]
    shares = [one.rejected / one.inspected for one in subgroups]
    scores = [
        (share - center) / sigma if sigma else math.copysign(math.inf, share - center) if share != center else 0.0
        for share, sigma in zip(shares, sigmas, strict=True)
    ]
    spread = _between(scores[:base]) if laney else 1.0
    scores = [score / spread for score in scores]
    signals = run_signals(scores, rules)
    return ControlChart(
        center=center,
        spread=spread,
        base=base,
        points=tuple(
            ChartPoint(
                subgroup=one,
                share=share,
                lower=max(0.0, center - 3 * sigma * spread),
                upper=min(1.0, center + 3 * sigma * spread),
                z=score,
                signals=found,
            )
            for one, share, sigma, score, found in zip(subgroups, shares, sigmas, scores, signals, strict=True)
        ),
    )


def _between(scores: Sequence[float]) -> float:
    """Returns Laney's σz, the mean moving range of the scores over 1.128; 1 where there is none."""
    ranges = [abs(after - before) for before, after in itertools.pairwise(scores)]
    mean = sum(ranges) / len(ranges) if ranges else 0.0
    return mean / 1.128 if 0 < mean < math.inf else 1.0


def run_signals(scores: Sequence[float], rules: Rules = "nelson") -> list[tuple[int, ...]]:
    """Returns for each point the numbers of the rules that end with it.

    Args:
        scores: Distances from the center line in sigmas, oldest first.
    """
    tests = {number: _TESTS[number] for number in RULES[rules]}
    if rules == "western-electric":
        tests[2] = (8, _one_side)
    return [
        tuple(
            number
            for number, (length, is_signal) in tests.items()
            if end + 1 >= length and is_signal(scores[end + 1 - length : end + 1])
        )
        for end in range(len(scores))
    ]


def _one_side(run: Sequence[float]) -> bool:
    return min(run) > 0 or max(run) < 0


def _steady(run: Sequence[float]) -> bool:
    steps = [after - before for before, after in itertools.pairwise(run)]
    return min(steps) > 0 or max(steps) < 0


def _alternating(run: Sequence[float]) -> bool:
    steps = [after - before for before, after in itertools.pairwise(run)]
    return all(before * after < 0 for before, after in itertools.pairwise(steps))


def _beyond(count: int, limit: float) -> Callable[[Sequence[float]], bool]:
    """Returns the test of ``count`` points beyond a limit on one side, the last one among them."""

    def test(run: Sequence[float]) -> bool:
        return any(side * run[-1] > limit and sum(side * score > limit for score in run) >= count for side in (1, -1))

    return test


_TESTS: dict[int, tuple[int, Callable[[Sequence[float]], bool]]] = {
    1: (1, lambda run: abs(run[0]) > 3),
    2: (9, _one_side),
    3: (6, _steady),
    4: (14, _alternating),
    5: (3, _beyond(2, 2)),
    6: (5, _beyond(4, 1)),
    7: (15, lambda run: 0 < max(map(abs, run)) < 1),  # not a line without a reject, of which sigma is 0
    8: (8, lambda run: min(map(abs, run)) > 1 and min(run) < 0 < max(run)),
}
"""Length of the run, and whether it is a signal, of each rule."""
