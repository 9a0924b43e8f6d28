"""A line with everything that can go wrong on it: the agent, a PLC in a process of its own, and whoever breaks things.

The PLC (``tests/peers/plc.py``: libmodbus, nothing of ours) counts triggers and verdicts. Meanwhile, again and again:

- the camera freezes: its next picture is a named pipe, and reading it blocks;
- the engine, in a process of its own, is killed;
- the broker is killed;
- the disk is full (where a small one can be mounted);
- the wall clock jumps by an hour, forth or back (for the agent alone: ``clock.c``).
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import psutil

from lineside_agent.storage.records import RecordStore
from lineside_link.messages import ResultRow
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.programs import find_program
from tests.peers.waiting import free_port, wait_for
from tests.worlds.agent import DEVICE, AgentProcess, folder_camera, write_agent
from tests.worlds.hub import make_trusted_repository
from tests.worlds.plc import ENDLESS, start_plc
from tests.worlds.site import GROUP

CLOCK = Path(__file__).with_name("clock.c")


class Line:
    """An agent on a folder of pictures, a broker, and a PLC.

    Args:
        folder: An empty one.
        bundle: Path of the bundle.
        images: What the camera gives, in turn.
        deadline_ms: From trigger to verdict.
        state: Where the agent keeps its state.
    """

    def __init__(
        self, folder: Path, bundle: Path, images: list[Any], *, deadline_ms: float, state: Path | None = None
    ) -> None:
        self.folder = folder
        self.frames = folder / "frames"
        self.frames.mkdir()
        for number, image in enumerate(images):
            cv2.imwrite(str(self.frames / f"{number:04d}.png"), image)
        self.port = free_port()
        self.broker = Mosquitto(folder / "broker", program=find_mosquitto())
        self.broker.start()
        make_trusted_repository(folder, [GROUP])
        self.clock = folder / "clock"
        self.clock.write_bytes(bytes(8))
        self._build_clock()
        environment = {**os.environ, "LD_PRELOAD": str(folder / "clock.so"), "CLOCK_OFFSET": str(self.clock)}
        self.agent = AgentProcess(folder, state=state, environment=environment)
        self._configure(bundle, deadline_ms)
        self.done: dict[str, int] = {}
        self.plc: subprocess.Popen[str] | None = None
        self.agent.start()
        wait_for(lambda: self.agent.line.get("ready"), 120.0, what="ready")

    def _build_clock(self) -> None:
        built = str(self.folder / "clock.so")
        compiler = [find_program("g++", "g++"), "-x", "c", "-O2", "-shared", "-fPIC"]
        subprocess.run([*compiler, "-o", built, str(CLOCK), "-ldl"], check=True)

    def _configure(self, bundle: Path, deadline_ms: float) -> None:
        write_agent(
            self.folder,
            group=GROUP,
            folder=str(self.agent.state),
            bundle=str(bundle),
            link=self.broker.config(DEVICE),
            camera=folder_camera(loop=True),
            inspect={"isolate": ["ort"]},
            trigger={"deadline_ms": deadline_ms, "camera_timeout_ms": 400},
            gate={"delay_ms": 2 * deadline_ms, "pulse_ms": 10},
            line_io=[{"type": "modbus-tcp-server", "port": self.port}, {"type": "mqtt", "topic": "cell/4"}],
        )

    def start_plc(self, parts: int, *, rush: float = 0.02, seed: int = 1) -> subprocess.Popen[str]:
        options = ("--rush", str(rush), "--seed", str(seed))
        self.plc = start_plc(self.port, parts, *options, log=self.folder / "plc.log")
        return self.plc

    def plc_triggers(self) -> int:
        *lines, _ = (self.folder / "plc.log").read_text().split("\n")  # the last one may be half written
        return int(json.loads(lines[-1])["triggers"]) if lines else 0

    # What goes wrong. Each returns when it is over.

    def freeze(self, number: int, wait: Callable[[float], None]) -> None:
        """The camera's next reading of one picture blocks."""
        path = self.frames / f"{number:04d}.png"
        aside = path.with_suffix(".aside")
        path.rename(aside)
        os.mkfifo(path)
        wait(1.0)
        with contextlib.suppress(OSError):  # nobody reads
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # whoever reads is let go, and finds no picture
        aside.replace(path)

    def kill_engine(self) -> None:
        for child in psutil.Process(self.agent.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def break_broker(self, wait: Callable[[float], None]) -> None:
        self.broker.kill()
        wait(1.0)
        self.broker.start()

    def fill_disk(self, wait: Callable[[float], None]) -> None:
        filler = self.agent.state / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 65536)
        wait(1.0)
        filler.unlink(missing_ok=True)

    def jump(self, hours: int) -> None:
        """The agent's wall clock is so far from the true one from now on."""
        with self.clock.open("r+b") as file:
            file.write(struct.pack("=q", 3600 * hours))

    def end(self) -> None:
        self.agent.kill()
        if self.plc is not None and self.plc.poll() is None:
            self.plc.kill()
            self.plc.wait()
        self.broker.stop()

    def rows(self) -> Iterator[ResultRow]:
        store = RecordStore(self.agent.state)
        after = 0
        while rows := store.rows(after, 1000):
            yield from rows
            after = rows[-1].seq
        store.close()


