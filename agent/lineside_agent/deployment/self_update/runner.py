"""The I/O of the agent's own update: files, link, processes.

Each step is written down before it is acted upon, in ``agent-update.json`` in the agent's state folder. The switch is
three steps on disk, in this order, and may be cut anywhere: the machine says ``switching``, the trial is written,
``current`` is flipped. Then the process ends, and whoever supervises it starts the guard.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lineside_agent.config import UpdateConfig
from lineside_agent.deployment.desired_state import Done, Look, LookAgain
from lineside_agent.deployment.runner import FOREIGN, LOOK_S, DeploymentRunner, ShouldStop
from lineside_agent.deployment.self_update import machine as states
from lineside_agent.deployment.self_update.guard import AgentSlot, AgentTrial, is_overdue, read_clock
from lineside_agent.deployment.self_update.machine import SelfAction, SelfEvent, SelfMachine, Started, step
from lineside_agent.deployment.self_update.slots import AgentSlots
from lineside_agent.storage.state_file import read_state
from lineside_link.messages import BundleRef
from lineside_runtime.errors import AgentUpdateError, BrokerError

log = logging.getLogger("lineside.self_update")

STATE_NAME = "agent-update.json"

CHECK_TIMEOUT_S = 300.0
"""Of the new agent's look at this device: a cold start of its engine from a slow card, behind the line's own work."""

QUIET_TIMEOUT_S = 120.0
"""How long a switch waits for the bundle's own update to be over."""

CONTACT_EVERY_S = 5.0

Bring = Callable[[BundleRef, AgentSlot, AgentSlots, ShouldStop], None]
"""Brings a payload into a slot: `home.Home.bring_agent`."""

Gate = Callable[[SelfMachine, bool], str]
"""Says what must be waited for before the payload is fetched (true) or made and changed over to (false)."""


class Host(Protocol):
    """What the machine needs of the agent around it."""

    def healthy(self) -> bool:
        """Whether frames come through, or could."""

    def quiet(self) -> bool:
        """Whether no update of the bundle would be cut by an end of the process."""

    def met_hub(self) -> bool:
        """Asks the hub something and returns whether it answered."""

    def end(self) -> None:
        """Ends the process in good order, to be started again."""


