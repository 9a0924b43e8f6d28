"""States of an alarm, after ISA-18.2 (IEC 62682); pure.

::

    (none) ──abnormal──► active ──acknowledged──► acknowledged ──normal──► closed
                           │ ▲                                               ▲
                        normal abnormal                                      │
                           ▼ │                                               │
                         cleared ──────────────acknowledged──────────────────┘

An alarm that nobody acknowledged stays in the list after it is over. A closed one is history: the next is a new alarm.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from lineside_hub.alarms.config import BELOW, AlarmRule, Priority, Transition

AlarmState = Literal["active", "acknowledged", "cleared", "closed"]


class FleetAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm.

    Attributes:
        id: Number in the hub's database; 0 before it is stored.
        device: Its subject; empty for the hub itself.
        value: The figure when `detail` was written.
        detail: For people, with the present figure; that of the clearance once it is over.
        raised_at_ns: Unix time when it was raised first.
        changed_at_ns: Unix time of its last transition.
        cleared_at_ns: Unix time when it was over; 0 while it is not.
        acknowledged_at_ns: Unix time; 0 for never.
        acknowledged_by: Who did; empty for nobody.
        note: What that person wrote.
        count: How often it was raised.
    """

    id: int = 0
    rule: str
    device: str
    priority: Priority
    state: AlarmState
    value: float
    detail: str
    raised_at_ns: int
    changed_at_ns: int
    cleared_at_ns: int = 0
    acknowledged_at_ns: int = 0
    acknowledged_by: str = ""
    note: str = ""
    count: int = 1

    @property
    def is_abnormal(self) -> bool:
        """Whether its figure is still beyond the limit."""
        return self.state in ("active", "acknowledged")


class FigureReading(msgspec.Struct, frozen=True):
    """The value of a figure now.

    Attributes:
        detail: For people.
    """

    value: float
    detail: str


def is_beyond(rule: AlarmRule, value: float, *, was: bool) -> bool:
    """Returns whether a figure is abnormal.

    Args:
        was: Whether its alarm is there already, so that the figure must pass ``rule.clear`` to be normal.
    """
    limit = rule.clear if was and rule.clear is not None else rule.limit
    return value < limit if rule.figure in BELOW else value > limit


def step(
    alarm: FleetAlarm | None, rule: AlarmRule, device: str, reading: FigureReading, now_ns: int
) -> tuple[FleetAlarm, Transition | None] | None:
    """Returns the changed alarm and its transition; ``None`` if nothing changes.

    An alarm whose condition goes on shows the present figure; that is no transition, of which nobody is notified.

    Args:
        alarm: The open alarm of this rule and device.
        reading: Beyond the limit for `AlarmRule.for_s` where there is no alarm.
    """
    abnormal = is_beyond(rule, reading.value, was=alarm is not None and alarm.is_abnormal)
    if alarm is None:
        if not abnormal:
            return None
        made = FleetAlarm(
            rule=rule.name,
            device=device,
            priority=rule.priority,
            state="active",
            value=reading.value,
            detail=reading.detail,
            raised_at_ns=now_ns,
            changed_at_ns=now_ns,
        )
        return made, "raised"
    if alarm.is_abnormal and not abnormal:
        return clear(alarm, now_ns, reading.detail), "cleared"
    if alarm.state == "cleared" and abnormal:
        again = msgspec.structs.replace(
            alarm,
            state="active",
            value=reading.value,
            detail=reading.detail,
            changed_at_ns=now_ns,
            cleared_at_ns=0,
            count=alarm.count + 1,
        )
        return again, "raised"
    if abnormal and reading.detail != alarm.detail:
        return msgspec.structs.replace(alarm, value=reading.value, detail=reading.detail), None
    return None


def clear(alarm: FleetAlarm, now_ns: int, detail: str) -> FleetAlarm:
    """Returns the alarm after its figure is normal again."""
    state: AlarmState = "closed" if alarm.state == "acknowledged" else "cleared"
    return msgspec.structs.replace(alarm, state=state, detail=detail, changed_at_ns=now_ns, cleared_at_ns=now_ns)


def acknowledge(alarm: FleetAlarm, by: str, note: str, now_ns: int) -> FleetAlarm | None:
    """Returns the acknowledged alarm; ``None`` if it was acknowledged already."""
    if alarm.state not in ("active", "cleared"):
        return None
    state: AlarmState = "acknowledged" if alarm.state == "active" else "closed"
    return msgspec.structs.replace(
        alarm, state=state, changed_at_ns=now_ns, acknowledged_at_ns=now_ns, acknowledged_by=by, note=note
    )
