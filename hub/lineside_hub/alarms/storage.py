"""Alarms and their notices in ``hub.db``."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

import msgspec

from lineside_hub.alarms.config import Transition
from lineside_hub.alarms.machine import FleetAlarm, acknowledge
from lineside_hub.results.database import Database
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputNotFoundError

NOTICE_MAX_AGE_S = 86_400.0
"""A notice that cannot be delivered for so long is given up."""

NOTICE_KEPT_DAYS = 90

_FIELDS = FleetAlarm.__struct_fields__[1:]
_COLUMNS = ", ".join(_FIELDS)
_OPEN = "state <> 'closed'"


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an alarm for one channel.

    Attributes:
        id: Of the notice; a repeat after a crash has the same.
        channel: ``email``, or ``webhook`` and its URL.
        at_ns: Unix time of the change.
        alarm: As it was after the change.
    """

    id: int
    channel: str
    transition: Transition
    at_ns: int
    alarm: FleetAlarm


class ChannelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Notices of one channel.

    Attributes:
        waiting: Not delivered yet.
        given_up: Could not be delivered within a day.
        error: Why the last try failed; empty after a success.
    """

    channel: str
    waiting: int
    given_up: int
    error: str


def open_alarms(database: Database) -> list[FleetAlarm]:
    """Returns the alarms that are not closed: the worst priority first, then those that nobody acknowledged."""
    order = (
        "CASE priority WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END, state = 'acknowledged', raised_at_ns DESC"
    )
    rows = database.query(f"SELECT id, {_COLUMNS} FROM alarms WHERE {_OPEN} ORDER BY {order}, id")
    return [_alarm(row) for row in rows]


def closed_alarms(database: Database, *, before_id: int | None = None, rows: int = 50) -> list[FleetAlarm]:
    """Returns closed alarms, newest first.

    Args:
        before_id: Only those with a smaller number.
    """
    where = "state = 'closed' AND (?1 IS NULL OR id < ?1)"
    found = database.query(
        f"SELECT id, {_COLUMNS} FROM alarms WHERE {where} ORDER BY id DESC LIMIT ?2", before_id, rows
    )
    return [_alarm(row) for row in found]


def find_alarm(database: Database, number: int) -> FleetAlarm:
    """Returns one alarm.

    Raises:
        InputNotFoundError: There is none with this number.
    """
    rows = database.query(f"SELECT id, {_COLUMNS} FROM alarms WHERE id = ?", number)
    if not rows:
        raise InputNotFoundError(f"there is no alarm {number}", action="`lineside hub alarms` lists them.")
    return _alarm(rows[0])


def write_alarm(connection: sqlite3.Connection, alarm: FleetAlarm) -> FleetAlarm:
    """Stores an alarm, inside the caller's transaction; returns it with its number."""
    values = msgspec.structs.asdict(alarm)
    if alarm.id:
        changes = ", ".join(f"{name} = :{name}" for name in _FIELDS)
        connection.execute(f"UPDATE alarms SET {changes} WHERE id = :id", values)
        return alarm
    marks = ", ".join(f":{name}" for name in _FIELDS)
    number = connection.execute(f"INSERT INTO alarms ({_COLUMNS}) VALUES ({marks})", values).lastrowid
    return msgspec.structs.replace(alarm, id=number or 0)


def write_change(
    connection: sqlite3.Connection, alarm: FleetAlarm, transition: Transition, channels: Iterable[str]
) -> FleetAlarm:
    """Stores a changed alarm and its notices, inside the caller's transaction; returns it with its number."""
    alarm = write_alarm(connection, alarm)
    content = msgspec.json.encode(alarm).decode()
    connection.executemany(
        "INSERT INTO alarm_notices (channel, transition, at_ns, alarm, sent_at_ns, error) VALUES (?, ?, ?, ?, 0, '')",
        [(channel, transition, alarm.changed_at_ns, content) for channel in channels],
    )
    return alarm


def acknowledge_alarm(
    database: Database, number: int, *, by: str, note: str = "", channels: Iterable[str] = ()
) -> FleetAlarm:
    """Acknowledges an alarm; one that was acknowledged already stays as it is.

    Args:
        channels: Who is told, from `lineside_hub.alarms.notification.channels_for`.

    Returns:
        The alarm as it is now.

    Raises:
        InputNotFoundError: There is none with this number.
    """
    with database.transaction() as connection:
        known = find_alarm(database, number)
        changed = acknowledge(known, by, note[:500], time.time_ns())
        return known if changed is None else write_change(connection, changed, "acknowledged", channels)


def waiting_notices(database: Database, channel: str) -> list[Notice]:
    """Returns the oldest hundred notices that a channel has not delivered."""
    found = database.query(
        "SELECT * FROM alarm_notices WHERE channel = ? AND sent_at_ns = 0 ORDER BY id LIMIT 100", channel
    )
    return [
        Notice(
            id=row["id"],
            channel=row["channel"],
            transition=row["transition"],
            at_ns=row["at_ns"],
            alarm=decode_json(row["alarm"], type=FleetAlarm),
        )
        for row in found
    ]


def record_delivery(database: Database, notices: Iterable[Notice], *, error: str = "") -> None:
    """Stores that notices were delivered, or why not; what is older than a day is given up, and later forgotten."""
    now_ns = time.time_ns()
    numbers = [(notice.id,) for notice in notices]
    kept_ns = now_ns - NOTICE_KEPT_DAYS * 86_400 * 10**9
    with database.transaction() as connection:
        connection.execute("DELETE FROM alarm_notices WHERE sent_at_ns <> 0 AND at_ns < ?", (kept_ns,))
        if not error:
            connection.executemany(f"UPDATE alarm_notices SET sent_at_ns = {now_ns}, error = '' WHERE id = ?", numbers)
            return
        too_old_ns = now_ns - int(NOTICE_MAX_AGE_S * 1e9)
        connection.executemany(
            "UPDATE alarm_notices SET error = ?, sent_at_ns = CASE WHEN at_ns < ? THEN -1 ELSE 0 END WHERE id = ?",
            [(error[:500], too_old_ns, number[0]) for number in numbers],
        )


def channel_status(database: Database) -> list[ChannelStatus]:
    """Returns the state of each channel that was used, by its name."""
    rows = database.query(
        "SELECT channel, sum(sent_at_ns = 0) AS waiting, sum(sent_at_ns < 0) AS given_up, "
        "coalesce(max(CASE WHEN sent_at_ns = 0 THEN error END), '') AS error "
        "FROM alarm_notices GROUP BY channel ORDER BY channel"
    )
    return [ChannelStatus(**{name: row[name] for name in ChannelStatus.__struct_fields__}) for row in rows]


def _alarm(row: sqlite3.Row) -> FleetAlarm:
    return FleetAlarm(**{name: row[name] for name in FleetAlarm.__struct_fields__})
