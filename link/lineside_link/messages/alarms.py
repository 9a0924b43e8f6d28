"""Open alarms of a device: hub to whoever subscribes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from lineside_link.messages.base import Message, Name, Text


class OpenAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm that is not closed.

    Attributes:
        id: Its number at the hub.
        rule: Name of its rule.
        priority: How urgent it is, as the rule says.
        state: ``active``, ``acknowledged`` (and still active) or ``cleared`` (over, and not acknowledged).
        value: The figure when it was raised last.
        detail: For people.
        raised_at_ns: Unix time when it was raised first.
        acknowledged_by: Who acknowledged it; empty for nobody.
        count: How often it was raised.
    """

    id: int
    rule: Name
    priority: Literal["high", "medium", "low"]
    state: Literal["active", "acknowledged", "cleared"]
    value: float
    detail: Text = ""
    raised_at_ns: int
    acknowledged_by: Text = ""
    count: int = 1


class DeviceAlarms(Message, frozen=True, kw_only=True):
    """All open alarms of a device; none when the last one is closed.

    Attributes:
        device: Its name; ``_hub`` for the hub itself.
        alarms: The open ones; at most 256.
    """

    device: Name
    alarms: Annotated[tuple[OpenAlarm, ...], msgspec.Meta(max_length=256)] = ()
