"""The I/O around a deployment machine, for bundles and for the agent itself.

A machine decides and does nothing (`deployment.machine`, `self_update.machine`). Its runner brings it events, in one
thread, and carries out its actions. Each step is written to disk before it is carried out. If there is no room to write
it, nothing is done, and the desired state is refused with that reason.
"""

from __future__ import annotations

import abc
import collections
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from lineside_agent.deployment.desired_state import RESTING, Broke, Wished
from lineside_agent.deployment.machine import BundleMachine
from lineside_agent.deployment.self_update.machine import SelfMachine
from lineside_agent.storage.state_file import write_state
from lineside_link.messages import Problem
from lineside_link.transfer.pull_window import FetchStopped
from lineside_runtime.errors import BrokerError, FetchError, LinesideError, StagingError, StoreError

TRANSIENT = (BrokerError, FetchError)
"""Errors after which the same again may go well without anybody doing anything."""

LOOK_S = 0.2
"""How long a runner with nothing to do waits for an event before it looks whether it is stopped."""

GATE_S = 0.5
"""How often the gate is asked."""

FOREIGN = (OSError, ValueError, RuntimeError, MemoryError, LookupError)
"""What disk and engine may raise beside our own errors; what is bad must not end the agent that works."""

ShouldStop = Callable[[], bool]


M = TypeVar("M", BundleMachine, SelfMachine)
E = TypeVar("E")
A = TypeVar("A")


