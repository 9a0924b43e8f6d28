"""A site as it runs at a customer's: broker, hub and agent as processes of their own, killed and started at will.

The counts come from the hub's database alone.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lineside_agent.deployment.slots import Slots
from lineside_hub.identity.authority import HUB_NAME
from lineside_hub.rollouts.push import push
from lineside_runtime.bundle import Bundle
from tests.peers.brokers import Broker, Mosquitto, find_mosquitto
from tests.peers.waiting import wait_for
from tests.worlds.agent import DEVICE, AgentProcess, folder_camera, write_agent, write_frames
from tests.worlds.hub import HubProcess, make_database, make_trusted_repository, query, write_hub

GROUP, SITE = "line", "t0"
TIMEOUT_S = 60.0


class Site:
    """Everything under one folder; nothing is started.

    Args:
        folder: An empty one.
        frames: How many images the camera gives, every second one with a defect.
        rate_hz: How fast.
        state: The agent's folder; ``folder/state`` if not given.
        broker: Mosquitto, to which anybody may connect, if not given.
        groups: Of the hub's repository; the agent is in `GROUP`.
        transfer: The hub's ``[transfer]`` table.
        settings: Of the agent, as for `configure_agent`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        frames: int,
        rate_hz: float,
        state: Path | None = None,
        broker: Broker | None = None,
        groups: Sequence[str] = (GROUP,),
        transfer: Mapping[str, float] | None = None,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.frames = frames
        self.broker = broker or Mosquitto(folder / "broker", program=find_mosquitto())
        self.hub_folder = make_trusted_repository(folder, groups).folder
        make_database(self.hub_folder)
        write_hub(self.hub_folder, self.broker.config(HUB_NAME, site=SITE), transfer=transfer or {})
        self.hub = HubProcess(self.hub_folder, folder / "hub.log")
        self.agent = AgentProcess(folder, state=state)
        write_frames(folder / "frames", frames)
        self._settings: dict[str, Any] = {
            "group": GROUP,
            "folder": str(self.agent.state),
            "link": self.broker.config(DEVICE, site=SITE),
            "camera": folder_camera(rate_hz=rate_hz),
            "inspect": {"health_timeout_s": 1.0},
        }
        self.configure_agent(**settings)

    def configure_agent(self, **settings: Any) -> None:
        """Writes ``agent.toml`` with some of its keys and tables replaced; the agent reads it at its next start."""
        self._settings |= settings
        write_agent(self.folder, **self._settings)

    def add_frames(self, count: int) -> None:
        """Gives the camera more images; it finds them at its next start."""
        first, self.frames = self.frames, self.frames + count
        write_frames(self.folder / "frames", self.frames, first=first)

    def start(self) -> None:
        """Starts all three."""
        self.broker.start()
        self.hub.start()
        self.agent.start()

    def end(self) -> None:
        for process in (self.agent, self.hub):
            if process.alive:
                process.signal(signal.SIGTERM)
        self.agent.stop()
        self.hub.stop()
        self.broker.stop()

    def push(self, bundle: Bundle) -> int:
        """Pushes a bundle; returns the desired state's generation."""
        return push(self.hub_folder, bundle.path, group=GROUP).gen

    def wait_state(self, state: str, gen: int) -> None:
        """Waits until the hub knows that the device is in this state of this desired state."""
        wait_for(
            lambda: (
                f"desired state {gen}" in [detail for kind, _, detail in self.events() if kind == state]
                or any(kind == state for kind, _, _ in self._since_pushed(gen))
            ),
            TIMEOUT_S,
            what=lambda: f"{state} of {gen}\n{self.events()}\n{self.agent.log[-3000:]}",
        )

    def _since_pushed(self, gen: int) -> list[tuple[str, int | None, str]]:
        events = self.events()
        starts = [
            number for number, (kind, _, detail) in enumerate(events) if kind == "pushed" and detail.endswith(f" {gen}")
        ]
        return events[starts[0] :] if starts else []

    def wait_inspected(self, count: int) -> None:
        wait_for(lambda: self.agent.status.get("inspected", 0) >= count, TIMEOUT_S, what=f"{count} frames")

    def wait_installed(self, identity: str) -> None:
        """Waits until the status, which is written twice a second, says that this bundle is installed."""
        wait_for(lambda: self.agent.status.get("installed") == identity, TIMEOUT_S, what=identity)

    def wait_synced(self) -> None:
        """Waits until the hub has every frame."""
        wait_for(
            lambda: len(self.results()) >= self.frames,
            TIMEOUT_S,
            what=lambda: f"{len(self.results())}\n{self.agent.status}",
        )

    def results(self) -> list[tuple[str, str, str]]:
        """``part_id``, verdict and bundle of every row at the hub."""
        return query(self.hub_folder, "SELECT part_id, verdict, bundle FROM results ORDER BY sequence")

    def events(self) -> list[tuple[str, int | None, str]]:
        """Kind, code and detail of everything that the hub saw."""
        return query(self.hub_folder, "SELECT kind, code, detail FROM events ORDER BY id")

    def codes(self, kind: str, gen: int) -> set[int | None]:
        """Codes of the events of this kind since a desired state was pushed."""
        return {code for found, code, _ in self._since_pushed(gen) if found == kind}

    def check_nothing_lost_nothing_twice(self) -> None:
        """Every frame has exactly one result, and the right one."""
        right = [(f"{number:04d}.png", "reject" if number % 2 else "pass") for number in range(self.frames)]
        assert [(part, verdict) for part, verdict, _ in self.results()] == right

    def check_something_runs_on(self) -> None:
        """What the dead agent's disk says is installed can be opened and verified."""
        machine = self.agent.machine
        assert machine.installed is not None
        assert machine.installed_slot is not None
        assert Slots(self.agent.state).open(machine.installed_slot).digest == machine.installed.sha256
        assert (self.agent.state / "current" / "manifest.json").is_file()
