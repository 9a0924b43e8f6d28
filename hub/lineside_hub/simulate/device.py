"""One simulated device: the agent's own runner, machine, slots, trust store and fetcher; no engine and no camera.

What is real: each step is written to ``update.json`` before it is acted upon; every fetch checks TUF's metadata from
the root that the device was given; every chunk is hashed when it comes and every file again in the slot. What is not:
staging loads nothing, the switch has no line behind it, and the health check fails where the run wants it to.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_agent.deployment.events import DesiredChanged, Origin, Started
from lineside_agent.deployment.fetch import Fetcher
from lineside_agent.deployment.machine import BUNDLE_DECODER, BundleMachine
from lineside_agent.deployment.runner import Artifact, Deployment, Runner, ShouldStop
from lineside_agent.deployment.slots import Slots
from lineside_hub.simulate.results import SimulatedResults
from lineside_link.client.client import LinkClient
from lineside_link.clock import ClockFloor
from lineside_link.config import LinkConfig
from lineside_link.messages import Desired, Reported, Up, decode, encode
from lineside_link.topics import Topics
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.trust import TrustStore
from lineside_runtime.errors import EngineError, LinesideError

Schedule = Callable[["SimulatedDevice"], None]
"""Asks a worker's thread to call `SimulatedDevice.work`."""


class DeviceOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one device, its slot read and hashed again.

    Attributes:
        installed: ``name@version``; empty for none.
        whole: Whether everything in the installed slot has the hash that the manifest names.
        fetched_bytes: That its link received.
        error: Of its last attempt.
    """

    name: str
    state: str
    installed: str
    whole: bool
    fetched_bytes: int
    error: str = ""


class SimulatedBundle(Artifact[BundleMachine]):
    """A bundle that no engine loads, and whose health check fails for some versions."""

    log = logging.getLogger("lineside.hub.simulate")

    def __init__(
        self, folder: Path, fetcher: Fetcher, fails: frozenset[str], report: Callable[[BundleMachine], None]
    ) -> None:
        self.path = folder / "update.json"
        self._slots = Slots(folder)
        self._fetcher = fetcher
        self._fails = fails
        self._report = report

    def read(self) -> BundleMachine:
        return BUNDLE_DECODER.decode(self.path.read_bytes()) if self.path.exists() else BundleMachine()

    def started(self, machine: BundleMachine) -> Started:
        return Started()

    def fetch(self, machine: BundleMachine, should_stop: ShouldStop) -> None:
        if machine.wanted is not None and machine.slot is not None:
            folder = self._slots.begin(machine.slot, machine.wanted.sha256)
            self._fetcher.fetch(machine.wanted, folder, lambda _done, _total: None, should_stop)

    def verify(self, machine: BundleMachine) -> None:
        if machine.wanted is not None and machine.slot is not None:
            self._slots.finish(machine.slot, machine.wanted.sha256)

    def stage(self, machine: BundleMachine) -> None:
        """Loads nothing."""

    def switch(self, machine: BundleMachine) -> None:
        if machine.slot is not None:
            self._slots.make_current(machine.slot)

    def check_health(self, machine: BundleMachine) -> bool:
        if machine.wanted is not None and machine.wanted.version in self._fails:
            raise EngineError("a frame could not be inspected: this simulated device fails with it")
        return True

    def restore(self, slot: str | None) -> None:
        """Loads nothing."""

    def report(self, machine: BundleMachine) -> None:
        self._report(machine)

    def is_whole(self, machine: BundleMachine) -> bool:
        """Reads and hashes what is installed."""
        if machine.installed is None or machine.installed_slot is None:
            return False
        with contextlib.suppress(LinesideError):
            return self._slots.open(machine.installed_slot).digest == machine.installed.sha256
        return False


class SimulatedDevice:
    """A device between two power cuts and over them.

    Args:
        folder: Its disk; kept over a power cut.
        root: The root metadata that it trusts.
        fails: Versions whose health check fails here.
        schedule: Gets a thread for its work.
    """

    def __init__(
        self,
        name: str,
        *,
        folder: Path,
        link: LinkConfig,
        group: str,
        root: bytes,
        fails: frozenset[str],
        schedule: Schedule,
    ) -> None:
        self.name = name
        self._folder = folder
        self._config = link
        self._topics = Topics(link.site)
        self._group = group
        self._root = root
        self._fails = fails
        self._schedule = schedule
        self._lock = threading.Lock()
        self._is_working = False
        self._is_called = False
        self._is_on = False
        self._stop = threading.Event()
        self._pause: threading.Timer | None = None
        self._received = 0
        self._free_bytes = 8 << 30
        self.results = SimulatedResults(name, "")
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def machine(self) -> BundleMachine:
        """Where the deployment stands."""
        return self._deployment.machine

    # Power.

    def switch_on(self) -> None:
        """Starts as the agent does: from what is on the disk."""
        self._boot_id = secrets.token_hex(8)
        self._stop = threading.Event()
        up = self._topics.up(self.name)
        will = (up, encode(Up(device=self.name, up=False, boot_id=self._boot_id)))
        self.link = LinkClient(self._config, self.name, will=will)
        repo = RepoClient(self.link, self._topics, self.name)
        trust = TrustStore(self._folder / "trust", self._root, repo, ClockFloor(self._folder / "clock"))
        fetcher = Fetcher(self._group, trust=trust, repo=repo, installed=self._folder / "current")
        self._bundle = SimulatedBundle(self._folder, fetcher, self._fails, self._report)
        self._deployment = Deployment(self._bundle)
        self._runner = Runner(self._deployment, stop=self._stop)
        self.link.subscribe(self._topics.device_desired(self.name), lambda _, data: self._desired("device", data))
        self.link.subscribe(self._topics.group_desired(self._group), lambda _, data: self._desired("group", data))
        self.results = SimulatedResults(self.name, self._boot_id)
        self.link.subscribe(self._topics.results_ack(self.name), self.results.take_answer)
        self.link.on_connect(self._connected)
        self._runner.start()
        self._resume()
        self.link.start()
        self._is_on = True

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._is_on

    def cut_power(self) -> None:
        """Ends without a goodbye: the broker publishes the last will. What is not on the disk is lost."""
        self._is_on = False
        self._stop.set()
        with self._lock:
            self._end_pause()
        self.link.vanish()
        self._received += self.link.counters.get("received_bytes", 0)
        while self._is_working:  # until the thread at work has seen it
            time.sleep(0.02)

    def inspect(self, parts: int) -> None:
        """Sends results, and reports that the disk has become fuller; without a connection it does nothing."""
        if not self.link.connected:
            return
        installed = self.machine.installed
        payload = self.results.inspect(parts, installed.identity if installed else "")
        self.link.publish(self._topics.results(self.name), payload)
        self._free_bytes -= 100_000 * parts
        self._report(self.machine)

    def outcome(self) -> DeviceOutcome:
        """Reads and hashes what is installed."""
        machine = self.machine
        return DeviceOutcome(
            name=self.name,
            state=machine.state,
            installed=machine.installed.identity if machine.installed else "",
            whole=self._bundle.is_whole(machine),
            fetched_bytes=self._received + self.link.counters.get("received_bytes", 0),
            error=machine.error.message if machine.error else "",
        )

    # In the link's threads.

    def _desired(self, origin: Origin, payload: bytes) -> None:
        self._runner.post(DesiredChanged(origin, decode(payload, Desired) if payload else None))
        self._resume()

    def _connected(self) -> None:
        birth = Up(device=self.name, up=True, boot_id=self._boot_id, group=self._group, board="simulated")
        self.link.publish(self._topics.up(self.name), encode(birth), retain=True)
        self._report(self.machine)
        self._runner.kick()
        self._resume()

    def _report(self, machine: BundleMachine) -> None:
        reported = Reported(
            device=self.name,
            epoch=machine.epoch,
            gen=machine.gen,
            state=machine.state,
            installed=machine.installed,
            previous=machine.previous,
            wanted=machine.wanted,
            error=machine.error,
            boot_id=self._boot_id,
            free_bytes=self._free_bytes,
        )
        self.link.publish(self._topics.reported(self.name), encode(reported), retain=True)

    def _resume(self) -> None:
        """Asks for a thread, or for another turn of the one that is at work."""
        with self._lock:
            self._end_pause()
            self._is_called = True
            if self._is_working or self._stop.is_set():
                return
            self._is_working = True
        self._schedule(self)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    # In a worker's thread, one at a time.

    def work(self) -> None:
        """Takes turns until there is nothing left to do; a pause frees the thread."""
        while True:
            with self._lock:
                self._is_called = False
            wait_s = None if self._stop.is_set() else self._runner.turn()
            with self._lock:
                if self._stop.is_set() or (wait_s != 0.0 and not self._is_called):
                    self._is_working = False
                    if wait_s and not self._stop.is_set():
                        self._pause = threading.Timer(wait_s, self._resume)
                        self._pause.daemon = True
                        self._pause.start()
                    return
