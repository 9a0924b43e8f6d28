"""Triggers over text, MQTT and the local socket, each through the whole agent; and a plugin."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_agent.config import PluginLine
from lineside_agent.line_io import LineOutput, Signal, open_output
from lineside_agent.line_io.events import Acknowledged, ChallengeAsked, Encoder, ResetPressed, Triggered
from lineside_agent.line_io.serial_ import event_of
from lineside_link.client import LinkClient
from lineside_runtime.errors import ConfigError
from tests.agent.line_io.conftest import StartLine
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.waiting import wait_for
from tests.worlds.agent import folder_camera


class Text:
    """The line's end of a pty."""

    def __init__(self, path: Path) -> None:
        self.ours, theirs = pty.openpty()
        tty.setraw(self.ours)
        tty.setraw(theirs)
        os.set_blocking(self.ours, False)
        path.symlink_to(os.ttyname(theirs))
        self.theirs = theirs
        self.data = b""

    def heard(self) -> list[bytes]:
        with contextlib.suppress(BlockingIOError):
            self.data += os.read(self.ours, 65536)
        return self.data.splitlines()

    def say(self, text: str) -> None:
        os.write(self.ours, text.encode())


@pytest.fixture
def text(tmp_path: Path) -> Iterator[Text]:
    made = Text(tmp_path / "ttyLINE")
    yield made
    os.close(made.ours)
    os.close(made.theirs)


def test_text_triggers_parts_and_tells_levels_and_verdicts(start_line: StartLine, text: Text, tmp_path: Path) -> None:
    agent = start_line(f'[[line_io]]\ntype = "serial"\nport = "{tmp_path / "ttyLINE"}"\n')
    wait_for(lambda: b"S READY 0 0" in text.heard(), 60.0, what="ready")
    text.say("T A-17\nnonsense\n")
    wait_for(lambda: b"V 0 PASS A-17" in text.heard())
    text.say("T")
    text.say("\n")
    wait_for(lambda: b"V 1 REJECT 0001.png" in text.heard())
    assert b"S BUSY 0 0" in text.heard()
    assert "b'nonsense' means nothing here" in agent.log


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"T", Triggered("x")),
        (b" T  A-1 \r", Triggered("x", "A-1")),
        (b"E 4294967295", Encoder(4294967295)),
        (b"E 4294967296", None),
        (b"E -1", None),
        (b"A", Acknowledged(True)),
        (b"R", ResetPressed()),
        (b"C", ChallengeAsked()),
        (b"T a b", None),
        (b"", None),
        (b"\xff\x00", None),
    ],
)
def test_lines_of_text_mean_one_thing_or_nothing(line: bytes, event: object) -> None:
    assert event_of(line, "x") == event


@pytest.mark.peer
def test_mqtt_triggers_and_tells_and_a_broker_that_goes_stops_nothing(start_line: StartLine, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    link = f'link = {{ url = "{broker.url}", site = "t0", reconnect_min_s = 0.05, reconnect_max_s = 0.2 }}'
    agent = start_line(f'[[line_io]]\ntype = "mqtt"\ntopic = "cell/4"\n{link}\n')
    heard: list[tuple[str, dict[str, object]]] = []
    client = LinkClient(broker.config(), "plc")
    client.subscribe("cell/4/result", lambda topic, data: heard.append((topic, json.loads(data))))
    states: list[dict[str, object]] = []
    client.subscribe("cell/4/state", lambda _, data: states.append(json.loads(data)))
    client.start()
    try:
        wait_for(lambda: states and states[-1]["ready"], 60.0, what="ready")
        client.publish("cell/4/trigger", b'{"part_id": "A-1", "tag": 5}')
        client.publish("cell/4/trigger", b'{"part_id": "A-1", "tag": 5}')  # as QoS 1 may bring it
        wait_for(lambda: len(heard) == 1)
        result = heard[0][1]
        assert (result["part_id"], result["tag"], result["verdict"], result["code"]) == ("A-1", 5, "pass", "PASS")
        client.publish("cell/4/trigger", b"not json")
        before = len(states)
        broker.restart()
        wait_for(lambda: client.connected and len(states) > before and states[-1]["ready"], what="ready again")
        client.publish("cell/4/trigger", b"")
        wait_for(lambda: len(heard) == 2)
        assert heard[1][1]["verdict"] == "reject"
        wait_for(lambda: agent.line.get("triggers") == 2)
        assert agent.stop() == 0
        wait_for(lambda: not states[-1]["ready"], what="the agent's goodbye")
    finally:
        client.close()
        broker.stop()


def test_program_on_the_machine_triggers_and_gets_the_verdict(start_line: StartLine) -> None:
    agent = start_line("")
    agent.wait_ready()
    command = [sys.executable, "-m", "lineside", "agent", "trigger", "--config", str(agent.folder / "agent.toml")]
    done = subprocess.run([*command, "--part", "A-1", "--json"], capture_output=True, text=True, timeout=60)
    told = json.loads(done.stdout)
    assert (done.returncode, told["part_id"], told["verdict"], told["number"]) == (0, "A-1", "pass", 0)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()[:2]) == (1, ["reject", "0001.png"])
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(agent.state / "line.sock"))
        line.sendall(b'{"do": "fly"}\n{"do": "reset"}\n')
        with line.makefile("rb") as answers:
            assert "error" in json.loads(answers.readline())
            assert json.loads(answers.readline()) == {"done": True}


def test_trigger_without_an_agent_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        'device = "c"\nfolder = "state"\nbundle = "b"\n[camera]\ntype = "simulator"\n[trigger]\n'
    )
    command = [sys.executable, "-m", "lineside", "agent", "trigger", "--config", str(tmp_path / "agent.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "lineside agent run" in done.stderr


class Lamp(LineOutput):
    """Somebody else's protocol."""

    def __init__(self, *, colour: str) -> None:
        super().__init__(f"lamp {colour}")
        self.lit: list[Signal] = []

    def _open(self) -> None:
        return None

    def _send(self, signal: Signal) -> None:
        self.lit.append(signal)

    def _close(self) -> None:
        return None


def test_class_of_somebody_elses_is_named_in_the_configuration() -> None:
    made = open_output(PluginLine(name=f"{__name__}:Lamp", options={"colour": "red"}))
    assert made.name == "lamp red"
    assert made.signal(Signal(1, "p", "reject"))


@pytest.mark.parametrize(
    ("name", "options"),
    [("nothing:Lamp", {}), (f"{__name__}:Lamp", {"colour": "red", "size": 1}), ("builtins:dict", {}), ("lamp", {})],
)
def test_plugin_that_is_none_is_an_error_of_the_configuration(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="plugin"):
        open_output(PluginLine(name=name, options=options))


def test_watching_judges_the_latest_frame_and_counts_the_rest(start_line: StartLine) -> None:
    camera = folder_camera(loop=True, frames=60, rate_hz=1000)
    agent = start_line("", trigger={"mode": "watch"}, camera=camera)
    wait_for(lambda: agent.status.get("source_finished"), 60.0, what="the end of the source")
    status = agent.status
    assert status["line"] is None
    assert status["frames"] == 60 == status["inspected"] + status["dropped"]
    agent.stop()
    assert len(agent.rows()) == status["inspected"]
