from __future__ import annotations

from typing import Any

import pytest

from lineside_agent.screen.alarms import AlarmList, Condition, conditions

QUIET: dict[str, Any] = {"models": [{"name": "a"}], "connected": True}


def test_nothing_is_abnormal_at_rest() -> None:
    assert conditions(QUIET, has_hub=True) == []


def test_the_worst_comes_first_and_a_changeover_is_no_failure() -> None:
    status = QUIET | {
        "connected": False,
        "device_problem": "gpu:0 failed",
        "camera_problem": "no frames",
        "recipe_problem": "changing over to recipe B",
        "line": {"problem": "changing over to recipe B"},
    }
    found = [(one.key, one.signal) for one in conditions(status, has_hub=True)]
    assert found == [("camera_lost", "F"), ("changeover", "C"), ("fallback", "S"), ("hub_lost", "M")]


def test_a_hub_that_does_not_answer_is_an_alarm_though_the_broker_is_connected() -> None:
    status = QUIET | {"connected": True, "link_problem": "the hub does not answer"}
    assert [one.key for one in conditions(status, has_hub=True)] == ["hub_lost"]


def test_a_line_that_is_not_ready_is_one_alarm_and_not_two() -> None:
    status = QUIET | {"camera_problem": "no frames", "line": {"problem": "the camera has given nothing for 2 s"}}
    assert [one.key for one in conditions(status, has_hub=False)] == ["camera_lost"]
    assert [one.key for one in conditions(QUIET | {"line": {"problem": "drift"}}, has_hub=False)] == ["line_not_ready"]
    loading = {"models": [], "line": {"problem": "no bundle is loaded"}}
    assert [one.key for one in conditions(loading, has_hub=False)] == ["no_bundle"]
    assert conditions(loading, has_hub=False, starting=True) == []


@pytest.mark.parametrize(
    ("alarm", "prefix", "error", "wanted"),
    [
        ("bundle_refused", "", "error", "surface-12@2.0.0"),
        ("configuration_refused", "configuration_", "configuration_error", "config@0123456789ab"),
        ("update_refused", "agent_", "agent_error", "lineside@0.2.0"),
    ],
)
def test_what_was_refused_is_named_with_the_reason(alarm: str, prefix: str, error: str, wanted: str) -> None:
    status = QUIET | {f"{prefix}state": "failed", f"{prefix}wanted": wanted, error: "[3002] damaged"}
    [found] = conditions(status, has_hub=True)
    assert (found.key, found.detail) == (alarm, f"{wanted}: [3002] damaged")
    unnamed = status | {f"{prefix}state": "rolled_back", f"{prefix}wanted": None}
    assert conditions(unnamed, has_hub=True)[0].detail == "[3002] damaged"
    for under_way in ("fetching", "health_check"):  # tried again
        assert conditions(status | {f"{prefix}state": under_way}, has_hub=True) == []


def test_an_alarm_stays_until_it_is_over_and_acknowledged() -> None:
    alarms, lost = AlarmList(), Condition("hub_lost", "hub", "M", "no route")
    alarms.update([lost, Condition("challenge", "plc", "C")], 1)
    assert [(one["key"], one["over"]) for one in alarms.status()] == [("hub_lost", False)]
    alarms.update([], 2)
    assert [(one["key"], one["over"]) for one in alarms.status()] == [("hub_lost", True)]
    alarms.update([lost], 3)
    assert [(one["since_ns"], one["over"]) for one in alarms.status()] == [(3, False)]
    assert alarms.acknowledge("hub_lost", "Ann")
    assert alarms.status()[0]["acknowledged_by"] == "Ann"
    alarms.update([], 4)
    assert alarms.status() == []
    assert not alarms.acknowledge("hub_lost", "Ann")
