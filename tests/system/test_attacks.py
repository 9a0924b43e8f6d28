"""Attacks on a site with real certificates, brokers and files, by a device that is enrolled and means harm.

The commands set the site up as an integrator does; what is sent is what an attacker can send. Loopback only.
"""

from __future__ import annotations

import csv
import hashlib
import json
import stat
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.fleet.listing import list_rollouts
from lineside_hub.rollouts.push import push
from lineside_link.client.client import LinkClient
from lineside_link.messages import (
    FRAME_PIECE_BYTES,
    MESSAGE_MAX_BYTES,
    BundleRef,
    FrameAnswer,
    FramePiece,
    Problem,
    RepoRequest,
    RepoResponse,
    Reported,
    ResultRow,
    Results,
    ResultsAck,
    Up,
    decode,
    decode_framed,
    encode,
    encode_framed,
)
from lineside_link.topics import Topics
from lineside_runtime.bundle import MANIFEST_NAME
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.waiting import wait_for
from tests.worlds.agent import TriggeredAgent, write_agent, write_frames
from tests.worlds.bundles import make_bundle
from tests.worlds.secure_site import SecureSite, lineside

ROGUE, EATER, HONEST = "aaa-rogue", "aab-eater", ("yyy-1", "yyy-2")
QUOTA_BYTES = 300_000
HUB_MEMORY_MAX_KB = 500_000
ESCAPE = "\x1b[2J\x1b]0;owned\x07"


