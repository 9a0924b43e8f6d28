"""One simulated device: the agent's own update machine, slots, trust store and fetcher; no engine and no camera.

What is real: each step is written to ``update.json`` before it is acted upon; every fetch checks TUF's metadata from
the root that the device was given; every chunk is hashed when it comes and every file again in the slot. What is not:
staging loads nothing, the switch has no line behind it, and the health check fails where the run wants it to.
"""

from __future__ import annotations

import collections
import contextlib
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_agent.deployment import machine
from lineside_agent.deployment.desired_state import Broke, Done, Look, LookAgain, Origin, Wished
from lineside_agent.deployment.fetch import Fetcher
from lineside_agent.deployment.machine import Action, BundleMachine, Event, Started, step
from lineside_agent.deployment.slots import Slots
from lineside_link.client.client import LinkClient
from lineside_link.clock import ClockFloor
from lineside_link.config import LinkConfig
from lineside_link.messages import Desired, Problem, Reported, Up, decode, encode
from lineside_link.topics import Topics
from lineside_link.transfer.pull_window import FetchStopped
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.trust import TrustStore
from lineside_runtime.errors import BrokerError, EngineError, FetchError, LinesideError
from lineside_runtime.files import write_atomic

Schedule = Callable[["SimulatedDevice"], None]
"""Asks a worker's thread to call `SimulatedDevice.work`."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of itself at the end, its slot read and hashed again.

    Attributes:
        name: Of the device.
        state: Of its update machine.
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


class SimulatedDevice:
    """A device between two power cuts and over them.

    Args:
        name: Of the device.
        folder: Its disk; kept over a power cut.
        link: The broker.
        group: Of the device.
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
        self._events: collections.deque[Event] = collections.deque()
        self._todo: collections.deque[Action] = collections.deque()
        self._busy = False
        self._on = threading.Event()
        self._idle = threading.Event()
        self._pause: threading.Timer | None = None
        self._received = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._slots = Slots(folder)
        self.machine = BundleMachine()

    # Power.

    def switch_on(self) -> None:
        """Starts as the agent does: from what is written down."""
        self._boot_id = secrets.token_hex(8)
        with contextlib.suppress(FileNotFoundError):
            self.machine = machine.DECODER.decode((self._folder / "update.json").read_bytes())
        up = self._topics.up(self.name)
        will = (up, encode(Up(device=self.name, up=False, boot_id=self._boot_id)))
        self.link = LinkClient(self._config, self.name, will=will)
        repo = RepoClient(self.link, self._topics, self.name)
        trust = TrustStore(self._folder / "trust", self._root, repo, ClockFloor(self._folder / "clock"))
        self._fetcher = Fetcher(self._group, trust=trust, repo=repo, installed=self._folder / "current")
        self.link.subscribe(self._topics.device_desired(self.name), lambda _, data: self._wished("device", data))
        self.link.subscribe(self._topics.group_desired(self._group), lambda _, data: self._wished("group", data))
        self.link.on_connect(self._connected)
        self._on.set()
        self._post(Started())
        self.link.start()

    def cut_power(self) -> None:
        """Ends without a goodbye: the broker publishes the last will. What is not on the disk is lost."""
        self._on.clear()
        with self._lock:
            self._events.clear()
            self._todo.clear()
            if self._pause is not None:
                self._pause.cancel()
                self._pause = None
        self.link.vanish()
        self._received += self.link.counters.get("received_bytes", 0)
        while self._busy:  # until the thread at work has seen it
            self._idle.wait(0.05)

    def verdict(self) -> Verdict:
        """Reads and hashes what is installed."""
        installed, slot = self.machine.installed, self.machine.installed_slot
        whole = False
        if installed is not None and slot is not None:
            with contextlib.suppress(LinesideError):
                whole = self._slots.open(slot).digest == installed.sha256
        return Verdict(
            name=self.name,
            state=self.machine.state,
            installed=installed.identity if installed else "",
            whole=whole,
            fetched_bytes=self._received + self.link.counters.get("received_bytes", 0),
            error=self.machine.error.message if self.machine.error else "",
        )

    # In the link's threads.

    def _wished(self, origin: Origin, payload: bytes) -> None:
        self._post(Wished(origin, decode(payload, Desired) if payload else None))

    def _connected(self) -> None:
        birth = Up(device=self.name, up=True, boot_id=self._boot_id, group=self._group, board="simulated")
        self.link.publish(self._topics.up(self.name), encode(birth), retain=True)
        self._report()
        self._resume()

    def _post(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
        self._resume()

    def _resume(self) -> None:
        """Asks for a thread, unless one is at it; also ends a pause, as a new connection does on a device."""
        with self._lock:
            if self._pause is not None:
                self._pause.cancel()
                self._pause = None
            if self._busy or not self._on.is_set():
                return
            self._busy = True
        self._schedule(self)

    # In a worker's thread, one at a time.

    def work(self) -> None:
        """Takes steps until there is nothing left to do."""
        while self._on.is_set():
            with self._lock:
                event = self._events.popleft() if self._events else None
                action = self._todo.popleft() if event is None and self._todo else None
                if event is None and action is None:
                    self._busy = False
                    return
            if event is not None:
                self._step(event)
            elif action is not None and self._later(action):
                return
            elif action is not None and (outcome := self._act(action)) is not None:
                self._step(outcome)
        with self._lock:
            self._busy = False

    def _step(self, event: Event) -> None:
        before = self.machine
        after, actions = step(before, event)
        if after != before:
            write_atomic(self._folder / "update.json", msgspec.json.encode(after))
        self.machine = after
        with self._lock:
            current = [action for action in self._todo if getattr(action, "attempt", after.attempt) == after.attempt]
            self._todo = collections.deque([*current, *actions])
        if after != before:
            self._report()

    def _later(self, action: Action) -> bool:
        """Puts a fetch off whose pause is not over; the thread is free meanwhile."""
        if not isinstance(action, machine.Fetch) or action.pause_s <= 0:
            return False
        with self._lock:
            self._todo.appendleft(action._replace(pause_s=0.0))
            self._busy = False
            self._pause = threading.Timer(action.pause_s, self._resume)
            self._pause.daemon = True
            self._pause.start()
        return True

    def _act(self, action: Action) -> Event | None:
        try:
            return self._carry_out(action)
        except FetchStopped:
            with self._lock:
                self._todo.appendleft(action)
            return None
        except (LinesideError, OSError) as error:
            known = error if isinstance(error, LinesideError) else BrokerError(str(error))
            transient = isinstance(error, BrokerError | FetchError) and getattr(error, "status", 0) != 404
            return Broke(self.machine.attempt, Problem(**known.as_dict()), transient=transient)

    def _carry_out(self, action: Action) -> Event | None:
        if isinstance(action, LookAgain):
            return Look()
        if isinstance(action, machine.LoadBundle):
            return None
        if isinstance(action, machine.Fetch):
            folder = self._slots.begin(action.slot, action.bundle.sha256)
            self._fetcher.bring(action.bundle, folder, _ignore, self._must_stop)
        elif isinstance(action, machine.Verify):
            self._slots.finish(action.slot, action.bundle.sha256)
        elif isinstance(action, machine.Switch):
            self._slots.make_current(action.slot)
        elif isinstance(action, machine.CheckHealth) and self._is_bad():
            raise EngineError("a frame could not be inspected: this simulated device fails with it")
        return Done(action.attempt)

    def _is_bad(self) -> bool:
        return self.machine.wanted is not None and self.machine.wanted.version in self._fails

    def _must_stop(self) -> bool:
        return not self._on.is_set() or bool(self._events)

    def _report(self) -> None:
        machine = self.machine
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
        )
        self.link.publish(self._topics.reported(self.name), encode(reported), retain=True)


def _ignore(_done: int, _total: int) -> None:
    """Nobody watches the progress of one of a thousand."""
