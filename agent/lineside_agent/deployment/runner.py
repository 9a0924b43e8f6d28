"""The I/O around the deployment machine, the same for a bundle, a configuration and the agent itself.

The machine decides (`machine`) and an artifact acts (`artifacts`). The runner feeds the machine events, writes each
step to disk, and then lets the artifact carry it out. If there is no room to write a step, the step is not carried out,
and the attempt ends with that reason.

What is taken back is written before it is restored, so that a kill cannot try it again, and reported after it is
restored: whoever hears ``rolled_back`` may rely on it that no later part is inspected by what failed.
"""

from __future__ import annotations

import abc
import collections
import logging
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from lineside_agent.deployment.events import (
    Action,
    DesiredChanged,
    Done,
    Event,
    Failed,
    Fetch,
    LoadFailed,
    Rest,
    Rested,
    Restore,
    StageSlot,
    Started,
    Switch,
    Verify,
)
from lineside_agent.deployment.machine import RESTING, RISKY, DeploymentMachine, step, why_ignored
from lineside_agent.storage.state_file import write_state
from lineside_link.messages import Problem
from lineside_link.transfer.pull_window import FetchStopped
from lineside_runtime.errors import BrokerError, FetchError, LinesideError, StagingError, StoreError

LOOK_S = 0.2
"""How long a runner with nothing to do waits for an event before it looks whether it is stopped."""

GATE_S = 0.5
"""How long an action that must wait is left alone before its reason is looked at again."""

FOREIGN = (OSError, ValueError, RuntimeError, MemoryError, LookupError, subprocess.SubprocessError)
"""What disk, engine and child processes may raise beside our own errors; it must not end the agent that works."""

ShouldStop = Callable[[], bool]

M = TypeVar("M", bound=DeploymentMachine[Any])


class Artifact(abc.ABC, Generic[M]):
    """How one kind of artifact is fetched, tried and taken back. Each method done twice changes nothing.

    Methods raise `LinesideError` or one of `FOREIGN` where they fail.

    Attributes:
        path: Where the machine is written to.
    """

    log: ClassVar[logging.Logger]
    path: Path

    @abc.abstractmethod
    def read(self) -> M:
        """Returns the machine from the disk."""

    @abc.abstractmethod
    def started(self, machine: M) -> Started:
        """Returns what is found in place at a start."""

    @abc.abstractmethod
    def fetch(self, machine: M, should_stop: ShouldStop) -> None:
        """Brings what is wanted into the slot; what is there already stays."""

    @abc.abstractmethod
    def verify(self, machine: M) -> None:
        """Compares everything in the slot with what was signed."""

    @abc.abstractmethod
    def stage(self, machine: M) -> None:
        """Tries the slot beside what runs."""

    @abc.abstractmethod
    def switch(self, machine: M) -> None:
        """Makes the slot the one that runs."""

    @abc.abstractmethod
    def check_health(self, machine: M) -> bool:
        """Watches the new artifact at its work; false if the agent stops meanwhile."""

    @abc.abstractmethod
    def restore(self, slot: str | None) -> None:
        """Makes what is in the slot run."""

    @abc.abstractmethod
    def report(self, machine: M) -> None:
        """Tells others where the machine stands, and again after ``waiting`` changed."""

    def observe(self, machine: M) -> None:
        """Takes the machine after it was written to disk and before it is acted upon."""
        del machine

    def reason_to_wait(self, machine: M, *, fetching: bool) -> str:
        """Returns what must be waited for before a fetch, or else before a change; empty for nothing."""
        del machine, fetching
        return ""

    def ignored(self, reason: str) -> None:
        """Takes why the desired state that came last changes nothing; empty if it may."""
        del reason

    def between_steps(self, machine: M) -> None:
        """Called between two actions, and while one waits, unless an attempt is in a risky state."""
        del machine

    def rest(self, machine: M) -> None:
        """Called when nothing is left to do; frees what only an attempt needs."""
        del machine

    def close(self) -> None:
        """Frees everything; the agent ends."""


