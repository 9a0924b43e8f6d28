"""Counts of results by verdict, time and defect type.

They are read from ``result_hours`` and ``defect_hours``, which have a row for each hour, device, bundle, recipe and
verdict or type. Hours are those of Unix time: a selection from 10:20 counts from 10:00. Challenge parts, which are
known to be bad, are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from lineside_hub.results.sql import SqlRunner

HOUR_NS = 3_600_000_000_000


class CountFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects hours of results; empty and ``None`` fields do not restrict.

    Attributes:
        devices: Only these; of a line, those of its group.
        bundle: ``name@version``, or a name for all of its versions.
        since_ns: From the hour of this Unix time on.
        until_ns: Before the hour that begins then or later.
    """

    devices: tuple[str, ...] = ()
    bundle: str = ""
    recipe: str = ""
    since_ns: int | None = None
    until_ns: int | None = None

    def sql(self) -> tuple[str, dict[str, Any]]:
        """Returns the condition on a table of hours, and its named parameters."""
        given: dict[str, Any] = {f"device_{number}": device for number, device in enumerate(self.devices)}
        conditions = [f"device IN ({', '.join(f':{name}' for name in given)})"] if given else []
        if self.bundle:
            exact = "@" in self.bundle
            conditions.append("bundle = :bundle" if exact else "bundle LIKE :bundle ESCAPE '!'")
            any_version = re.sub(r"([!%_])", r"!\1", self.bundle) + "@%"
            given["bundle"] = self.bundle if exact else any_version
        if self.recipe:
            conditions.append("recipe = :recipe")
            given["recipe"] = self.recipe
        if self.since_ns is not None:
            conditions.append("hour >= :since")
            given["since"] = self.since_ns // HOUR_NS
        if self.until_ns is not None:
            conditions.append("hour < :until")
            given["until"] = -(-self.until_ns // HOUR_NS)
        return " AND ".join(conditions) or "1 = 1", given


class VerdictCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of results by verdict, each result in one of them."""

    passed: int = 0
    rejected: int = 0
    unsure: int = 0
    faults: int = 0

    @property
    def inspected(self) -> int:
        """Results with a verdict on the part: all but faults."""
        return self.passed + self.rejected + self.unsure

    @property
    def not_passed(self) -> int:
        """Rejects, unsure ones included."""
        return self.rejected + self.unsure

    @property
    def reject_rate(self) -> float | None:
        """Share of rejects, unsure ones included, among the inspected; ``None`` without any."""
        return self.not_passed / self.inspected if self.inspected else None


_FIELD = {"pass": "passed", "reject": "rejected", "unsure": "unsure", "fault": "faults"}


class TrendPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one step of time.

    Attributes:
        at_ns: Unix time of its begin.
    """

    at_ns: int
    counts: VerdictCounts


class ParetoRow(msgspec.Struct, frozen=True, kw_only=True):
    """A defect type in a Pareto chart.

    Attributes:
        results: Results that did not pass and have this type; one with several types counts for each.
        share: Of the sum over all types.
        cumulative: Share of this type and all before it.
    """

    type: str
    results: int
    share: float
    cumulative: float


class CountedValues(msgspec.Struct, frozen=True, kw_only=True):
    """Values that the counts have, for choosing among them; sorted."""

    bundles: tuple[str, ...]
    recipes: tuple[str, ...]


def sum_counts(parts: Iterable[VerdictCounts]) -> VerdictCounts:
    """Adds up counts."""
    names = VerdictCounts.__struct_fields__
    sums = [sum(each) for each in zip(*([getattr(one, name) for name in names] for one in parts), strict=True)]
    return VerdictCounts(**dict(zip(names, sums, strict=True))) if sums else VerdictCounts()


def totals(run: SqlRunner, choice: CountFilter) -> VerdictCounts:
    """Counts the selected results."""
    where, given = choice.sql()
    found = run(f"SELECT verdict, sum(results) FROM result_hours WHERE {where} GROUP BY verdict", given)
    return _by_verdict(found)


def totals_by(run: SqlRunner, choice: CountFilter, column: str) -> dict[str, VerdictCounts]:
    """Counts the selected results for each value of a column.

    Args:
        column: ``device``, ``bundle`` or ``recipe``.
    """
    where, given = choice.sql()
    text = f"SELECT {column}, verdict, sum(results) FROM result_hours WHERE {where} GROUP BY {column}, verdict"
    found: dict[str, list[tuple[str, int]]] = {}
    for value, verdict, count in run(text, given):
        found.setdefault(value, []).append((verdict, count))
    return {value: _by_verdict(found[value]) for value in sorted(found)}


def trend(run: SqlRunner, choice: CountFilter, *, step_h: int) -> list[TrendPoint]:
    """Counts the selected results in steps of time, oldest first; a step without results is left out.

    Args:
        step_h: Length of a step in hours; days begin at 0 h UTC, weeks on Mondays.
    """
    where, given = choice.sql()
    # Hour 0 of Unix time was a Thursday.
    shift = 72 if step_h == 168 else 0
    text = (
        "SELECT (hour + :shift) / :step_h AS step, verdict, sum(results) FROM result_hours "
        f"WHERE {where} GROUP BY 1, 2 ORDER BY 1"
    )
    found: dict[int, list[tuple[str, int]]] = {}
    for step, verdict, count in run(text, {**given, "shift": shift, "step_h": step_h}):
        found.setdefault(int(step), []).append((verdict, count))
    return [
        TrendPoint(at_ns=(step * step_h - shift) * HOUR_NS, counts=_by_verdict(counts))
        for step, counts in found.items()
    ]


def pareto(run: SqlRunner, choice: CountFilter) -> list[ParetoRow]:
    """Counts the selected results that did not pass by defect type, most frequent first."""
    where, given = choice.sql()
    text = f"SELECT type, sum(results) FROM defect_hours WHERE {where} GROUP BY type ORDER BY 2 DESC, 1"
    found = [(str(row[0]), int(row[1])) for row in run(text, given)]
    whole, before, rows = sum(count for _, count in found), 0, []
    for name, count in found:
        before += count
        rows.append(ParetoRow(type=name, results=count, share=count / whole, cumulative=before / whole))
    return rows


def counted_values(run: SqlRunner, choice: CountFilter) -> CountedValues:
    """Returns the bundles and recipes of the selected hours."""
    where, given = choice.sql()
    found = run(f"SELECT DISTINCT bundle, recipe FROM result_hours WHERE {where}", given)
    bundles, recipes = ({str(row[place]) for row in found if row[place]} for place in (0, 1))
    return CountedValues(bundles=tuple(sorted(bundles)), recipes=tuple(sorted(recipes)))


def newest_hours(run: SqlRunner, choice: CountFilter, *, verdict: str, defect: str, enough: int) -> int | None:
    """Returns the begin of the newest hours that hold enough results, Unix time in ns; ``None`` if all of them do not.

    A search for the newest results then reads only these hours, however rare what is searched is.

    Args:
        verdict: Only results with this verdict; empty for any.
        defect: Only results with this defect type; empty for any.
    """
    where, given = choice.sql()
    table, extra = ("defect_hours", "type = :only") if defect else ("result_hours", "verdict = :only")
    if only := defect or verdict:
        where, given = f"{where} AND {extra}", {**given, "only": only}
    text = (
        "SELECT min(hour), sum(results) FROM (SELECT hour, sum(results) AS results, "
        "sum(sum(results)) OVER (ORDER BY hour DESC) - sum(results) AS newer "
        f"FROM {table} WHERE {where} GROUP BY hour) AS hours WHERE newer < :enough"
    )
    hour, count = run(text, {**given, "enough": enough})[0]
    return int(hour) * HOUR_NS if hour is not None and int(count) >= enough else None


def _by_verdict(found: Any) -> VerdictCounts:
    return VerdictCounts(**{_FIELD[verdict]: int(count) for verdict, count in found if verdict in _FIELD})
