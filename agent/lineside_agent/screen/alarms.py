"""What is abnormal, from the agent's status, and the alarms that people acknowledge.

The signals are those of NAMUR NE 107: ``F`` failure, ``C`` function check, ``S`` out of specification, ``M``
maintenance required. An alarm stays in the list until it is over and somebody has acknowledged it (ISA-18.2).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from lineside_agent.health.pushed_artifacts import pushed_problems
from lineside_agent.line_io.events import CHANGING_OVER, STARTING

Signal = Literal["F", "C", "S", "M"]

SIGNALS: tuple[Signal, ...] = ("F", "C", "S", "M")
"""The worst first."""

COMPONENTS = ("camera", "plc", "engine", "hub", "disk", "heat")

HOT_C = 80.0
"""Temperature that is an alarm where ``[degrade]`` sets no other."""

_DETAIL_MAX = 300


class Condition(msgspec.Struct, frozen=True):
    """Something that is abnormal now.

    Attributes:
        key: Its name in the catalogue of texts.
        component: One of `COMPONENTS`.
        detail: The agent's own words; may be empty.
    """

    key: str
    component: str
    signal: Signal
    detail: str = ""


def conditions(
    status: Mapping[str, Any],
    *,
    has_hub: bool,
    silent_s: float | None = None,
    stuck_s: float | None = None,
    starting: bool = False,
) -> list[Condition]:
    """Returns what is abnormal, the worst first.

    Args:
        status: As in ``status.json``.
        has_hub: Whether the agent has a hub.
        silent_s: Time without a frame of a camera that should give some; ``None`` if it gives them.
        stuck_s: Time without a verdict although frames come; ``None`` if there are verdicts.
        starting: Whether the agent has just started, so that model and hub may be missing.
    """
    found = [*_camera(status, silent_s), *_engine(status, stuck_s, starting), *_heat(status)]
    if has_hub and not starting and (status.get("link_problem") or not status.get("connected")):
        found.append(_condition("hub_lost", "hub", "M", status.get("link_problem")))
    found += [
        _condition(key, component, signal, status[name]) for key, component, signal, name in _PLAIN if status.get(name)
    ]
    is_explained = any(one.signal == "F" for one in found) or (starting and not status.get("models"))
    found += _line(status, is_explained=is_explained)
    found += _refused(status)
    return sorted(found, key=lambda one: SIGNALS.index(one.signal))


_PLAIN: tuple[tuple[str, str, Signal, str], ...] = (
    ("records_waiting", "disk", "F", "store_problem"),
    ("records_waiting", "disk", "F", "numbers_problem"),
    ("images_skipped", "disk", "S", "images_problem"),
    ("writes_limited", "disk", "M", "written_problem"),
    ("plc_lost", "plc", "F", "line_io_problem"),
    ("certificate", "hub", "M", "certificate_problem"),
)


REFUSALS = {"bundle": "bundle_refused", "configuration": "configuration_refused", "agent": "update_refused"}
"""Alarm by the kind of what was pushed."""


def _refused(status: Mapping[str, Any]) -> list[Condition]:
    """Returns what was pushed and given up; an error of one that is still fetched or on trial is no refusal."""
    return [
        _condition(REFUSALS[problem.kind], "engine", "M", problem.text)
        for problem in pushed_problems(status)
        if problem.is_refused
    ]


def _condition(key: str, component: str, signal: Signal, detail: object = "") -> Condition:
    return Condition(key, component, signal, str(detail or "")[:_DETAIL_MAX])


def _camera(status: Mapping[str, Any], silent_s: float | None) -> list[Condition]:
    found = []
    if status.get("camera_problem"):
        found.append(_condition("camera_lost", "camera", "F", status["camera_problem"]))
    elif silent_s is not None:
        found.append(_condition("camera_silent", "camera", "F", f"{silent_s:.0f} s"))
    drift = status.get("drift") or {}
    if drift.get("alarm"):
        found.append(_condition("drift", "camera", "S", "; ".join(drift["alarms"])))
    return found


def _engine(status: Mapping[str, Any], stuck_s: float | None, starting: bool) -> list[Condition]:
    found = []
    if not status.get("models") and not starting:
        found.append(_condition("no_bundle", "engine", "F", status.get("bundle_problem") or ""))
    elif stuck_s is not None:
        found.append(_condition("no_verdict", "engine", "F", f"{stuck_s:.0f} s"))
    if status.get("device_problem"):
        found.append(_condition("fallback", "engine", "S", status["device_problem"]))
    recipe = status.get("recipe_problem") or ""
    if recipe.startswith(CHANGING_OVER):
        found.append(_condition("changeover", "engine", "C"))
    elif recipe:
        found.append(_condition("recipe_refused", "engine", "F", recipe))
    return found


def _heat(status: Mapping[str, Any]) -> list[Condition]:
    degradation = status.get("degradation") or {}
    if degradation.get("step"):
        return [_condition("degraded", "heat", "S", degradation.get("reason"))]
    temperature_c = status.get("temperature_c")
    if temperature_c is not None and temperature_c >= HOT_C:
        return [_condition("hot", "heat", "S", f"{temperature_c:.0f} °C")]
    return []


def _line(status: Mapping[str, Any], *, is_explained: bool) -> list[Condition]:
    """What the handshake says, unless a failure or the start of the agent says why already."""
    line = status.get("line") or {}
    if line.get("fault"):
        return [_condition("line_fault", "plc", "F", line["fault"])]
    if line.get("challenge_left"):
        return [_condition("challenge", "plc", "C", line["challenge_left"])]
    problem = line.get("problem") or ""
    if problem and problem != STARTING and not is_explained and not problem.startswith(CHANGING_OVER):
        return [_condition("line_not_ready", "plc", "F", problem)]
    return []


class Alarm(msgspec.Struct, kw_only=True):
    """An alarm.

    Attributes:
        since_ns: Unix time at which it came.
        over: Whether it is over, and only waits to be acknowledged.
        acknowledged_by: Who has acknowledged it; empty for nobody.
    """

    key: str
    component: str
    signal: Signal
    detail: str
    since_ns: int
    over: bool = False
    acknowledged_by: str = ""


class AlarmList:
    """The alarms; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alarms: dict[str, Alarm] = {}

    def update(self, found: Sequence[Condition], now_ns: int) -> None:
        """Takes what is abnormal now. A function check (``C``) is somebody's intention and no alarm."""
        active = {one.key: one for one in reversed(found) if one.signal != "C"}
        with self._lock:
            for key, one in active.items():
                alarm = self._alarms.get(key)
                if alarm is None or alarm.over:
                    alarm = Alarm(key=key, component=one.component, signal=one.signal, detail="", since_ns=now_ns)
                    self._alarms[key] = alarm
                alarm.detail = one.detail
            for key in self._alarms.keys() - active.keys():
                self._alarms[key].over = True
                if self._alarms[key].acknowledged_by:
                    del self._alarms[key]

    def acknowledge(self, key: str, by: str) -> bool:
        """Acknowledges an alarm; false if there is none."""
        with self._lock:
            alarm = self._alarms.get(key)
            if alarm is None:
                return False
            alarm.acknowledged_by = by
            if alarm.over:
                del self._alarms[key]
            return True

    def status(self) -> list[dict[str, Any]]:
        """Returns the alarms: unacknowledged ones first, then the worst, then the newest."""
        with self._lock:
            alarms = [msgspec.to_builtins(alarm) for alarm in self._alarms.values()]
        order = {signal: place for place, signal in enumerate(SIGNALS)}
        return sorted(alarms, key=lambda one: (bool(one["acknowledged_by"]), order[one["signal"]], -one["since_ns"]))
