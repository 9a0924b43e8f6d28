"""The agent itself as an artifact: payloads, slots, processes.

The switch is three steps on disk, in this order, and may be cut anywhere: the machine says ``switching``, the trial is
written, ``current`` is flipped. Then the process ends, and whoever supervises it starts the guard.
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
from lineside_agent.deployment.events import Started
from lineside_agent.deployment.machine import AgentMachine
from lineside_agent.deployment.runner import Artifact, ShouldStop
from lineside_agent.deployment.self_update.guard import AgentSlot, AgentTrial, is_overdue, read_clock
from lineside_agent.deployment.self_update.slots import AgentSlots
from lineside_agent.storage.state_file import read_state
from lineside_link.messages import BundleRef
from lineside_runtime.errors import AgentUpdateError

log = logging.getLogger("lineside.self_update")

STATE_NAME = "agent-update.json"

PREFLIGHT_TIMEOUT_S = 300.0
"""Of the new agent's look at this device: a cold start of its engine from a slow card, behind the line's own work."""

WITH_PROBLEMS = 3
"""Exit status of ``lineside agent check`` where the agent can work, and a recipe can't run."""

QUIET_TIMEOUT_S = 120.0
"""How long a switch waits for the end of a bundle's deployment."""

CONTACT_EVERY_S = 5.0

FetchAgent = Callable[[BundleRef, AgentSlot, AgentSlots, ShouldStop], None]
"""Fetches a payload into a slot: `HubClient.fetch_agent`."""

Gate = Callable[[AgentMachine, bool], str]
"""Returns what must be waited for before the payload is fetched (true) or staged (false); empty for nothing."""


class Host(Protocol):
    """What is asked of the agent around."""

    def healthy(self) -> bool:
        """Returns whether frames come through, or could."""

    def quiet(self) -> bool:
        """Returns whether no deployment of a bundle would be cut by an end of the process."""

    def met_hub(self) -> bool:
        """Asks the hub something and returns whether it answered."""

    def end(self) -> None:
        """Ends the process in good order, to be started again."""


