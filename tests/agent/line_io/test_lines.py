"""Triggers over text, MQTT and the local socket, each through the whole agent; and a plugin."""

from __future__ import annotations

import json
import os
import re
import socket
from functools import partial
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_agent.config import PluginLineConfig
from lineside_agent.daemon import DEFECT
from lineside_agent.line_io import LineOutput, Signal, open_output
from lineside_agent.line_io.events import ChallengeRequested, Encoder, PartAcknowledged, ResetPressed, Triggered
from lineside_agent.line_io.serial_ import event_of
from lineside_link.client.client import LinkClient
from lineside_runtime.errors import ConfigError
from tests.agent.line_io.conftest import StartLine
from tests.agent.line_io.serial_peer import SerialPeer
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.proxy import FaultProxy
from tests.peers.waiting import wait_for
from tests.worlds.agent import folder_camera

DOCS = Path(__file__).parents[3] / "docs" / "reference"


def test_text_triggers_parts_tells_levels_and_verdicts_and_rejects_malformed_triggers(
    start_line: StartLine, peer: SerialPeer, tmp_path: Path
) -> None:
    agent = start_line(f'[[line_io]]\ntype = "serial"\nport = "{tmp_path / "ttyLINE"}"\n')
    wait_for(lambda: b"S READY 0 0" in peer.heard(), 60.0, what="ready")
    peer.say("T A-17\nnonsense\n")
    wait_for(lambda: b"V 0 PASS A-17" in peer.heard())
    peer.say("T")
    peer.say("\n")
    wait_for(lambda: b"V 1 REJECT 0001.png" in peer.heard())
    assert b"S BUSY 0 0" in peer.heard()
    assert b"'nonsense' means nothing here" in agent.log.encode()
    peer.say("T part 7 left\n")
    wait_for(lambda: b"V 2 FAULT trigger-2" in peer.heard())
    peer.say(f"T {'A' * 129}\n")
    wait_for(lambda: b"V 3 FAULT trigger-3" in peer.heard())
    peer.say("T A-18\n")
    wait_for(lambda: b"V 4 PASS A-18" in peer.heard())
    wait_for(lambda: agent.line.get("answered") == 5)
    assert (agent.line["malformed"], agent.line["refused"], agent.line["faults"]) == (2, 2, 2)
    assert agent.stop() == 0
    rows = agent.rows()
    assert [row.verdict for row in rows] == ["pass", "reject", "fault", "fault", "pass"]
    assert rows[2].error == "BAD_TRIGGER: b'T part 7 left': one ASCII word may follow T"
    assert rows[3].error == "BAD_TRIGGER: a part id of 129 characters, at most 128 are allowed"


LONG_LINE = "V <sequence> <verdict> <part_id> <code> <defect> <count> <score> <camera>"


def test_page_about_the_serial_line_has_each_message_and_explains_its_fields() -> None:
    page = (DOCS / "serial.md").read_text()
    said, heard = page.split("## Lines from the PLC")
    lines = re.findall(r"^\| `([A-Z].*?)` \|", said, re.M)
    assert lines == ["V <sequence> <verdict> <part_id>", LONG_LINE, "S <level> <fault> <gate>", "P <recipe>"]
    explained = set(re.findall(r"^\| `([a-z_]+)` \|", said, re.M)) | {"recipe"}
    assert explained == set(re.findall(r"<(\w+)>", " ".join(lines)))
    for line in re.findall(r"^\| `([A-Z].*?)` \|", heard, re.M):
        assert event_of(line.replace("<count>", "7").replace("<", "").replace(">", "").encode(), "x") is not None
    session = page.split("## A session")[1].split("```")[1]
    for word, line in re.findall(r"^(agent|PLC) +(.*)", session, re.M):
        assert word == "agent" or event_of(line.encode(), "x") is not None
        assert line[:1] != "V" or len(line.split()) == len(LONG_LINE.split())


