"""One site as it runs at a customer's: broker, hub and agent as processes of their own, killed and started at will.

The counts come from the hub's database alone.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import tomli_w

from lineside_agent.slots import Slots
from lineside_agent.updates import Machine
from lineside_hub.identity import HUB_NAME
from lineside_hub.push import push
from lineside_hub.repository import Repository
from lineside_link.config import LinkConfig
from lineside_runtime.bundle import Bundle
from tests.peers.brokers import Broker, EmbeddedBroker, SecureMosquitto
from tests.peers.waiting import wait_for
from tests.worlds.bundles import bright, dark

GROUP, DEVICE, SITE = "line", "cam-1", "t0"
TIMEOUT_S = 60.0

MORTAL = """
import os, signal, sys
from lineside_agent.daemon import run

def observe(machine):
    if (machine.state, machine.gen) == (sys.argv[2], int(sys.argv[3])):
        os.kill(os.getpid(), signal.SIGKILL)

sys.exit(run(sys.argv[1], observe=observe))
"""
"""An agent that is killed when it has written a state down and not yet acted upon it."""


TAMPERING = """
import sys
from lineside_hub.chunks import ChunkStore
from lineside_hub.server import run

def damaging(whole):
    def get(self, digest):
        data = whole(self, digest)
        if digest != sys.argv[2]:
            return data
        return data[:1000] if sys.argv[3] == "truncated chunk" else bytes([data[0] ^ 1]) + data[1:]

    return get

ChunkStore.get, ChunkStore.get_unchecked = damaging(ChunkStore.get), damaging(ChunkStore.get_unchecked)
sys.exit(run(sys.argv[1]))
"""
"""A hub in somebody else's hands: it gives one chunk with other bytes than were signed."""


