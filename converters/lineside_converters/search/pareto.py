"""Pareto fronts of latency and metric, and how much of the plane they cover."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]
"""Milliseconds (less is better) and metric (more is better)."""


def front(points: Sequence[Point]) -> list[int]:
    """Returns the indices of the points that none other beats in both, the fastest first; of equals the first."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    kept: list[int] = []
    best = float("-inf")
    for index in order:
        if points[index][1] > best:
            kept.append(index)
            best = points[index][1]
    return kept


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Returns the area that the points' front covers up to a reference point, in milliseconds times metric.

    Args:
        reference: The slowest and the worst that count: a point beyond it covers nothing.
    """
    inside = [point for point in points if point[0] < reference[0] and point[1] > reference[1]]
    area = 0.0
    until = reference[0]
    for index in reversed(front(inside)):
        latency, metric = inside[index]
        area += (until - latency) * (metric - reference[1])
        until = latency
    return area
