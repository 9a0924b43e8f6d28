"""Compare the reject rates and defect types of two selections: two lines, or two bundles."""

from __future__ import annotations

import math

import msgspec

from lineside_hub.results.sql import SqlRunner
from lineside_hub.statistics.counts import CountFilter, VerdictCounts, pareto, totals
from lineside_models.metrics import wilson


class ComparedRate(msgspec.Struct, frozen=True, kw_only=True):
    """A rate in two selections and its difference, each with its 95 % interval.

    Attributes:
        hits: Number of results in each selection.
        of: Number of inspected results in each selection.
        rates: ``hits / of``; 0 without results.
        intervals: Wilson's score interval of each rate.
        difference: The second rate minus the first.
        interval: Of the difference (Newcombe's hybrid score interval).
    """

    hits: tuple[int, int]
    of: tuple[int, int]
    rates: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]]
    difference: float
    interval: tuple[float, float]

    @property
    def is_different(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        return self.interval[0] > 0 or self.interval[1] < 0


class SelectionComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two selections.

    Attributes:
        counts: Of each selection.
        rejects: Share of rejects, unsure ones included, among the inspected.
        types: Share of inspected results with each defect type; types with the greatest difference first.
    """

    counts: tuple[VerdictCounts, VerdictCounts]
    rejects: ComparedRate
    types: dict[str, ComparedRate]


def compare_rates(first: tuple[int, int], second: tuple[int, int]) -> ComparedRate:
    """Compares two rates, each ``(hits, of)``.

    The interval of the difference is method 10 of R. G. Newcombe, "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17, 1998: near 0 it stays right where the usual one does not.
    """
    (low_a, high_a), (low_b, high_b) = wilson(*first), wilson(*second)
    rate_a, rate_b = (hits / of if of else 0.0 for hits, of in (first, second))
    difference = rate_b - rate_a
    if first[1] and second[1]:
        interval = (
            difference - math.hypot(rate_b - low_b, high_a - rate_a),
            difference + math.hypot(high_b - rate_b, rate_a - low_a),
        )
    else:
        interval = (-1.0, 1.0)  # nothing is known of one of them
    return ComparedRate(
        hits=(first[0], second[0]),
        of=(first[1], second[1]),
        rates=(rate_a, rate_b),
        intervals=((low_a, high_a), (low_b, high_b)),
        difference=difference,
        interval=interval,
    )


def compare(run: SqlRunner, first: CountFilter, second: CountFilter) -> SelectionComparison:
    """Compares two selections of results."""
    counts = totals(run, first), totals(run, second)
    types = [{row.type: row.results for row in pareto(run, choice)} for choice in (first, second)]
    inspected = [one.inspected for one in counts]

    def of_type(name: str) -> ComparedRate:
        # A fault with a type is not among the inspected.
        pairs = [(min(found.get(name, 0), whole), whole) for found, whole in zip(types, inspected, strict=True)]
        return compare_rates(pairs[0], pairs[1])

    compared = {name: of_type(name) for name in types[0] | types[1]}
    ordered = sorted(compared.items(), key=lambda pair: (-abs(pair[1].difference), pair[0]))
    return SelectionComparison(
        counts=counts,
        rejects=compare_rates(*((one.not_passed, one.inspected) for one in counts)),
        types=dict(ordered),
    )