class Site:
    """Everything under one folder.

    Args:
        folder: An empty one.
        frames: How many images the camera gives, every second one with a defect.
        rate_hz: How fast.
        state: The agent's folder; ``folder/state`` if not given.
        broker: The embedded one if not given.
        transfer: The hub's ``[transfer]`` table.
    """

    def __init__(
        self,
        folder: Path,
        *,
        frames: int,
        rate_hz: float,
        state: Path | None = None,
        broker: Broker | None = None,
        transfer: dict[str, float] | None = None,
    ) -> None:
        self.folder = folder
        self.frames = frames
        self.state = state or folder / "state"
        self.broker = broker or EmbeddedBroker(folder / "broker")
        self.hub_folder = folder / "hub"
        self._transfer = transfer or {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        repository = Repository.create(self.hub_folder, groups=[GROUP])
        (folder / "root.json").write_bytes(repository.root_bytes())
        self._write_frames()
        self._write_configurations(rate_hz)

    def add_frames(self, count: int) -> None:
        """Gives the camera more images; it finds them at its next start."""
        first, self.frames = self.frames, self.frames + count
        self._write_frames(first)

    def _write_frames(self, first: int = 0) -> None:
        (self.folder / "frames").mkdir(exist_ok=True)
        for number in range(first, self.frames):
            cv2.imwrite(str(self.folder / "frames" / f"{number:04d}.png"), bright() if number % 2 else dark())

    def _write_configurations(self, rate_hz: float) -> None:
        if isinstance(self.broker, SecureMosquitto):
            device = self.broker.config_with(self.broker.enroll(DEVICE, group=GROUP), site=SITE)
        else:
            device = self.broker.config(DEVICE, site=SITE)
        link = _table(self.broker.config(HUB_NAME, site=SITE))
        self._write_toml("hub.toml", {"folder": "hub", "link": link, "transfer": self._transfer})
        agent = {
            "device": DEVICE,
            "group": GROUP,
            "folder": str(self.state),
            "root": "root.json",
            "link": _table(device),
            "camera": {"type": "folder", "path": "frames", "rate_hz": rate_hz},
            "inspect": {"health_timeout_s": 1.0},
        }
        self._write_toml("agent.toml", agent)

    def _write_toml(self, name: str, content: dict[str, Any]) -> None:
        (self.folder / name).write_text(tomli_w.dumps(content))

    def start(self) -> None:
        """Starts all three."""
        self.broker.start()
        self.start_hub()
        self.start_agent()

    def start_hub(self) -> None:
        self._spawn("hub", ["-m", "lineside_hub", "run", "--config", str(self.folder / "hub.toml")])

    def start_tampering_hub(self, chunk: str, damage: str) -> None:
        """Starts a hub that damages one chunk on its way out."""
        self._spawn("hub", ["-c", TAMPERING, str(self.folder / "hub.toml"), chunk, damage])

    def start_agent(self) -> None:
        self._spawn("agent", ["-m", "lineside_agent", "--config", str(self.folder / "agent.toml")])

    def start_mortal_agent(self, state: str, gen: int) -> None:
        """Starts an agent that is killed in ``state`` of wish ``gen``."""
        self._spawn("agent", ["-c", MORTAL, str(self.folder / "agent.toml"), state, str(gen)])

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """``kill -9`` of hub or agent."""
        self._children[name].kill()
        self._children[name].wait()

    def wait_killed(self) -> None:
        """Waits until the mortal agent is dead of a kill."""
        assert self._children["agent"].wait(TIMEOUT_S) == -signal.SIGKILL, self.log("agent")

    def end(self) -> None:
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(15.0)
            if child.poll() is None:
                child.kill()
                child.wait()
        self.broker.stop()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def push(self, bundle: Bundle) -> int:
        """Pushes a bundle; returns the wish's generation."""
        return push(self.hub_folder, bundle.path, group=GROUP).gen

    @property
    def status(self) -> dict[str, Any]:
        path = self.state / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def machine(self) -> Machine:
        return msgspec.json.decode((self.state / "update.json").read_bytes(), type=Machine)

    def wait_state(self, state: str, gen: int) -> None:
        """Waits until the hub knows that the device is in this state of this wish."""
        wait_for(
            lambda: (
                f"generation {gen}" in [detail for kind, _, detail in self.events() if kind == state]
                or any(kind == state for kind, _, _ in self._since_pushed(gen))
            ),
            TIMEOUT_S,
            what=f"{state} of {gen}\n{self.events()}\n{self.log('agent')[-3000:]}",
        )

    def _since_pushed(self, gen: int) -> list[tuple[str, int | None, str]]:
        events = self.events()
        starts = [
            number for number, (kind, _, detail) in enumerate(events) if kind == "pushed" and detail.endswith(f" {gen}")
        ]
        return events[starts[0] :] if starts else []

    def wait_inspected(self, count: int) -> None:
        wait_for(lambda: self.status.get("inspected", 0) >= count, TIMEOUT_S, what=f"{count} frames")

    def wait_installed(self, identity: str) -> None:
        """Waits until the status, which is written twice a second, says that this bundle is installed."""
        wait_for(lambda: self.status.get("installed") == identity, TIMEOUT_S, what=identity)

    def wait_synced(self) -> None:
        """Waits until the hub has every frame."""
        wait_for(lambda: len(self.results()) >= self.frames, TIMEOUT_S, what=f"{len(self.results())}\n{self.status}")

    def results(self) -> list[tuple[str, str, str]]:
        """``part_id``, verdict and bundle of every row at the hub."""
        return self._ask("SELECT part_id, verdict, bundle FROM results ORDER BY sequence")

    def events(self) -> list[tuple[str, int | None, str]]:
        """Kind, code and detail of everything that the hub saw."""
        return self._ask("SELECT kind, code, detail FROM events ORDER BY id")

    def _ask(self, query: str) -> list[Any]:
        if not (self.hub_folder / "hub.db").exists():
            return []
        with contextlib.closing(sqlite3.connect(self.hub_folder / "hub.db", timeout=10.0)) as connection:
            return connection.execute(query).fetchall()

    def check_nothing_lost_nothing_twice(self, *, faults: int = 0) -> None:
        """Every frame has exactly one result, and the right one."""
        rows = self.results()
        assert [part for part, _, _ in rows] == [f"{number:04d}.png" for number in range(self.frames)]
        right = ["reject" if number % 2 else "pass" for number in range(self.frames)]
        wrong = [row for row, verdict in zip(rows, right, strict=True) if row[1] != verdict]
        assert len(wrong) <= faults, wrong
        assert all(verdict == "fault" for _, verdict, _ in wrong)

    def check_something_runs_on(self) -> None:
        """What the dead agent's disk says is installed can be opened and verified."""
        machine = self.machine
        assert machine.installed is not None
        assert machine.installed_slot is not None
        assert Slots(self.state).open(machine.installed_slot).digest == machine.installed.sha256
        assert (self.state / "current" / "manifest.json").is_file()

    def alive(self, name: str) -> bool:
        return self._children[name].poll() is None


def _table(link: LinkConfig) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(link)
    return {key: value for key, value in values.items() if value is not None}