class AgentArtifact(Artifact[AgentMachine]):
    """The agent in its two slots.

    Args:
        config_path: ``agent.toml``, for the new agent to check.
        slots: Around this process; ``None`` if it runs from none.
        report: Takes the machine after every step.
    """

    log = log

    def __init__(
        self,
        folder: Path,
        *,
        config_path: Path,
        slots: AgentSlots | None,
        fetch: FetchAgent,
        host: Host,
        report: Callable[[AgentMachine], None],
        stop: threading.Event,
        update: UpdateConfig,
        gate: Gate = lambda *_: "",
    ) -> None:
        self.path = folder / STATE_NAME
        self._config_path = config_path
        self._slots = slots
        self._fetch = fetch
        self._host = host
        self._report = report
        self._stop = stop
        self._update = update
        self._gate = gate

    @property
    def in_slot(self) -> bool:
        """Whether this agent runs from a slot, so that it can be updated."""
        return self._slots is not None

    @property
    def running_slot(self) -> AgentSlot | None:
        """The slot that this agent runs from; ``None`` for none."""
        return None if self._slots is None else self._slots.running

    @property
    def on_trial(self) -> bool:
        """Whether this agent is on trial."""
        trial = None if self._slots is None else self._slots.installation.trial()
        return trial is not None and self._slots is not None and trial.slot == self._slots.running

    @property
    def _own_slots(self) -> AgentSlots:
        if self._slots is None:
            raise AgentUpdateError("this agent runs from no slot")
        return self._slots

    def read(self) -> AgentMachine:
        return read_state(self.path, AgentMachine) or AgentMachine()

    def started(self, machine: AgentMachine) -> Started:
        if self._slots is None:
            return Started()
        verdict = self._slots.installation.verdict() or {}
        return Started(
            self._slots.reference(),
            self._slots.running,
            self.on_trial,
            str(verdict.get("reason", "")),
            str(verdict.get("wish", "")),
        )

    def report(self, machine: AgentMachine) -> None:
        self._report(machine)

    def reason_to_wait(self, machine: AgentMachine, *, fetching: bool) -> str:
        return self._gate(machine, fetching)

    def fetch(self, machine: AgentMachine, should_stop: ShouldStop) -> None:
        if machine.wanted is not None and machine.slot is not None:
            self._fetch(machine.wanted, machine.slot, self._own_slots, should_stop)

    def verify(self, machine: AgentMachine) -> None:
        if machine.wanted is not None and machine.slot is not None:
            self._own_slots.verify(machine.slot, machine.wanted)

    def stage(self, machine: AgentMachine) -> None:
        """Makes the slot's environment, and lets the new agent check this device's configuration, state and bundle."""
        agent, slot, slots = machine.wanted, machine.slot, self._own_slots
        if agent is None or slot is None:
            return
        slots.make(slot, slots.verify(slot, agent))
        command = ["nice", "-n", "19", str(slots.installation.python(slot)), "-I", "-m", "lineside", "agent", "check"]
        arguments = ["--config", str(self._config_path), "--json"]
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=PREFLIGHT_TIMEOUT_S, env=environment
        )
        if done.returncode not in (0, WITH_PROBLEMS):
            raise AgentUpdateError(
                f"agent {agent.version} can't work here: {_reason(done)}", expected=0, actual=done.returncode
            )
        for problem in done.stderr.strip().splitlines() if done.returncode == WITH_PROBLEMS else ():
            log.warning("agent %s can work here: %s", agent.version, problem)

    def switch(self, machine: AgentMachine) -> None:
        until_s = time.monotonic() + QUIET_TIMEOUT_S
        while not self._host.quiet():
            if self._stop.wait(0.2):
                return
            if time.monotonic() > until_s:
                log.warning("the bundle's deployment takes long; the agent's own goes on")
                break
        slot, back = machine.slot, machine.installed_slot
        if slot is None or back is None:
            return
        installation = self._own_slots.installation
        installation.begin_trial(
            AgentTrial(slot, back, machine.attempt_id, self._update.healthy_s, self._update.deadline_s)
        )
        installation.make_current(slot)
        log.warning("slot %s is current: ending, so that the new agent is started", slot)
        self._host.end()

    def check_health(self, machine: AgentMachine) -> bool:
        """Waits for health and the hub. The one end of a trial is the removal of its file, by whomever."""
        del machine
        watch, installation = _TrialWatch(self._host), self._own_slots.installation
        while not self._stop.wait(0.2):
            trial = installation.trial()
            if trial is None:
                return True
            if watch.healthy_for_s() >= trial.healthy_s and watch.met_hub():
                installation.end_trial()
                return True
            if is_overdue(trial, read_clock()):
                log.error("not healthy within %g s: ending, so that the old agent is started", trial.deadline_s)
                self._host.end()
                return False
        return False

    def restore(self, slot: str | None) -> None:
        """Makes sure that the slot that runs is the current one, with no trial."""
        del slot
        if self._slots is None:
            return
        if self._slots.installation.current() != self._slots.running:
            self._slots.installation.make_current(self._slots.running)
        self._slots.installation.end_trial()


class _TrialWatch:
    """How long the agent has been healthy without a break, and whether it has met the hub."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._since_s: float | None = None
        self._asked_s = float("-inf")
        self._met = False

    def healthy_for_s(self) -> float:
        now_s = time.monotonic()
        if not self._host.healthy():
            self._since_s = None
            return 0.0
        if self._since_s is None:
            self._since_s = now_s
        return now_s - self._since_s

    def met_hub(self) -> bool:
        """Asks every few seconds until there was an answer."""
        if not self._met and time.monotonic() - self._asked_s >= CONTACT_EVERY_S:
            self._asked_s = time.monotonic()
            self._met = self._host.met_hub()
        return self._met


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Returns what the new agent says is wrong, or its last words."""
    try:
        return str(json.loads(done.stdout)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return " | ".join(done.stderr.strip().splitlines()[-2:]) or "it says nothing"
