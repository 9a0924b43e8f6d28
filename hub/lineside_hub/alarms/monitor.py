"""The thread that watches figures, changes alarms and tells about it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lineside_hub.alarms.config import AlarmRule, Transition
from lineside_hub.alarms.figures import FigureKey, read_readings
from lineside_hub.alarms.machine import FigureReading, FleetAlarm, clear, is_beyond, step
from lineside_hub.alarms.notification import NoticeChannel, channels_for, make_channels
from lineside_hub.alarms.storage import open_alarms, record_delivery, waiting_notices, write_alarm, write_change
from lineside_hub.config import HubConfig
from lineside_hub.results.database import Database
from lineside_hub.results.sql import SqlRunner, open_runner
from lineside_link.messages import DeviceAlarms, OpenAlarm
from lineside_runtime.errors import LinesideError, NotificationError, StoreError

_log = logging.getLogger("lineside.hub.alarms")

RETRY_MIN_S, RETRY_MAX_S = 10.0, 300.0
"""Pauses of a channel that does not take notices."""

HUB = "_hub"
"""Name of the hub's own alarms on the broker: no device can be called so."""


class AlarmMonitor(threading.Thread):
    """Evaluates the rules of one hub.

    Args:
        publish: Publishes the open alarms of a device, retained; returns whether it was queued.
        clock: Unix time in ns.
    """

    def __init__(
        self,
        config: HubConfig,
        publish: Callable[[DeviceAlarms], bool],
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(name="hub-alarms", daemon=True)
        self._config = config
        self._rules = {rule.name: rule for rule in config.alarms.rule}
        self._publish = publish
        self._clock = clock
        self._since: dict[FigureKey, int] = {}
        self._published: dict[str, DeviceAlarms] = {}
        self._channels = [_RetriedChannel(each) for each in make_channels(config.alarms, config.link.site)]
        self._closing = threading.Event()
        self._republish = threading.Event()

    def close(self) -> None:
        """Ends the thread after what it is doing."""
        self._closing.set()
        if self.ident is not None:
            self.join(RETRY_MIN_S)

    def publish_again(self) -> None:
        """Publishes all open alarms with the next evaluation: a broker may have lost them."""
        self._republish.set()

    def run(self) -> None:
        """Works until it is closed."""
        with (
            Database.open(Path(self._config.folder)) as database,
            open_runner(self._config.results.url, database) as run,
        ):
            while not self._closing.wait(self._config.alarms.every_s):
                self._tick(database, run)

    def _tick(self, database: Database, run: SqlRunner) -> None:
        try:
            self.evaluate(database, run)
            self.deliver(database)
        except LinesideError as error:
            _log.error("alarms cannot be evaluated; tried again: %s", error)

    def evaluate(self, database: Database, run: SqlRunner) -> None:
        """Reads the figures once and changes alarms; publishes what changed."""
        now_ns = self._clock()
        try:
            readings = read_readings(self._rules.values(), database, run, now_ns)
        except StoreError as error:  # figures of results, where their database cannot be reached
            _log.error("reject rates cannot be read: %s", error)
            rules = [rule for rule in self._rules.values() if rule.figure != "reject_rate"]
            readings = read_readings(rules, database, run, now_ns)
        known = {(alarm.rule, alarm.device): alarm for alarm in open_alarms(database)}
        changes: list[tuple[FleetAlarm, Transition | None]] = [
            *self._steps(readings, known, now_ns),
            *(
                (clear(alarm, now_ns, "its rule no longer exists"), "cleared")
                for (rule, _), alarm in known.items()
                if rule not in self._rules and alarm.is_abnormal
            ),
        ]
        for alarm, transition in changes:
            # Again within the transaction: a person may have acknowledged it meanwhile.
            with database.transaction() as connection:
                now = {(one.rule, one.device): one for one in open_alarms(database)}.get((alarm.rule, alarm.device))
                if now != known.get((alarm.rule, alarm.device)):
                    continue
                if transition is None:
                    write_alarm(connection, alarm)
                    continue
                channels = channels_for(self._config.alarms, transition, alarm.priority)
                write_change(connection, alarm, transition, channels)
            _log.warning("alarm %s: %s %s: %s", transition, alarm.rule, alarm.device, alarm.detail)
        if self._config.alarms.mqtt:
            self._publish_changed(database)

    def _steps(
        self, readings: dict[FigureKey, FigureReading], known: dict[FigureKey, FleetAlarm], now_ns: int
    ) -> list[tuple[FleetAlarm, Transition | None]]:
        changes = []
        for key, reading in readings.items():
            rule, alarm = self._rules[key[0]], known.get(key)
            if (alarm is None or not alarm.is_abnormal) and not self._lasts(rule, key, reading, now_ns):
                continue
            if change := step(alarm, rule, key[1], reading, now_ns):
                changes.append(change)
        return changes

    def _lasts(self, rule: AlarmRule, key: FigureKey, reading: FigureReading, now_ns: int) -> bool:
        """Whether a figure has been beyond its limit for as long as the rule says."""
        if not is_beyond(rule, reading.value, was=False):
            self._since.pop(key, None)
            return False
        return (now_ns - self._since.setdefault(key, now_ns)) / 1e9 >= rule.for_s

    def _publish_changed(self, database: Database) -> None:
        if self._republish.is_set():
            self._republish.clear()
            self._published.clear()
        by_device: dict[str, list[OpenAlarm]] = {device: [] for device in self._published}
        for alarm in open_alarms(database):
            fields = {name: getattr(alarm, name) for name in OpenAlarm.__struct_fields__}
            by_device.setdefault(alarm.device or HUB, []).append(OpenAlarm(**fields))
        for device, alarms in by_device.items():
            message = DeviceAlarms(device=device, alarms=tuple(alarms))
            if self._published.get(device) != message and self._publish(message):
                self._published[device] = message

    def deliver(self, database: Database) -> None:
        """Sends the waiting notices of each channel that is not in a pause."""
        for channel in self._channels:
            channel.deliver(database)


class _RetriedChannel:
    """A channel that pauses after a failure, each time longer."""

    def __init__(self, channel: NoticeChannel) -> None:
        self._channel = channel
        self._pause_s = RETRY_MIN_S
        self._next_s = 0.0

    def deliver(self, database: Database) -> None:
        if time.monotonic() < self._next_s or not (notices := waiting_notices(database, self._channel.name)):
            return
        try:
            self._channel.deliver(notices)
        except NotificationError as error:
            _log.error("%d notices of alarms wait: %s", len(notices), error)
            record_delivery(database, notices, error=str(error))
            self._next_s = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)
            return
        record_delivery(database, notices)
        self._pause_s = RETRY_MIN_S