def test_text_tells_the_defect_and_its_camera_where_it_is_configured(
    start_line: StartLine, peer: SerialPeer, tmp_path: Path
) -> None:
    camera = folder_camera(loop=True, name="top")
    start_line(f'[[line_io]]\ntype = "serial"\nport = "{tmp_path / "ttyLINE"}"\ndefects = true\n', camera=camera)
    wait_for(lambda: b"S READY 0 0" in peer.heard(), 60.0, what="ready")
    peer.say("T A-1\n")
    wait_for(lambda: b"V 0 PASS A-1 PASS - 0 0.00 -" in peer.heard())
    peer.say("T A-2\n")
    wait_for(lambda: len([line for line in peer.heard() if line[:1] == b"V"]) == 2)
    words = [line for line in peer.heard() if line[:1] == b"V"][1].split()
    assert words[:6] == [b"V", b"1", b"REJECT", b"A-2", b"REJECT", b"bright"]
    assert len(words) == len(LONG_LINE.split())
    assert int(words[6]) >= 1
    assert 0.5 < float(words[7]) <= 1.0
    assert words[8:] == [b"top"]


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"T", Triggered("x")),
        (b" T  A-1 \r", Triggered("x", "A-1")),
        (b"E 4294967295", Encoder(4294967295)),
        (b"E 4294967296", None),
        (b"E -1", None),
        (b"A", PartAcknowledged(True)),
        (b"R", ResetPressed()),
        (b"C", ChallengeRequested()),
        (b"T a b", Triggered("x", malformed="b'T a b': one ASCII word may follow T")),
        (b"T \xff", Triggered("x", malformed="b'T \\xff': one ASCII word may follow T")),
        (b"", None),
        (b"\xff\x00", None),
    ],
)
def test_lines_of_text_mean_one_thing_or_nothing(line: bytes, event: object) -> None:
    assert event_of(line, "x") == event


def fields_of_page(topic: str) -> list[str]:
    """The fields of a message, as the page about MQTT lists them."""
    section = (DOCS / "mqtt.md").read_text().split(f"### `<topic>/{topic}`")[1].split("\n#")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.M)


