"""The handshake's log lines are true."""

from __future__ import annotations

import pytest

from lineside_agent.line_io.events import (
    Availability,
    Code,
    Event,
    LogLine,
    PartInspected,
    ResetPressed,
    TriggerAnswer,
    Triggered,
)
from lineside_agent.line_io.handshake import Handshake, HandshakeSettings


def ready(**settings: object) -> Handshake:
    machine = Handshake(HandshakeSettings(deadline_s=1.0, **settings))  # type: ignore[arg-type]
    machine.step(Availability(""), 0.0)
    return machine


def said(machine: Handshake, event: Event, now_s: float) -> list[str]:
    return [action.text for action in machine.step(event, now_s) if isinstance(action, LogLine)]


def reason(machine: Handshake, now_s: float) -> str:
    (answer,) = [action for action in machine.step(Triggered("plc"), now_s) if isinstance(action, TriggerAnswer)]
    assert answer.code is Code.BUSY
    return answer.reason


def test_part_that_comes_before_the_last_result_was_taken_is_told_so() -> None:
    machine = ready(acknowledge=True)
    machine.step(Triggered("plc"), 0.1)
    machine.step(PartInspected(0, Code.PASS), 0.2)
    assert reason(machine, 0.3) == "1 result was not acknowledged"


@pytest.mark.parametrize(("queue", "words"), [(1, "1 part was under way"), (2, "2 parts were under way")])
def test_part_that_comes_too_soon_is_told_how_many_are_under_way(queue: int, words: str) -> None:
    machine = ready(queue=queue)
    for _ in range(queue):
        machine.step(Triggered("plc"), 0.1)
    machine.step(Triggered("plc"), 0.2)  # answered behind the others
    actions = [machine.step(PartInspected(number, Code.PASS), 0.3) for number in range(queue)]
    (busy,) = [each for step in actions for each in step if isinstance(each, TriggerAnswer) and each.code is Code.BUSY]
    assert busy.reason == words


def test_nobody_is_told_that_parts_can_be_judged_while_ready_is_off() -> None:
    machine = ready(late_max=1)
    machine.step(Triggered("plc"), 0.1)
    machine.step(Availability("the camera is gone"), 2.0)
    assert machine.fault.name == "LATE"
    (text,) = said(machine, Availability(""), 2.1)
    assert text == "still not ready: the line is at fault (LATE) and was not reset"
    machine.step(ResetPressed(), 2.2)
    machine.step(Availability("the camera is gone"), 2.3)
    assert said(machine, Availability(""), 2.4) == ["parts can be inspected"]


def test_challenge_that_is_due_is_said_when_parts_can_be_judged() -> None:
    machine = Handshake(HandshakeSettings(deadline_s=1.0, challenge_parts=2))
    assert said(machine, Availability(""), 0.0) == ["still not ready: 2 challenge parts must be rejected first"]