class Deployment(Generic[M]):
    """One artifact with its machine, and what is left to do.

    Attributes:
        machine: Where it stands, as on the disk.
        reported: Where it stands, as others are told: the machine, once what it goes back to runs again.
        waiting: What the next action waits for; empty if for nothing.
    """

    def __init__(self, artifact: Artifact[M]) -> None:
        self.artifact = artifact
        self.machine: M = artifact.read()
        self.reported = self.machine
        self.waiting = ""
        self._todo: collections.deque[Action] = collections.deque()
        self._due_s = 0.0
        self._verified = -1

    @property
    def urgency(self) -> int:
        """Which of several goes first: 0 what runs is loaded, 1 an attempt in a risky state, 2 all else, 3 nothing."""
        if not self._todo:
            return 3
        return 0 if isinstance(self._todo[0], Restore) else 1 if self.machine.state in RISKY else 2

    def kick(self) -> None:
        """Ends a pause before a fetch."""
        self._due_s = 0.0

    def handle(self, event: Event) -> None:
        """Takes one step, writes it to disk and notes what it asks for."""
        before = self.machine
        if isinstance(event, DesiredChanged):
            self.artifact.ignored(why_ignored(before, event))
        after, actions = step(before, event)
        if after != before:
            after, actions = self._write(after, actions)
            if after.state != before.state or after.error != before.error:
                self._log(after)
        self.machine = after
        self._todo = collections.deque(action for action in self._todo if self._is_current(action))
        self._todo.extend(actions)
        for action in actions:
            if isinstance(action, Fetch):
                self._due_s = time.monotonic() + action.pause_s
        if after.attempt != before.attempt:
            self.waiting = ""
        if after != before:
            self.artifact.observe(after)
        if isinstance(event, Started):  # nothing runs yet that would be taken back
            self._report()
        else:
            self._report_what_runs()

    def _report_what_runs(self) -> None:
        if self.reported != self.machine and not any(isinstance(action, Restore) for action in self._todo):
            self._report()

    def _report(self) -> None:
        self.reported = self.machine
        self.artifact.report(self.machine)

    def postponed_s(self) -> float:
        """Returns how long the next action must still wait; 0 if it is due."""
        action, reason = self._todo[0], ""
        if isinstance(action, Fetch):
            if (left_s := self._due_s - time.monotonic()) > 0:
                return left_s
            reason = self.artifact.reason_to_wait(self.machine, fetching=True)
        elif isinstance(action, Verify) and action.attempt == self._verified:
            # Here, where a newer desired state is followed and a start does not count: the window may be days away.
            reason = self.artifact.reason_to_wait(self.machine, fetching=False)
        if reason != self.waiting:
            self.waiting = reason
            self.artifact.log.info("%s: %s", self.machine.state, reason or "goes on")
            self._report()
        return GATE_S if reason else 0.0

    def act(self, should_stop: ShouldStop) -> None:
        """Carries the next action out and feeds the machine its outcome."""
        action = self._todo.popleft()
        try:
            event = self._carry_out(action, should_stop)
        except FetchStopped:
            self._todo.appendleft(action)
            return
        except (LinesideError, *FOREIGN) as error:
            event = self._failure(action, error)
        if event is not None:
            self.handle(event)
        self._report_what_runs()
        if not self._todo and self.machine.state in RESTING:
            self.artifact.rest(self.machine)

    def _carry_out(self, action: Action, should_stop: ShouldStop) -> Event | None:
        artifact, machine = self.artifact, self.machine
        if isinstance(action, Rest):
            return Rested()
        if isinstance(action, Restore):
            artifact.restore(action.slot)
            return None
        if isinstance(action, Fetch):
            artifact.fetch(machine, should_stop)
        elif isinstance(action, Verify):
            if self._verified != action.attempt:
                artifact.verify(machine)
                self._verified = action.attempt
                self._todo.appendleft(action)  # done when the change may begin
                return None
        elif isinstance(action, StageSlot):
            artifact.stage(machine)
        elif isinstance(action, Switch):
            artifact.switch(machine)
        elif not artifact.check_health(machine):
            return None
        return Done(action.attempt)

    def _failure(self, action: Action, error: Exception) -> Event:
        if isinstance(action, Restore):
            return LoadFailed(action.slot, as_problem(error))
        return Failed(self.machine.attempt, as_problem(error), transient=is_transient(error))

    def _write(self, machine: M, actions: tuple[Action, ...]) -> tuple[M, tuple[Action, ...]]:
        try:
            self.artifact.path.parent.mkdir(exist_ok=True)
            write_state(self.artifact.path, machine)
        except (LinesideError, OSError) as error:
            self.artifact.log.error("%s can't be written: %s", self.artifact.path, error)
            if machine.state not in RESTING:
                return step(machine, Failed(machine.attempt, as_problem(error), unwritten=True))
        return machine, actions

    def _is_current(self, action: Action) -> bool:
        return bool(getattr(action, "attempt", self.machine.attempt) == self.machine.attempt)

    def _log(self, machine: M) -> None:
        wanted = machine.wanted.identity if machine.wanted else "nothing desired"
        if machine.error is None:
            self.artifact.log.info("%s: %s", machine.state, wanted)
        else:
            error = machine.error
            self.artifact.log.error("%s: %s: %s", machine.state, wanted, error.full_text)