class SelfUpdateRunner(DeploymentRunner[SelfMachine, SelfEvent, SelfAction]):
    """Runs the self-update machine in a thread of its own.

    Args:
        folder: The agent's state folder.
        config_path: ``agent.toml``, for the new agent to look at.
        slots: Around this process; ``None`` if it runs from none.
        bring: How payloads come here; ``None`` for an agent without a link.
        host: The agent around.
        observe: Told of every step.
        stop: Ends the thread.
        update: The ``[update]`` table: on what terms a new agent is tried.
        gate: Holds fetch and changeover back, as for bundles; ``None`` never does.
    """

    log = log
    foreign = (*FOREIGN, subprocess.SubprocessError)

    def __init__(
        self,
        folder: Path,
        *,
        config_path: Path,
        slots: AgentSlots | None,
        bring: Bring | None,
        host: Host,
        observe: Callable[[SelfMachine], None],
        stop: threading.Event,
        update: UpdateConfig,
        gate: Gate | None = None,
    ) -> None:
        path = folder / STATE_NAME
        super().__init__(path, read_state(path, SelfMachine) or SelfMachine(), step=step, stop=stop)
        self._config_path = config_path
        self._slots = slots
        self._bring = bring
        self._host = host
        self._observe = observe
        self._update = update
        self._gate = gate

    @property
    def in_slot(self) -> bool:
        """Whether this agent runs from a slot, so that it can be updated."""
        return self._slots is not None

    @property
    def on_trial(self) -> bool:
        """Whether this agent is on trial."""
        trial = self._trial()
        return trial is not None and self._slots is not None and trial.slot == self._slots.running

    def run(self) -> None:
        """Runs in the caller's thread until stopped."""
        self._step(self._started())
        while not self._stop.is_set():
            self._take_events()
            if self._todo:
                self._act(self._todo.popleft())
            else:
                self._wait(LOOK_S)

    def _trial(self) -> AgentTrial | None:
        return None if self._slots is None else self._slots.home.trial()

    def _started(self) -> Started:
        if self._slots is None:
            return Started(None, None)
        verdict = self._slots.home.verdict() or {}
        return Started(
            self._slots.running,
            self._slots.reference(),
            self.on_trial,
            str(verdict.get("reason", "")),
            str(verdict.get("wish", "")),
        )

    def _tell(self) -> None:
        self._observe(self.machine)

    def _reason_to_wait(self, *, fetching: bool) -> str:
        return "" if self._gate is None else self._gate(self.machine, fetching)

    # -- the actions -------------------------------------------------------------------------------------------

    def _carry_out(self, action: SelfAction) -> SelfEvent | None:
        if isinstance(action, LookAgain):
            return Look()
        if self._slots is None:
            return None
        if isinstance(action, states.Fetch):
            return self._fetch(action, self._slots)
        if isinstance(action, states.Verify):
            self._slots.verify(action.slot, action.agent)
            # Here, where a newer wish is still heard and a start counts nothing: the window may be days away.
            if not self._passes(action, fetching=False):
                return None
        elif isinstance(action, states.Stage):
            self._slots.make(action.slot, self._slots.verify(action.slot, action.agent))
            self._let_it_look(self._slots, action)
        elif isinstance(action, states.Switch):
            return self._switch(action, self._slots)
        elif isinstance(action, states.CheckHealth):
            return self._check_health(action, self._slots)
        else:
            self._stay(self._slots)
            return None
        return Done(action.attempt)

    def _fetch(self, action: states.Fetch, slots: AgentSlots) -> SelfEvent | None:
        if not self._pauses(action, action.pause_s, at_once=action._replace(pause_s=0.0)):
            return None
        if self._bring is None:
            raise BrokerError("no link to fetch an agent over", action="Add [link] to agent.toml.")
        if not self._passes(action, fetching=True):
            return None
        self._bring(action.agent, action.slot, slots, self._must_stop)
        return Done(action.attempt)

    def _let_it_look(self, slots: AgentSlots, action: states.Stage) -> None:
        """Runs ``lineside agent check`` with the new agent's own Python, while the line goes on."""
        command = ["nice", "-n", "19", str(slots.home.python(action.slot)), "-I", "-m", "lineside", "agent", "check"]
        arguments = ["--config", str(self._config_path), "--json"]
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, env=environment
        )
        if done.returncode:
            raise AgentUpdateError(
                f"agent {action.agent.version} can't work here: {_reason(done)}", expected=0, actual=done.returncode
            )

    def _switch(self, action: states.Switch, slots: AgentSlots) -> SelfEvent | None:
        until_s = time.monotonic() + QUIET_TIMEOUT_S
        while not self._host.quiet():
            if self._stop.wait(0.2):
                return None
            if time.monotonic() > until_s:
                log.warning("the bundle's update takes long; the agent's own goes on")
                break
        trial = AgentTrial(action.slot, action.back, action.wish_id, self._update.healthy_s, self._update.deadline_s)
        slots.home.begin_trial(trial)
        slots.home.make_current(action.slot)
        log.warning("slot %s is current: ending, so that the new agent is started", action.slot)
        self._host.end()
        return Done(action.attempt)

    def _check_health(self, action: states.CheckHealth, slots: AgentSlots) -> SelfEvent | None:
        """Waits for health and the hub; the one end of it is the removal of the trial, by whomever."""
        watch = _Watch(self._host)
        while not self._stop.wait(0.2):
            trial = slots.home.trial()
            if trial is None:
                return Done(action.attempt)
            if watch.healthy_for_s() >= trial.healthy_s and watch.met_hub():
                slots.home.end_trial()
                return Done(action.attempt)
            if is_overdue(trial, read_clock()):
                log.error("not healthy within %g s: ending, so that the old agent is started", trial.deadline_s)
                self._host.end()
                return None
        return None

    def _stay(self, slots: AgentSlots) -> None:
        if slots.home.current() != slots.running:
            slots.home.make_current(slots.running)
        slots.home.end_trial()


class _Watch:
    """How long the agent has been healthy without a break, and whether it has met the hub."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._since_s: float | None = None
        self._asked_s = float("-inf")
        self._met = False

    def healthy_for_s(self) -> float:
        """Looks, and returns for how long."""
        now_s = time.monotonic()
        if not self._host.healthy():
            self._since_s = None
            return 0.0
        if self._since_s is None:
            self._since_s = now_s
        return now_s - self._since_s

    def met_hub(self) -> bool:
        """Asks, every few seconds until there was an answer."""
        if not self._met and time.monotonic() - self._asked_s >= CONTACT_EVERY_S:
            self._asked_s = time.monotonic()
            self._met = self._host.met_hub()
        return self._met


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What the new agent says is wrong, or its last words."""
    try:
        return str(json.loads(done.stdout)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return " | ".join(done.stderr.strip().splitlines()[-2:]) or "it says nothing"