@pytest.mark.peer
def test_mqtt_triggers_and_tells_and_neither_bytes_nor_a_broker_that_goes_stop_it(
    start_line: StartLine, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    link = f'link = {{ url = "{broker.url}", site = "t0", reconnect_min_s = 0.05, reconnect_max_s = 0.2 }}'
    tables = f'[defect_numbers]\nbright = 7\n[[line_io]]\ntype = "mqtt"\ntopic = "cell/4"\n{link}\n'
    heard: list[dict[str, object]] = []
    client = LinkClient(broker.config(), "plc")
    client.subscribe("cell/4/result", lambda _, data: heard.append(json.loads(data)))
    states: list[dict[str, object]] = []
    client.subscribe("cell/4/state", lambda _, data: states.append(json.loads(data)))
    client.start()
    try:
        assert client.wait_connected(20.0)
        client.publish("cell/4/recipe", b'{"recipe": "\xff"}', retain=True)  # heard of at each connection
        agent = start_line(tables, camera=folder_camera(loop=True, name="top"))
        wait_for(lambda: states and states[-1]["ready"], 60.0, what="ready")
        client.publish("cell/4/trigger", b'{"part_id": "A-1", "tag": 5}')
        client.publish("cell/4/trigger", b'{"part_id": "A-1", "tag": 5}')  # as QoS 1 may bring it
        wait_for(lambda: len(heard) == 1)
        result = heard[0]
        assert (result["part_id"], result["tag"], result["verdict"], result["code"]) == ("A-1", 5, "pass", "PASS")
        malformed = [b"MQ-2", b'{"part_id": "\xff"}', b'{"zz": ' + b"[" * 100_000 + b"}", b'{"part_id": 7}', b"\xff"]
        malformed += [b'{"part_id": "\\u001b[2J"}', json.dumps({"part_id": "A" * 129}).encode()]
        for payload in malformed:
            client.publish("cell/4/trigger", payload)
        wait_for(lambda: len(heard) == 1 + len(malformed), what="an answer for each")
        assert {(told["verdict"], told["code"]) for told in heard[1:]} == {("fault", "BAD_TRIGGER")}
        before = len(states)
        broker.restart()
        wait_for(lambda: client.connected and len(states) > before and states[-1]["ready"], what="ready again")
        client.publish("cell/4/trigger", b"")
        wait_for(lambda: len(heard) == 2 + len(malformed))
        assert heard[-1]["verdict"] == "reject"
        assert (heard[-1]["defect"], heard[-1]["defect_number"], heard[-1]["camera"]) == ("bright", 7, "top")
        assert (result["defect"], result["defects"], result["score"]) == ("", 0, 0.0)
        assert (list(result), list(states[-1])) == (fields_of_page("result"), fields_of_page("state"))
        wait_for(lambda: agent.line.get("triggers") == len(heard))
        assert agent.stop() == 0
        assert [row.sequence for row in agent.rows()] == list(range(len(heard)))
        wait_for(lambda: not states[-1]["ready"], what="the agent's goodbye")
    finally:
        client.close()
        broker.stop()


@pytest.mark.peer
def test_retained_reset_ends_no_fault_at_a_reconnection_and_a_retained_trigger_is_no_part_in_front_of_the_camera(
    start_line: StartLine, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    proxy = FaultProxy(broker.port)
    url = f"mqtt://127.0.0.1:{proxy.port}"
    link = f'link = {{ url = "{url}", site = "t0", reconnect_min_s = 0.05, reconnect_max_s = 0.2 }}'
    heard: list[dict[str, object]] = []
    client = LinkClient(broker.config(), "plc")
    client.subscribe("cell/4/result", lambda _, data: heard.append(json.loads(data)))
    client.start()

    def retained(count: int) -> bool:
        return agent.log.count("is retained") >= count

    try:
        assert client.wait_connected(20.0)
        for name, payload in (("reset", b"x"), ("challenge", b"x"), ("trigger", b'{"part_id": "old", "tag": 3}')):
            client.publish(f"cell/4/{name}", payload, retain=True)
        agent = start_line(f'[[line_io]]\ntype = "mqtt"\ntopic = "cell/4"\n{link}\n', trigger={"challenge_parts": 1})
        wait_for(lambda: "reset is retained" in agent.log and "challenge is retained" in agent.log, 60.0)
        wait_for(lambda: heard)
        assert (heard[0]["part_id"], heard[0]["code"]) == ("challenge:old", "NOT_READY")
        wait_for(lambda: agent.line.get("problem", "") is None, 60.0)
        client.publish("cell/4/trigger", b'{"part_id": "good", "tag": 4}')
        wait_for(lambda: len(heard) == 2)
        assert heard[1]["code"] == "CHALLENGE_PASSED"
        wait_for(lambda: agent.line["fault"] == "CHALLENGE")
        wrote_ns = agent.status["updated_at_ns"]
        for _ in range(2):
            proxy.cut()
            came = agent.log.count("is retained")
            wait_for(partial(retained, came + 2), what="the retained messages again")
        wait_for(lambda: agent.status["updated_at_ns"] > wrote_ns + 10**9, what="a later status")
        assert (agent.line["fault"], agent.line["triggers"]) == ("CHALLENGE", 2)
        client.publish("cell/4/reset", b"x")
        wait_for(lambda: agent.line["fault"] is None, what="the operator's reset")
    finally:
        client.close()
        broker.stop()


def test_program_on_the_machine_triggers_and_gets_the_verdict(
    start_line: StartLine, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = start_line("")
    agent.wait_ready()
    command = ["agent", "trigger", "--config", str(agent.config_path)]
    assert main([*command, "--part", "A-1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["part_id"], told["verdict"], told["number"]) == ("A-1", "pass", 0)
    assert main(command) == 1
    said = capsys.readouterr().out
    assert said.split()[:2] == ["reject", "0001.png"]
    assert re.search(r"  bright [01]\.\d\d( and \d+ more)?, camera ", said)
    assert main(command) == 0
    assert "camera" not in capsys.readouterr().out
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(agent.state / "line.sock"))
        line.sendall(b'{"do": "fly"}\n{"do": "reset"}\n')
        with line.makefile("rb") as answers:
            assert "error" in json.loads(answers.readline())
            assert json.loads(answers.readline()) == {"done": True}
            line.sendall(b" " * 5000 + b'{"do": "reset"}\n')
            assert "longer than 4096 bytes" in json.loads(answers.readline())["error"]
            assert not answers.readline(), "what follows is no request of its own"


def test_trigger_without_an_agent_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agent.toml").write_text(
        'device = "c"\nfolder = "state"\nbundle = "b"\n[camera]\ntype = "simulator"\n[trigger]\n'
    )
    assert main(["agent", "trigger", "--config", str(tmp_path / "agent.toml")]) != 0
    assert "lineside agent run" in capsys.readouterr().err


class Lamp(LineOutput):
    """Another package's protocol."""

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
    made = open_output(PluginLineConfig(name=f"{__name__}:Lamp", options={"colour": "red"}))
    assert made.name == "lamp red"
    assert made.signal(Signal(1, "p", "reject"))


def test_sigterm_between_trigger_and_gate_still_opens_the_gate(
    start_line: StartLine, peer: SerialPeer, tmp_path: Path
) -> None:
    tables = f'[[line_io]]\ntype = "serial"\nport = "{tmp_path / "ttyLINE"}"\n[gate]\ndelay_ms = 6000\npulse_ms = 200\n'
    agent = start_line(tables, trigger={"deadline_ms": 5000})
    wait_for(lambda: b"S READY 0 0" in peer.heard(), 60.0, what="ready")
    peer.say("T A-1\nT A-2\n")
    wait_for(lambda: b"V 1 REJECT A-2" in peer.heard() or b"V 1 FAULT A-2" in peer.heard(), what="the verdicts")
    assert agent.stop() == 0
    wait_for(lambda: any(line.startswith(b"S WAIT 0 1") for line in peer.heard()), what="the gate, open, Ready off")
    assert peer.heard()[-1] == b"S WAIT 0 0"


DYING_READER = """
import threading
from pathlib import Path

from lineside_agent.line_io import LineOutput


class DyingReader(LineOutput):
    def listen(self, post):
        threading.Thread(target=self._read, name="dying reader").start()

    def _read(self):
        while not Path("fail").exists():
            threading.Event().wait(0.02)
        raise KeyError("a defect of the plug-in")

    def _open(self): ...
    def _send(self, signal): ...
    def _close(self): ...
"""


def test_agent_whose_line_thread_dies_takes_ready_off_and_ends(
    start_line: StartLine, peer: SerialPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying.py").write_text(DYING_READER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    plugin = '[[line_io]]\ntype = "plugin"\nname = "dying:DyingReader"\noptions = { name = "x" }\n'
    agent = start_line(f'{plugin}[[line_io]]\ntype = "serial"\nport = "{tmp_path / "ttyLINE"}"\n')
    wait_for(lambda: b"S READY 0 0" in peer.heard(), 60.0, what="ready")
    (tmp_path / "fail").touch()
    assert agent.child.wait(60.0) == DEFECT
    wait_for(lambda: peer.heard()[-1] == b"S WAIT 0 0", what="Ready off")
    assert "thread dying reader ended by a defect" in agent.log
    assert "a defect of the plug-in" in agent.log


@pytest.mark.parametrize(
    ("name", "options"),
    [("nothing:Lamp", {}), (f"{__name__}:Lamp", {"colour": "red", "size": 1}), ("builtins:dict", {}), ("lamp", {})],
)
def test_plugin_that_is_none_is_an_error_of_the_configuration(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="plugin"):
        open_output(PluginLineConfig(name=name, options=options))


def test_watching_judges_the_latest_frame_and_counts_the_rest(start_line: StartLine) -> None:
    camera = folder_camera(loop=True, frames=60, rate_hz=1000)
    agent = start_line("", trigger={"mode": "watch"}, camera=camera)
    wait_for(lambda: agent.status.get("source_finished"), 60.0, what="the end of the source")
    status = agent.status
    assert status["line"] is None
    assert status["frames"] == 60 == status["inspected"] + status["dropped"]
    agent.stop()
    assert len(agent.rows()) == status["inspected"]