def run(line: Line, parts: int, *, every: int, with_disk: bool) -> dict[str, Any]:
    """Has the PLC trigger parts while one thing after the other goes wrong, until each has gone wrong once.

    Args:
        line: An agent and its surroundings.
        parts: How many at least: a fast machine's parts may be through before the last fault is over.
        every: After so many parts something goes wrong.
        with_disk: Whether the state lies on a disk that may be filled.

    Returns:
        What the PLC counted, and how often what went wrong.
    """
    plc = line.start_plc(ENDLESS)
    ended = threading.Event()
    faults: dict[str, Callable[[], None]] = {
        "camera frozen": lambda: line.freeze(1, _wait(ended)),
        "engine killed": line.kill_engine,
        "broker gone": lambda: line.break_broker(_wait(ended)),
        "clock forth": lambda: line.jump(1),
        "clock back": lambda: line.jump(-1),
    }
    if with_disk:
        faults["disk full"] = lambda: line.fill_disk(_wait(ended))
    breaker = threading.Thread(target=_break, args=(line, faults, plc, ended, parts, every))
    breaker.start()
    output, _ = plc.communicate()
    ended.set()
    breaker.join(60.0)
    counted: dict[str, Any] = json.loads(output)
    return {**counted, "faults": line.done}


def _break(
    line: Line,
    faults: dict[str, Callable[[], None]],
    plc: subprocess.Popen[str],
    ended: threading.Event,
    parts: int,
    every: int,
) -> None:
    """One fault after so many parts, in turn; the PLC ends when each was there and the parts are through."""
    names = list(faults)
    number = 0
    while plc.poll() is None and not ended.is_set():
        triggers = line.plc_triggers()
        if triggers >= parts and number >= len(names):
            plc.terminate()
            return
        if triggers >= every * (number + 1):
            name = names[number % len(names)]
            faults[name]()
            line.done[name] = line.done.get(name, 0) + 1
            number += 1
        ended.wait(0.05)


def _wait(ended: threading.Event) -> Callable[[float], None]:
    def wait(seconds: float) -> None:
        ended.wait(seconds)

    return wait


def check(line: Line, counted: dict[str, Any]) -> None:
    """Each trigger has exactly one verdict at the PLC, and exactly one record that says the same."""
    assert counted["triggers"] == counted["verdicts"], counted
    assert (counted["lost"], counted["twice"], counted["overrun"]) == (0, 0, 0), counted
    assert counted["numbers_contiguous"], counted
    codes: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    sequence = -1
    for row in line.rows():
        sequence += 1
        assert row.sequence == sequence
        verdicts[row.verdict] = verdicts.get(row.verdict, 0) + 1
        code = row.error.split(":")[0] if row.verdict == "fault" else row.verdict
        codes[code] = codes.get(code, 0) + 1
    assert sequence + 1 == counted["triggers"], line.agent.status
    told = {int(code): count for code, count in counted["codes"].items()}
    assert verdicts.get("pass", 0) == told.get(1, 0)
    assert verdicts.get("reject", 0) == told.get(2, 0)
    assert codes.get("LATE", 0) == told.get(4, 0)
    assert line.agent.status["lost"] == 0
