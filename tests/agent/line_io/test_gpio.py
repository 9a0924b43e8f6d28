"""GPIO as far as it can be tested without a chip; `lineside_agent.line_io.gpio_check` needs one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineside_agent.config import GpioLineConfig, parse_config
from lineside_agent.line_io import Signal, gpio_check, open_output
from lineside_agent.line_io.events import (
    ChallengeRequested,
    Code,
    Fault,
    LineState,
    PartAcknowledged,
    ResetPressed,
    TriggerAnswer,
    Triggered,
)
from lineside_agent.line_io.gpio import Gpio, event_of, levels_of
from lineside_runtime.errors import ConfigError
from tests.peers.waiting import wait_for

HEAD = 'device = "c"\nfolder = "s"\nbundle = "b"\n[camera]\ntype = "simulator"\n[[line_io]]\ntype = "gpio"\n'


def test_levels_are_those_of_the_handshake_and_rejected_is_no_mere_absence() -> None:
    answer = TriggerAnswer(1, "p", "x", 0, Code.REJECT, 0.0, 1.0, 0.5)
    levels = levels_of(LineState())
    assert levels.pop("gate_pass"), "parts may pass while none must be rejected"
    assert not any(levels.values())
    assert not levels_of(LineState(gate=True))["gate_pass"]
    on = {
        name
        for name, level in levels_of(LineState(result_valid=True, fault=Fault.LATE, result=answer)).items()
        if level
    }
    assert on == {"result_valid", "rejected", "fault", "gate_pass"}


def test_an_unsure_part_is_rejected_and_has_a_level_of_its_own() -> None:
    answer = TriggerAnswer(1, "p", "x", 0, Code.UNSURE, 0.0, 1.0, 0.5)
    levels = levels_of(LineState(result_valid=True, result=answer))
    assert {name for name, level in levels.items() if level} == {"result_valid", "rejected", "unsure", "gate_pass"}


def test_edges_mean_what_their_input_is_for() -> None:
    assert event_of("trigger", True, "x") == Triggered("x", edge=True)
    assert event_of("trigger", False, "x") is None
    assert event_of("acknowledge", False, "x") == PartAcknowledged(False)
    assert (event_of("reset", True, "x"), event_of("challenge", True, "x")) == (ResetPressed(), ChallengeRequested())


def test_lines_are_named_or_numbered_and_anything_else_is_an_error() -> None:
    text = HEAD + 'chip = "/dev/gpiochip0"\noutputs = { ready = 17, passed = "GPIO22" }\ninputs = { trigger = 27 }\n'
    (line,) = parse_config(text.encode(), Path("/")).line_io
    assert isinstance(line, GpioLineConfig) and line.outputs == {"ready": 17, "passed": "GPIO22"}
    with pytest.raises(ConfigError, match="lamp"):
        parse_config((HEAD + 'chip = "c"\noutputs = { lamp = 17 }\n').encode(), Path("/"))


def test_chip_that_is_not_there_is_said_and_tried_again(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    line = open_output(GpioLineConfig(chip=str(tmp_path / "gpiochip9"), outputs={"ready": 1}, inputs={"trigger": 2}))
    line.listen(lambda *_: None)
    try:
        wait_for(lambda: "tried again" in caplog.text)
        line.show(LineState(ready=True))
        assert not line.signal(Signal(1, "p", "pass"))
        assert line.missed == 1
    finally:
        line.close()


class FailingRequest:
    """The lines of a chip, as libgpiod gives them, that fail at first."""

    def __init__(self) -> None:
        self.fails = True

    def set_values(self, values: object) -> None:
        if self.fails:
            raise OSError("no such device")


def test_outputs_that_can_not_be_set_are_a_problem_until_they_can() -> None:
    line = Gpio("gpiochip9", outputs={"ready": 1}, inputs={})
    request = FailingRequest()
    line._request = request  # type: ignore[assignment]
    line.show(LineState(ready=True))
    assert line.status()["problem"] == "outputs can't be set: no such device"
    request.fails = False
    line.show(LineState())
    assert (line.is_open, line.status()["problem"]) == (True, None)


def test_a_check_without_a_chip_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chip = str(tmp_path / "gpiochip9")
    assert gpio_check.main([chip, "--out", "17", "--in", "27"]) == 1
    found = capsys.readouterr()
    assert (json.loads(found.out)["opened"], json.loads(found.out)["edges"]) == (False, 0)
    assert chip in found.err and "gpiodetect" in found.err and "No such file" in found.err


def test_a_check_whose_pulses_are_lost_names_the_wire() -> None:
    found = {"opened": True, "problem": "", "pulses": 100, "edges": 60, "p50_ms": 0.1}
    assert "60 of 100 pulses" in gpio_check.advice(found, "/dev/gpiochip0")
    assert gpio_check.advice(found | {"edges": 100}, "/dev/gpiochip0") == ""
