from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from lineside_agent.screen.shift import TREND_STEP_NS, ShiftCounters, shift_start_ns
from lineside_link.messages import ResultRow

STARTS = ("06:00", "14:00", "22:00")


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> int:
    return int(time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))) * 10**9


@pytest.mark.parametrize(
    ("now", "start"),
    [
        ("2026-11-28 13:59", "2026-11-28 06:00"),
        ("2026-11-28 14:00", "2026-11-28 14:00"),
        ("2026-11-28 03:00", "2026-11-27 22:00"),
        ("2026-03-29 05:00", "2026-03-28 22:00"),  # the clock was put forward at 2:00
        ("2026-10-25 05:00", "2026-10-24 22:00"),  # and back at 3:00
    ],
)
def test_a_shift_begins_at_its_time_of_day(now: str, start: str) -> None:
    assert shift_start_ns(at(now), STARTS) == at(start)


def row(captured: str, **fields: Any) -> ResultRow:
    given: dict[str, Any] = {"seq": 0, "part_id": "p", "captured_at_ns": at(captured), "verdict": "pass"}
    return ResultRow(**given | fields)


def test_parts_of_the_shift_are_counted_by_verdict_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: at("2026-11-28 14:00"))
    shift, now = ShiftCounters(STARTS), at("2026-11-28 14:12")
    for one in (
        row("2026-11-28 14:01"),
        row("2026-11-28 14:02", verdict="reject", detections=(("scratch", 0.9, 1, 1, 2, 2), ("dent", 0.8, 1, 1, 2, 2))),
        row("2026-11-28 14:11", verdict="reject", unsure=True, doubtful=(("scratch", 0.4, 1, 1, 2, 2),)),
        row("2026-11-28 14:11", verdict="fault"),
        row("2026-11-28 13:59", verdict="reject"),
        row("2026-11-28 14:11", part_id="challenge:x", verdict="reject"),
        row("2026-11-28 14:11", verdict="fault", unknown=True),
    ):
        shift.add(one, now_ns=now)
    status = shift.status(now)
    assert status["verdicts"] == {"pass": 1, "reject": 1, "unsure": 1, "fault": 1}
    assert dict(status["types"]) == {"scratch": 2, "dent": 1}
    assert status["trend"] == [[2, 1], [0, 0], [2, 2]]
    assert TREND_STEP_NS == 300 * 10**9
    assert shift.status(at("2026-11-28 22:00"))["parts"] == 0


def test_clock_that_is_put_back_over_the_begin_of_a_shift_loses_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: at("2026-11-28 13:00"))
    shift = ShiftCounters(STARTS)
    shift.add(row("2026-11-28 13:59"), now_ns=at("2026-11-28 13:59"))
    for _ in range(2):
        shift.add(row("2026-11-28 14:30", verdict="reject"), now_ns=at("2026-11-28 14:30"))
    put_back = shift.status(at("2026-11-28 13:30"))
    assert (put_back["start_ns"], put_back["verdicts"]["pass"], put_back["parts"]) == (at("2026-11-28 06:00"), 1, 1)
    assert shift.status(at("2026-11-28 14:01"))["verdicts"]["reject"] == 2
    assert shift.status(at("2026-11-28 22:00"))["parts"] == 0
