"""Metrics of the fleet in the text format of Prometheus, read from the hub's databases at each scrape."""

from __future__ import annotations

import collections
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lineside_hub.alarms.storage import channel_status, open_alarms
from lineside_hub.results.database import Database
from lineside_hub.results.sql import SqlRunner
from lineside_hub.rollouts.runner import Rollouts
from lineside_link.messages import Reported, Up, decode
from lineside_runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

HELP = {
    "fleet_device_up": "1 while the device is connected.",
    "fleet_device_changed_timestamp_seconds": "When the device was connected or lost last, Unix time.",
    "fleet_device_reported_timestamp_seconds": "When the device reported last, Unix time.",
    "fleet_device_info": "1 for each device, with its board, agent, bundle and state as labels.",
    "fleet_device_free_bytes": "Free bytes on the device's disk, as it reported last.",
    "fleet_device_drift_alarms": "Drift alarms that the device reports.",
    "fleet_device_problem": "1 while a pushed bundle, configuration or agent does not run, or the model runs on "
    "another processor than the first.",
    "fleet_results_total": "Results that the hub has, by verdict: pass, reject, unsure, fault.",
    "fleet_fallbacks_total": "Calls of the model in these results that another device answered.",
    "fleet_cache_hits_total": "Calls of the model in these results that the result cache answered.",
    "fleet_alarms": "Open alarms by rule, priority and state.",
    "fleet_notices_waiting": "Notices of alarms that a channel has not delivered.",
    "fleet_rollouts": "Rollouts by state.",
    "hub_free_bytes": "Free bytes on the hub's disk.",
}
"""Description of each metric, by its name without ``lineside_``."""

FORMAT = "text/plain; version=0.0.4; charset=utf-8"


def fleet_metrics(database: Database, run: SqlRunner) -> bytes:
    """Returns the metrics as text.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError as error:
        action = "Install the extra: pip install 'lineside[web]'."
        raise MissingExtraError("/metrics needs prometheus-client", action=action) from error
    registry = CollectorRegistry()
    registry.register(_Collector(lambda: _metrics(database, run)))
    return generate_latest(registry)


class _Collector:
    """A collector of ``prometheus_client``."""

    def __init__(self, read: Callable[[], Iterator[Metric]]) -> None:
        self.collect = read


class _Family:
    """One metric with its samples, made when it is first used."""

    def __init__(self, name: str, *labels: str) -> None:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        self.metric: Metric = kind(f"lineside_{name}", HELP[name], labels=labels)

    def add(self, value: float, *labels: str) -> None:
        self.metric.add_metric(list(labels), value)  # type: ignore[attr-defined]


def _metrics(database: Database, run: SqlRunner) -> Iterator[Metric]:
    yield from _devices(database)
    yield from _results(run)
    yield from _alarms(database)
    rollouts = _Family("fleet_rollouts", "state")
    for state, count in sorted(collections.Counter(one.state for one in Rollouts(database).list()).items()):
        rollouts.add(count, state)
    free = _Family("hub_free_bytes")
    free.add(shutil.disk_usage(database.path.parent).free)
    yield from (rollouts.metric, free.metric)


def _devices(database: Database) -> Iterator[Metric]:
    of = ("device", "group")
    up = _Family("fleet_device_up", *of)
    changed = _Family("fleet_device_changed_timestamp_seconds", *of)
    reported_at = _Family("fleet_device_reported_timestamp_seconds", *of)
    info = _Family("fleet_device_info", *of, "board", "agent", "bundle", "state")
    free = _Family("fleet_device_free_bytes", *of)
    drift = _Family("fleet_device_drift_alarms", *of)
    problem = _Family("fleet_device_problem", *of)
    rows = database.query(
        "SELECT d.*, coalesce(a.group_name, d.group_name) AS follows FROM devices d "
        "LEFT JOIN assignments a USING (device) ORDER BY d.device"
    )
    for row in rows:
        labels = (row["device"], row["follows"])
        birth = decode(row["birth"].encode(), Up) if row["birth"] else Up(device="", up=False, boot_id="")
        report = decode(row["reported"].encode(), Reported) if row["reported"] else Reported(device="")
        up.add(float(bool(row["up"])), *labels)
        changed.add((row["up_at_ns"] or 0) / 1e9, *labels)
        bundle = report.installed.identity if report.installed else ""
        info.add(1.0, *labels, birth.board, birth.agent_version, bundle, report.state)
        if row["reported"]:
            reported_at.add((row["reported_at_ns"] or 0) / 1e9, *labels)
            free.add(report.free_bytes, *labels)
            drift.add(len(report.drift.alarms) if report.drift is not None else 0, *labels)
            problem.add(float(_has_problem(report)), *labels)
    yield from (each.metric for each in (up, changed, reported_at, info, free, drift, problem))


def _has_problem(report: Reported) -> bool:
    errors = (
        report.error,
        report.agent and report.agent.error,
        report.configuration and report.configuration.error,
        report.placement and report.placement.problem,
    )
    return any(errors)


def _results(run: SqlRunner) -> Iterator[Metric]:
    results = _Family("fleet_results_total", "device", "verdict")
    fallbacks, hits = _Family("fleet_fallbacks_total", "device"), _Family("fleet_cache_hits_total", "device")
    sums: dict[str, list[int]] = {}
    text = "SELECT device, verdict, results, fallbacks, cache_hits FROM result_totals ORDER BY device, verdict"
    for device, verdict, count, fallen, hit in run(text, {}):
        results.add(count, device, verdict)
        of_device = sums.setdefault(device, [0, 0])
        of_device[0] += fallen
        of_device[1] += hit
    for device, (fallen, hit) in sums.items():
        fallbacks.add(fallen, device)
        hits.add(hit, device)
    yield from (results.metric, fallbacks.metric, hits.metric)


def _alarms(database: Database) -> Iterator[Metric]:
    alarms = _Family("fleet_alarms", "rule", "priority", "state")
    counts = collections.Counter((one.rule, one.priority, one.state) for one in open_alarms(database))
    for labels, count in sorted(counts.items()):
        alarms.add(count, *labels)
    waiting = _Family("fleet_notices_waiting", "channel")
    for channel in channel_status(database):
        waiting.add(channel.waiting, channel.channel)
    yield from (alarms.metric, waiting.metric)
