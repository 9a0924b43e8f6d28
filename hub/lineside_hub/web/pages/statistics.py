"""Statistics of results: trend, Pareto, control chart, comparison, false rejects and escapes."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

import msgspec
from starlette.responses import Response

from lineside_hub.fleet.groups import device_groups
from lineside_hub.results.sql import SqlRunner, open_runner
from lineside_hub.statistics.comparison import SelectionComparison, compare
from lineside_hub.statistics.control_chart import RULE_TEXTS, ControlChart, Rules, Subgroup, p_chart
from lineside_hub.statistics.counts import (
    HOUR_NS,
    CountFilter,
    ParetoRow,
    TrendPoint,
    VerdictCounts,
    counted_values,
    pareto,
    sum_counts,
    totals,
    trend,
)
from lineside_hub.statistics.reviews import ReviewRates, review_rates
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute, Handler
from lineside_link.result_table import moment
from lineside_runtime.errors import RequestError

PERIODS = {"24h": "24 hours", "7d": "7 days", "30d": "30 days", "365d": "365 days", "all": "everything"}
STEPS = {1: "hour", 8: "8 hours", 24: "day", 168: "week"}
PARETO_SHOWN = 20


class SelectionQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which results.

    Attributes:
        group: Only devices of this group (line).
        bundle: ``name@version``, or a name for all of its versions.
        since: From this time on: ``7d`` for seven days ago, ``2026-11-24T06:00`` (UTC), or ``all``.
        until: Before this time, in the same forms.
        step_h: Length of a step of a trend or control chart in hours: 1, 8, 24 or 168.
        rules: Run rules of the control chart: ``nelson`` or ``western-electric``.
        limits: ``laney`` for limits that follow the variation between subgroups, or ``binomial``.
    """

    group: str = ""
    device: str = ""
    bundle: str = ""
    recipe: str = ""
    since: str = "7d"
    until: str = ""
    step_h: int = 0
    rules: Rules = "nelson"
    limits: str = "laney"

    def __post_init__(self) -> None:
        if self.step_h not in (0, *STEPS):
            raise ValueError("step_h is 1, 8, 24 or 168")
        if self.limits not in ("laney", "binomial"):
            raise ValueError("limits is laney or binomial")


class SelectionPairQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two selections: ``a_…`` and ``b_…``; fields as in the other statistics."""

    a_group: str = ""
    a_device: str = ""
    a_bundle: str = ""
    b_group: str = ""
    b_device: str = ""
    b_bundle: str = ""
    recipe: str = ""
    since: str = "30d"
    until: str = ""


def results_runner(call: DashboardRequest) -> AbstractContextManager[SqlRunner]:
    """Opens the results for the statements of one request."""
    return open_runner(call.dashboard.config.results.url, call.database)


def _choice(call: DashboardRequest, side: str = "") -> CountFilter:
    """Returns the filter of the query, or of one of its two selections: ``a_`` or ``b_``.

    Raises:
        ConfigError: A time is none.
    """
    query = call.query
    group, device, bundle = (getattr(query, f"{side}{name}") for name in ("group", "device", "bundle"))
    devices: tuple[str, ...] = (device,) if device else ()
    if group:
        members = {name for name, each in device_groups(call.database).items() if each == group}
        # No device has an empty name: of a group without devices nothing is counted.
        devices = tuple(sorted(members & set(devices) if devices else members)) or ("",)
    return CountFilter(
        devices=devices,
        bundle=bundle,
        recipe=query.recipe,
        since_ns=None if query.since in ("", "all") else moment(query.since),
        until_ns=moment(query.until) if query.until else None,
    )


def _step_h(query: SelectionQuery, choice: CountFilter) -> int:
    """Returns the step: the given one, or one that gives about 30 to 200 points."""
    if query.step_h:
        return query.step_h
    if choice.since_ns is None:
        return 24
    hours = ((choice.until_ns or time.time_ns()) - choice.since_ns) / HOUR_NS
    return next((step for step in STEPS if hours / step <= 200), 168)


def control_chart(query: SelectionQuery, points: list[TrendPoint]) -> ControlChart | None:
    """Makes the p-chart of a trend; ``None`` without inspected parts. The last step may be incomplete."""
    subgroups = [
        Subgroup(at_ns=point.at_ns, inspected=point.counts.inspected, rejected=point.counts.not_passed)
        for point in points
        if point.counts.inspected
    ]
    return p_chart(subgroups, rules=query.rules, laney=query.limits == "laney") if subgroups else None


def show(call: DashboardRequest) -> Response:
    """The page of the quality of a selection."""
    query, choice = call.query, _choice(call)
    step_h = _step_h(query, choice)
    with results_runner(call) as run:
        rows = pareto(run, choice)
        points = trend(run, choice, step_h=step_h)
        chart = control_chart(query, points)
        return call.page(
            "quality.html",
            query=query,
            step_h=step_h,
            counts=sum_counts(point.counts for point in points),
            pareto=rows[:PARETO_SHOWN],
            others=rows[PARETO_SHOWN:],
            bars=_pareto_bars(rows[:PARETO_SHOWN]),
            trend=_trend_chart(points),
            chart=chart,
            control=_control_chart(chart) if chart else "",
            signals=[point for point in chart.points if point.signals][::-1] if chart else [],
            rule_texts=RULE_TEXTS,
            reviews=review_rates(run, choice),
            values=counted_values(run, msgspec.structs.replace(choice, bundle="", recipe="")),
            groups=_groups(call),
            periods=PERIODS,
            steps=STEPS,
        )


def _groups(call: DashboardRequest) -> list[str]:
    return sorted({group for group in device_groups(call.database).values() if group})


def _trend_chart(points: list[TrendPoint]) -> str:
    rates = [point.counts.reject_rate for point in points]
    return msgspec.json.encode(
        {
            "x": [point.at_ns / 1e9 for point in points],
            "series": [
                {"label": "inspected", "values": [point.counts.inspected for point in points], "kind": "bars"},
                {"label": "reject rate", "values": rates, "kind": "rate"},
            ],
        }
    ).decode()


def _control_chart(chart: ControlChart) -> str:
    points = chart.points
    lines: dict[str, tuple[str, list[Any]]] = {
        "upper limit": ("limit", [point.upper for point in points]),
        "center": ("center", [chart.center for _ in points]),
        "lower limit": ("limit", [point.lower for point in points]),
        "rejected": ("rate", [point.share for point in points]),
        "signal": ("signal", [point.share if point.signals else None for point in points]),
    }
    series = [{"label": label, "values": values, "kind": kind} for label, (kind, values) in lines.items()]
    return msgspec.json.encode({"x": [point.subgroup.at_ns / 1e9 for point in points], "series": series}).decode()


def _pareto_bars(rows: list[ParetoRow]) -> dict[str, Any]:
    """Returns the geometry of a Pareto chart in a view box of 1000 × 300: bars, and points of the cumulative line.

    Both have one scale, the share, so that the line begins at the top of the first bar.
    """
    if not rows:
        return {"bars": [], "line": ""}
    width = 1000 / len(rows)
    bars = [
        {
            "x": round(number * width + 0.1 * width, 1),
            "y": round(300 - 300 * row.share, 1),
            "width": round(0.8 * width, 1),
            "height": round(300 * row.share, 1),
            "row": row,
            "middle": round((number + 0.5) * width, 1),
            "cumulative_y": round(300 - 300 * row.cumulative, 1),
        }
        for number, row in enumerate(rows)
    ]
    return {"bars": bars, "line": " ".join(f"{bar['middle']},{bar['cumulative_y']}" for bar in bars)}


def show_comparison(call: DashboardRequest) -> Response:
    """The page that compares two selections."""
    query: SelectionPairQuery = call.query
    first, second = _choice(call, "a_"), _choice(call, "b_")
    is_chosen = any(getattr(query, name) for name in query.__struct_fields__ if name[:2] in ("a_", "b_"))
    with results_runner(call) as run:
        return call.page(
            "comparison.html",
            query=query,
            comparison=compare(run, first, second) if is_chosen else None,
            values=counted_values(run, msgspec.structs.replace(first, devices=(), bundle="")),
            groups=_groups(call),
            periods=PERIODS,
        )


def get_totals(call: DashboardRequest) -> VerdictCounts:
    """Results by verdict."""
    with results_runner(call) as run:
        return totals(run, _choice(call))


def get_trend(call: DashboardRequest) -> list[TrendPoint]:
    """Results by verdict in steps of time."""
    choice = _choice(call)
    with results_runner(call) as run:
        return trend(run, choice, step_h=_step_h(call.query, choice))


def get_pareto(call: DashboardRequest) -> list[ParetoRow]:
    """Defect types, most frequent first, with cumulative share."""
    with results_runner(call) as run:
        return pareto(run, _choice(call))


def get_chart(call: DashboardRequest) -> ControlChart:
    """p-chart of the reject rate with limits and run rules."""
    choice = _choice(call)
    with results_runner(call) as run:
        chart = control_chart(call.query, trend(run, choice, step_h=_step_h(call.query, choice)))
    if chart is None:
        raise RequestError("no part was inspected in this time", status=404, action="Choose a longer time.")
    return chart


def get_reviews(call: DashboardRequest) -> ReviewRates:
    """False rejects and escapes, from what people decided."""
    with results_runner(call) as run:
        return review_rates(run, _choice(call))


def get_comparison(call: DashboardRequest) -> SelectionComparison:
    """Two lines or two bundles, with intervals."""
    with results_runner(call) as run:
        return compare(run, _choice(call, "a_"), _choice(call, "b_"))


def _api(name: str, handler: Handler, query: type[msgspec.Struct] = SelectionQuery) -> DashboardRoute:
    return DashboardRoute("GET", f"{API}/statistics/{name}", "watch", handler, query=query)


ROUTES = (
    DashboardRoute("GET", "/quality", "watch", show, query=SelectionQuery, menu="Quality"),
    DashboardRoute("GET", "/quality/comparison", "watch", show_comparison, query=SelectionPairQuery),
    _api("totals", get_totals),
    _api("trend", get_trend),
    _api("pareto", get_pareto),
    _api("control-chart", get_chart),
    _api("reviews", get_reviews),
    _api("comparison", get_comparison, SelectionPairQuery),
)