class Runner(Generic[M]):
    """Runs deployments in one thread, one action at a time.

    The first one comes first, but for what has begun: an attempt in a risky state is ended before another begins. While
    one waits for its maintenance window, the others go on.

    Args:
        first: The deployment that others wait for.
    """

    def __init__(self, first: Deployment[M], *others: Deployment[Any], stop: threading.Event) -> None:
        self._first = first
        self._deployments: tuple[Deployment[Any], ...] = (first, *others)
        self._stop = stop
        self._events: queue.Queue[DesiredChanged | None] = queue.Queue()

    @property
    def machine(self) -> M:
        """Where the first deployment stands, as on the disk."""
        return self._first.machine

    @property
    def reported(self) -> M:
        """Where the first deployment stands, as `Deployment.reported`."""
        return self._first.reported

    @property
    def waiting(self) -> str:
        """What the first deployment waits for; empty if for nothing."""
        return self._first.waiting

    def post(self, event: DesiredChanged) -> None:
        """Hands a desired state over; from any thread."""
        self._events.put(event)

    def kick(self) -> None:
        """Ends a pause before the next fetch, as when the link stands anew; from any thread."""
        self._events.put(None)

    def run(self) -> None:
        """Runs in the caller's thread until stopped."""
        self.start()
        while not self._stop.is_set():
            wait_s = self.turn()
            if wait_s is None or wait_s > 0:
                self._take_event(min(LOOK_S, wait_s or LOOK_S))
        for deployment in self._deployments:
            deployment.artifact.close()

    def start(self) -> None:
        """Goes on from what is on the disk."""
        for deployment in self._deployments:
            deployment.handle(deployment.artifact.started(deployment.machine))

    def turn(self) -> float | None:
        """Handles an event or carries one action out.

        Returns:
            How many seconds to wait for the next turn, unless an event comes; ``None`` if there is nothing to wait for.
        """
        if self._take_event(0.0):
            return 0.0
        if all(deployment.machine.state not in RISKY for deployment in self._deployments):
            for deployment in self._deployments:
                deployment.artifact.between_steps(deployment.machine)
        wait_s: float | None = None
        for chosen in sorted(self._deployments, key=lambda deployment: deployment.urgency):
            if chosen.urgency == 3:
                break
            wait_s = chosen.postponed_s()
            if not wait_s:
                chosen.act(self._must_stop)
            if not chosen.waiting:
                break
        return wait_s

    def _take_event(self, timeout_s: float) -> bool:
        """Waits for an event, and handles it; false if none came."""
        try:
            event = self._events.get(timeout=timeout_s) if timeout_s else self._events.get_nowait()
        except queue.Empty:
            return False
        for deployment in self._deployments:
            deployment.kick()
            if event is not None:
                deployment.handle(event)
        return True

    def _must_stop(self) -> bool:
        return self._stop.is_set() or not self._events.empty()


def is_transient(error: Exception) -> bool:
    """Returns whether the same again may go well without anybody doing anything.

    A hub that answers that it has not what its own metadata names will not have it the next time either.
    """
    return isinstance(error, BrokerError | FetchError) and getattr(error, "status", 0) != 404


def as_problem(error: Exception) -> Problem:
    """Returns an error as it travels; a foreign one as ours."""
    if not isinstance(error, LinesideError):
        kind = StoreError if isinstance(error, OSError) else StagingError
        error = kind(f"{type(error).__name__}: {error}")
    return Problem(**error.as_dict())