class DeploymentRunner(abc.ABC, Generic[M, E, A]):
    """Runs a machine in a thread of its own.

    Args:
        path: Where the machine is written down.
        machine: As it was read there.
        step: The machine's decisions.
        stop: Ends the thread.

    Attributes:
        machine: Where the update stands.
        waiting: What the gate waits for; empty if for nothing.
        log: Where steps are told.
        foreign: What actions may raise beside our own errors.
    """

    log: ClassVar[logging.Logger]
    foreign: ClassVar[tuple[type[Exception], ...]] = FOREIGN

    def __init__(
        self,
        path: Path,
        machine: M,
        *,
        step: Callable[[M, E | Wished | Broke], tuple[M, tuple[A, ...]]],
        stop: threading.Event,
    ) -> None:
        self.machine: M = machine
        self.waiting = ""
        self._path = path
        self._decide: Callable[[M, E | Wished | Broke], tuple[M, tuple[A, ...]]] = step
        self._stop = stop
        self._events: queue.Queue[E | Wished | None] = queue.Queue()
        self._todo: collections.deque[A] = collections.deque()

    def post(self, event: Wished) -> None:
        """Hands a wish over; from any thread."""
        self._events.put(event)

    def kick(self) -> None:
        """Says that the link stands anew: a pause before the next fetch ends at once."""
        self._events.put(None)

    # -- what the two do in their own way ------------------------------------------------------------------------

    @abc.abstractmethod
    def _carry_out(self, action: A) -> E | Broke | None:
        """Does what the machine says, and returns what it is to hear of that."""

    @abc.abstractmethod
    def _reason_to_wait(self, *, fetching: bool) -> str:
        """Asks the gate; empty for no reason."""

    @abc.abstractmethod
    def _tell(self) -> None:
        """Tells the agent around where the machine stands."""

    def _changed(self, before: M) -> None:
        """Called when the machine is another one than before, and written down."""
        del before
        self._tell()

    def _failed(self, action: A, error: Exception) -> E | Broke:
        """Returns what the machine hears of an action that raised."""
        del action
        return Broke(self.machine.attempt, as_problem(error), transient=is_transient(error))

    def _acted(self) -> None:
        """Called behind each action."""

    def _meanwhile(self) -> None:
        """Called now and then while the gate holds an action back."""

    # -- events --------------------------------------------------------------------------------------------------

    def _wait(self, timeout_s: float) -> bool:
        """Waits for an event, and handles it; false if none came."""
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return False
        if event is not None:
            self._step(event)
        return True

    def _take_events(self) -> None:
        while not self._events.empty() and not self._stop.is_set():
            self._wait(0.0)

    def _must_stop(self) -> bool:
        return self._stop.is_set() or not self._events.empty()

    # -- one step ------------------------------------------------------------------------------------------------

    def _step(self, event: E | Wished | Broke) -> None:
        before = self.machine
        after, actions = self._decide(before, event)
        if after != before:
            after, actions = self._write_down(after, actions)
            if after.state != before.state or after.error != before.error:
                self._log_step(after)
        self.machine = after
        self._todo = collections.deque(action for action in self._todo if self._is_current(action))
        self._todo.extend(actions)
        if after != before:
            self._changed(before)

    def _write_down(self, machine: M, actions: tuple[A, ...]) -> tuple[M, tuple[A, ...]]:
        try:
            write_state(self._path, machine)
        except (LinesideError, OSError) as error:
            self.log.error("%s can't be written: %s", self._path, error)
            if machine.state not in RESTING:
                return self._decide(machine, Broke(machine.attempt, as_problem(error)))
        return machine, actions

    def _is_current(self, action: A) -> bool:
        return bool(getattr(action, "attempt", self.machine.attempt) == self.machine.attempt)

    def _log_step(self, machine: M) -> None:
        thing = machine.wanted.identity if machine.wanted else "nothing wanted"
        if machine.error is None:
            self.log.info("%s: %s", machine.state, thing)
        else:
            self.log.error("%s: %s: [%d] %s", machine.state, thing, machine.error.code, machine.error.message)

    def _act(self, action: A) -> None:
        try:
            event = self._carry_out(action)
        except FetchStopped:
            self._todo.appendleft(action)
            return
        except Exception as error:
            if not isinstance(error, (LinesideError, *self.foreign)):
                raise
            event = self._failed(action, error)
        if event is not None:
            self._step(event)
        self._acted()

    # -- what may take long --------------------------------------------------------------------------------------

    def _pauses(self, action: A, pause_s: float, *, at_once: A) -> bool:
        """Waits before a fetch; false if an event came, after which the fetch is due at once, if it still is.

        Args:
            action: The fetch.
            pause_s: Before it.
            at_once: The same without a pause.
        """
        until_s = time.monotonic() + pause_s
        while (left_s := until_s - time.monotonic()) > 0 and not self._stop.is_set():
            if self._wait(min(left_s, LOOK_S)):  # a newer wish, or the link is back
                if self._is_current(action) and action not in self._todo:
                    self._todo.appendleft(at_once)
                return False
        return True

    def _passes(self, action: A, *, fetching: bool) -> bool:
        """Waits at the gate; false if the agent ends or a newer wish came, which has its own actions."""
        while not self._stop.is_set():
            self._note_waiting(self._reason_to_wait(fetching=fetching))
            if not self.waiting:
                return True
            self._wait(GATE_S)
            self._meanwhile()
            if not self._is_current(action):
                self._note_waiting("")
                return False
        return False

    def _note_waiting(self, reason: str) -> None:
        if reason != self.waiting:
            self.waiting = reason
            self.log.info("%s: %s", self.machine.state, reason or "goes on")
            self._tell()


def is_transient(error: Exception) -> bool:
    """Returns whether the same again may go well.

    A hub that answers that it has not what its own metadata names will not have it the next time either.
    """
    return isinstance(error, TRANSIENT) and getattr(error, "status", 0) != 404


def as_problem(error: Exception) -> Problem:
    """Returns an error as it travels; a foreign one as ours."""
    known = error if isinstance(error, LinesideError) else _mapped(error)
    return Problem(**known.as_dict())


def _mapped(error: Exception) -> LinesideError:
    kind = StoreError if isinstance(error, OSError) else StagingError
    return kind(f"{type(error).__name__}: {error}")
