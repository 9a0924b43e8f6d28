"""The figures that rules watch, read from the hub's databases."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable, Iterator

import msgspec

from lineside_hub.alarms.config import AlarmRule
from lineside_hub.alarms.machine import FigureReading
from lineside_hub.results.database import Database
from lineside_hub.results.sql import SqlRunner
from lineside_hub.statistics.counts import HOUR_NS, CountFilter, totals_by
from lineside_link.messages import Reported, decode

FigureKey = tuple[str, str]
"""Name of a rule, and a device; the hub's own figures have an empty one."""


class WatchedDevice(msgspec.Struct, frozen=True):
    """What the hub knows of a device, as far as rules ask.

    Attributes:
        up_at_ns: Unix time of its last birth or will.
    """

    group: str
    up: bool
    up_at_ns: int
    reported: Reported | None


def read_readings(
    rules: Iterable[AlarmRule], database: Database, run: SqlRunner, now_ns: int
) -> dict[FigureKey, FigureReading]:
    """Returns the present value of each figure; what is not known is left out."""
    wanted = list(rules)
    devices = _devices(database, with_reports=any(rule.figure in ("drift", "free_bytes") for rule in wanted))
    found: dict[FigureKey, FigureReading] = {}
    for rule in wanted:
        if rule.figure == "hub_free_bytes":
            free = shutil.disk_usage(database.path.parent).free
            found[rule.name, ""] = FigureReading(float(free), f"{free / 1e9:.1f} GB free on the hub's disk")
            continue
        members = {name: one for name, one in devices.items() if not rule.group or one.group == rule.group}
        pairs = _reject_rates(rule, run, now_ns) if rule.figure == "reject_rate" else _of_devices(rule, members, now_ns)
        found |= {(rule.name, device): reading for device, reading in pairs if device in members}
    return found


def _devices(database: Database, *, with_reports: bool) -> dict[str, WatchedDevice]:
    rows = database.query(
        f"SELECT d.device, d.up, d.up_at_ns, {'d.reported' if with_reports else 'NULL'} AS reported, "
        "coalesce(a.group_name, d.group_name) AS group_name FROM devices d LEFT JOIN assignments a USING (device)"
    )
    return {
        row["device"]: WatchedDevice(
            row["group_name"],
            bool(row["up"]),
            row["up_at_ns"] or 0,
            decode(row["reported"].encode(), Reported) if row["reported"] else None,
        )
        for row in rows
    }


def _of_devices(rule: AlarmRule, devices: dict[str, WatchedDevice], now_ns: int) -> Iterator[tuple[str, FigureReading]]:
    for name, one in devices.items():
        if rule.figure == "silent_s" and one.up_at_ns:
            silent_s = 0.0 if one.up else max(0.0, (now_ns - one.up_at_ns) / 1e9)
            # Not for how long: the text is shown, mailed and stored, and must not change with every second.
            since = datetime.datetime.fromtimestamp(one.up_at_ns / 1e9, datetime.timezone.utc)
            text = f"not connected since {since:%Y-%m-%d %H:%M:%S} UTC" if silent_s else "connected"
            yield name, FigureReading(silent_s, text)
        elif rule.figure == "free_bytes" and one.reported is not None and one.reported.free_bytes > 0:
            free = one.reported.free_bytes
            yield name, FigureReading(float(free), f"{free / 1e6:.0f} MB free on its disk")
        elif rule.figure == "drift" and one.reported is not None and one.reported.drift is not None:
            alarms = one.reported.drift.alarms
            text = "; ".join(alarm.text or alarm.name for alarm in alarms)[:500]
            yield name, FigureReading(float(len(alarms)), text or "no drift")


def _reject_rates(rule: AlarmRule, run: SqlRunner, now_ns: int) -> Iterator[tuple[str, FigureReading]]:
    since_ns = (now_ns // HOUR_NS - rule.hours) * HOUR_NS
    for device, counts in totals_by(run, CountFilter(since_ns=since_ns), "device").items():
        rate = counts.reject_rate
        if rate is not None and counts.inspected >= rule.min_results:
            yield device, FigureReading(rate, f"{rate:.1%} of {counts.inspected} parts rejected")