class Enrolled:
    """A device's certificate in anybody's hands: sends whatever it is told, and remembers what it hears."""

    def __init__(self, site: SecureSite, name: str, group: str, *, listen_to: str = "") -> None:
        self.name = name
        self.topics = Topics(site.name)
        self.heard: list[tuple[str, bytes]] = []
        self.acked = 0
        self._changed = threading.Condition()
        self.link = LinkClient(site.link(name), name)
        topics = self.topics
        for topic in (topics.device_desired(name), topics.group_desired(listen_to or group), topics.results_ack(name)):
            self.link.subscribe(topic, self._take)
        for topic in (topics.repo_response(name), topics.frame_ack(name)):
            self.link.subscribe(topic, self._take, qos=0)
        self.link.start()
        assert self.link.wait_connected(30)

    def _take(self, topic: str, payload: bytes) -> None:
        with self._changed:
            self.heard.append((topic, payload))
            if topic == self.topics.results_ack(self.name):
                self.acked = decode(payload, ResultsAck).seq
            self._changed.notify_all()

    def say(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        self.link.publish(topic, payload, qos=qos, retain=retain)

    def born(self, group: str, board: str = "") -> None:
        up = Up(device=self.name, up=True, boot_id="b", group=group, board=board)
        self.say(self.topics.up(self.name), encode(up), retain=True)

    def results(self, *rows: ResultRow) -> None:
        self.say(self.topics.results(self.name), encode(Results(epoch="e", rows=rows)))

    def answer(self, topic: str, since: int) -> bytes:
        """Returns the next message on a topic after so many that were heard before."""
        with self._changed:
            found = self._changed.wait_for(lambda: [one for one in self.heard[since:] if one[0] == topic], 30)
        assert found, f"nothing on {topic}"
        return found[0][1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureSite]:
    made = SecureSite(tmp_path_factory.mktemp("site"), groups=["line-1", "line-2"])
    with (made.folder / "hub.toml").open("a") as file:
        file.write(f"\n[results]\ndevice_max_bytes = {QUOTA_BYTES}\n")
    made.start_broker()
    for name, group in ((ROGUE, "line-1"), (EATER, "line-1"), *((name, "line-2") for name in HONEST)):
        lineside("hub", "enroll", name, "--hub", made.folder, "--group", group)
    made.start_hub()
    yield made
    made.stop()


@pytest.fixture
def rogue(site: SecureSite) -> Iterator[Enrolled]:
    made = Enrolled(site, ROGUE, "line-1", listen_to="line-2")
    yield made
    made.link.close()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command that may fail."""
    command = [sys.executable, "-m", "lineside", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def hub_memory_kb(site: SecureSite) -> int:
    """Returns the most memory that the hub's process has had."""
    status = Path(f"/proc/{site.hub.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def events(site: SecureSite, kind: str) -> list[dict[str, str]]:
    told = json.loads(lineside("fleet", "logs", "--hub", site.folder, "--json"))["events"]
    return [event for event in told if event["kind"] == kind]


def devices(site: SecureSite) -> dict[str, dict[str, object]]:
    found = json.loads(lineside("fleet", "ls", "--hub", site.folder, "--json"))["devices"]
    return {device["name"]: device for device in found}


def test_28_a_device_steers_no_rollout_of_another_group(site: SecureSite, rogue: Enrolled, tmp_path: Path) -> None:
    honest = [Enrolled(site, name, "line-2") for name in HONEST]
    try:
        for device in honest:
            device.born("line-2")
        rogue.born("line-2")
        rogue.say(rogue.topics.up("ghost"), encode(Up(device="ghost", up=True, boot_id="b", group="line-2")))
        wait_for(lambda: {ROGUE, *HONEST} <= devices(site).keys(), what="the births")
        assert devices(site)[ROGUE]["group"] == "line-1"
        assert "ghost" not in devices(site), "the broker takes nothing on another device's topic"
        pushed = push(site.folder, make_bundle(tmp_path / "bundle").path, group="line-2", healthy_for_s=0)
        assert pushed.devices == (HONEST[0],), "first by name is the rogue"
        desired = Reported(device=ROGUE, epoch=pushed.epoch, gen=pushed.gen, state="rolled_back", wanted=pushed.ref)
        rogue.say(rogue.topics.reported(ROGUE), encode(desired), retain=True)
        before = len(rogue.heard)
        request = RepoRequest(id="1", kind="target", path=_served(pushed.ref))
        rogue.say(rogue.topics.repo_get(ROGUE), encode(request), qos=0)
        response = decode_framed(rogue.answer(rogue.topics.repo_response(ROGUE), before), RepoResponse)[0]
        assert response.status == 404
        before = len(honest[0].heard)
        honest[0].say(honest[0].topics.repo_get(HONEST[0]), encode(request), qos=0)
        response = decode_framed(honest[0].answer(honest[0].topics.repo_response(HONEST[0]), before), RepoResponse)[0]
        assert response.status == 200, "to its own group"
        assert rogue.topics.group_desired("line-2") not in {topic for topic, _ in rogue.heard}
        [rollout] = list_rollouts(site.folder, rollout=pushed.rollout)
        assert (rollout.rollout.state, rollout.count.failed, rollout.members) == ("running", 0, 2)
        said = [event["detail"] for event in events(site, "security") if event["device"] == ROGUE]
        assert any("enrolled for 'line-1'" in detail for detail in said)
    finally:
        for device in honest:
            device.link.close()


def _served(ref: BundleRef) -> str:
    """Returns the name under which the repository serves a target: its hash before the file's name."""
    group, _, name = ref.target.partition("/")
    return f"{group}/{ref.sha256}.{name}"


def test_29_an_edited_archive_is_refused_and_a_foreign_epoch_is_an_event(
    site: SecureSite, rogue: Enrolled, tmp_path: Path
) -> None:
    archive = tmp_path / "x.lsb"
    bundle = make_bundle(tmp_path / "bundle", version="2.0.0")
    lineside("hub", "export", bundle.path, "--group", "line-1", "--hub", site.folder, "--out", archive)
    with zipfile.ZipFile(archive) as whole:
        files = {name: whole.read(name) for name in whole.namelist()}
    desired = json.loads(files["tuf/desired.json"])
    files["tuf/desired.json"] = json.dumps({**desired, "epoch": 2**62}).encode()
    edited = tmp_path / "edited.lsb"
    with zipfile.ZipFile(edited, "w") as whole:
        for name, data in files.items():
            whole.writestr(name, data)
    write_frames(tmp_path / "frames", 1)
    (tmp_path / "root.json").write_bytes((site.folder / "root.json").read_bytes())
    config = write_agent(tmp_path, group="line-1", root="root.json", bundle=str(bundle.path))
    done = run("agent", "import", edited, "--config", config)
    assert done.returncode == 1
    assert "[3003]" in done.stderr, done.stderr
    rogue.say(rogue.topics.reported(ROGUE), encode(Reported(device=ROGUE, epoch=2**62, gen=1)), retain=True)
    wait_for(lambda: any("has not issued" in event["detail"] for event in events(site, "security")), what="the event")


def test_30_no_byte_stops_a_line(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    client = LinkClient(broker.config(), "plc")
    heard: list[dict[str, object]] = []
    client.subscribe("cell/recipe", lambda *_: None)
    client.subscribe("cell/result", lambda _, data: heard.append(json.loads(data)))
    client.start()
    assert client.wait_connected(30)
    client.publish("cell/recipe", b'{"recipe":"\xff"}', retain=True)
    link = f'link = {{ url = "{broker.url}", site = "t0", reconnect_min_s = 0.05, reconnect_max_s = 0.2 }}'
    bundle = make_bundle(tmp_path / "bundle")
    agent = TriggeredAgent(tmp_path, bundle.path, f'[[line_io]]\ntype = "mqtt"\ntopic = "cell"\n{link}\n')
    try:
        agent.wait_ready()
        hostile = [b'{"part_id":"\xff"}', b"\xff\xfe", b'{"part_id":' + b"[" * 300_000, b'{"part_id":"a\\u0000"}']
        for payload in hostile:
            client.publish("cell/trigger", payload)
        wait_for(lambda: len(heard) == len(hostile), what="an answer for each")
        assert {told["code"] for told in heard} == {"BAD_TRIGGER"}
        client.publish("cell/trigger", b'{"part_id":"after"}')
        wait_for(lambda: len(heard) == len(hostile) + 1, what="the part after them")
        assert heard[-1]["part_id"] == "after"
        assert agent.line["ready"]
    finally:
        client.close()
        agent.stop()
        broker.stop()


def bomb(side: int, bits: int, colour: int) -> bytes:
    """A PNG of zeros that names a size and a format, with little behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    channels = {0: 1, 2: 3, 6: 4}[colour]
    packer = zlib.compressobj(9)
    row = bytes(1 + side * channels * bits // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_31_sizes_are_bounded_and_one_device_fills_no_disk(site: SecureSite, rogue: Enrolled) -> None:
    bombs = [bomb(10_000, 16, 6), bomb(8_000, 8, 0)]
    row = ResultRow(seq=1, part_id="p1", verdict="reject", width=10_000, height=10_000)
    rogue.results(row, ResultRow(seq=2, part_id="p2", verdict="reject", width=8_000, height=8_000))
    wait_for(lambda: rogue.acked == 2, what="the records")
    for seq, data in enumerate(bombs, 1):
        answer = send_frame(rogue, seq, data)
        assert (answer.status, answer.error and answer.error.code) == ("refused", 4030)
    assert hub_memory_kb(site) < HUB_MEMORY_MAX_KB
    rogue.say(rogue.topics.results(ROGUE), b"x" * (MESSAGE_MAX_BYTES + 1000))
    wait_for(lambda: f"{ROGUE} disconnected" in site.broker.log, what="the broker to end the connection")
    eater = Enrolled(site, EATER, "line-1")
    try:
        for first in range(1, 5000, 100):
            rows = (ResultRow(seq=first + n, part_id="p" * 200, verdict="pass") for n in range(100))
            eater.results(*rows)
        wait_for(lambda: bool(events(site, "quota")), what="the refusal")
        assert 100 <= eater.acked < 3000
    finally:
        eater.link.close()
    done = run("hub", "status", "--hub", site.folder)
    assert done.returncode == 1
    assert f"! {EATER} has sent" in done.stdout
    assert site.hub.alive


def send_frame(device: Enrolled, seq: int, data: bytes) -> FrameAnswer:
    """Offers a frame and sends what the hub asks for, until it is stored or refused."""
    head = FramePiece(epoch="e", seq=seq, sha256=hashlib.sha256(data).hexdigest(), size=len(data), offset=-1)
    body = b""
    while True:
        before = len(device.heard)
        device.say(device.topics.frame(device.name), encode_framed(head, body), qos=0)
        answer = decode(device.answer(device.topics.frame_ack(device.name), before), FrameAnswer)
        if answer.status != "send":
            return answer
        body = data[answer.have : answer.have + FRAME_PIECE_BYTES]
        head = FramePiece(epoch="e", seq=seq, sha256=head.sha256, size=len(data), offset=answer.have)


def test_32_text_of_a_device_is_text_in_terminals_and_tables(site: SecureSite, rogue: Enrolled, tmp_path: Path) -> None:
    rogue.born("line-1", board=ESCAPE)
    formulas = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", f"{ESCAPE}part"]
    found = (ESCAPE, 0.5, 1.0, 1.0, 2.0, 2.0)
    rogue.results(*(ResultRow(seq=seq, part_id=f"p{seq}", verdict="pass") for seq in (1, 2)))
    wait_for(lambda: rogue.acked >= 2, what="the first rows")
    start = rogue.acked
    rows = [
        ResultRow(seq=start + number, part_id=text, verdict="reject", error=ESCAPE, detections=(found,))
        for number, text in enumerate(formulas, 1)
    ]
    rogue.results(*rows)
    wait_for(lambda: rogue.acked == start + len(rows), what="the rows")
    problem = Problem(code=1, error=ESCAPE, message=ESCAPE)
    report = Reported(device=ROGUE, state="failed", error=problem, waiting=ESCAPE)
    rogue.say(rogue.topics.reported(ROGUE), encode(report), retain=True)
    wait_for(lambda: devices(site)[ROGUE]["state"] == "failed", what="the report")
    commands = (("fleet", "ls"), ("fleet", "show", ROGUE), ("fleet", "results"), ("fleet", "logs"), ("hub", "status"))
    for command in commands:
        done = run(*command, "--hub", site.folder)
        assert not {"\x1b", "\x07"} & set(done.stdout + done.stderr), command
    lineside("fleet", "results", "--hub", site.folder, "--out", tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert any("SUM(1)" in cell for cell in cells)
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@") or (cell[:1] == "-" and not cell[1:2].isdigit())]
    assert "\x1b" not in site.hub.log


def test_33_low_ones(site: SecureSite, rogue: Enrolled, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3000):
        rogue.say(rogue.topics.repo_get(ROGUE), b"{", qos=0)
    before = len(rogue.heard)
    request = RepoRequest(id="1", kind="metadata", path="timestamp.json")
    rogue.say(rogue.topics.repo_get(ROGUE), encode(request), qos=0)
    assert decode_framed(rogue.answer(rogue.topics.repo_response(ROGUE), before), RepoResponse)[0].status == 200
    assert 1 <= site.hub.log.count("RepoRequest message") < 20
    for path in site.folder.glob("hub.db*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0, path
    bundle = make_bundle(tmp_path / "bundle").path
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    deep = json.dumps({**manifest, "postprocess": {"name": "none", "params": {"deep": "DEEP"}}})
    hostile = {
        "path": json.dumps({**manifest, "name": "../../.."}),
        "deep": deep.replace('"DEEP"', "[" * 300_000 + "]" * 300_000),
        "size": json.dumps({**manifest, "preprocess": {**manifest["preprocess"], "max_side": 10**12}}),
    }
    for name, text in hostile.items():
        (bundle / MANIFEST_NAME).write_text(text)
        assert main(["bundle", "verify", str(bundle)]) == 1, name
        assert "[3001]" in capsys.readouterr().err, name
