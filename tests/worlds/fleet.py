"""Devices that are rows of a hub's database, without processes or a broker."""

from __future__ import annotations

from pathlib import Path

from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.rollouts.machine import Rollout
from lineside_hub.rollouts.runner import Rollouts
from lineside_link.messages import BundleRef, Desired, Problem, Reported, State, Up
from tests.worlds.hub import open_database


class RecordedFleet:
    """The devices of one group, and the rollouts that move them. Subclasses say how a device answers.

    Args:
        folder: The hub's.
        group: Of all devices.
        devices: How many; they are ``cam-0`` and so on.
        born: Whether their births are written; not if an earlier fleet in the folder has done it.
    """

    def __init__(self, folder: Path, *, group: str = "line-a", devices: int = 3, born: bool = True) -> None:
        self.folder = folder
        self.group = group
        self.names = [f"cam-{number}" for number in range(devices)]
        self.database = open_database(folder)
        self.rollouts = Rollouts(self.database)
        with self.database.transaction():
            for name in self.names if born else ():
                FleetTimeline(self.database).write_up(Up(device=name, up=True, boot_id="b", group=group))

    def desired(self, name: str) -> Desired | None:
        """Returns what counts for a device: its own desired state, or its group's."""
        own = self.database.desired_state(f"d/{name}")
        return own if own is not None and not own.withdrawn else self.database.desired_state(f"g/{self.group}")

    def report(self, reported: Reported) -> None:
        """Has a device report."""
        with self.database.transaction():
            FleetTimeline(self.database).write_reported(reported)

    def close(self) -> None:
        self.database.close()


class BundleFleet(RecordedFleet):
    """Devices that answer with the bundle that is desired of them."""

    def targeted(self, name: str) -> tuple[int, int, BundleRef | None]:
        desired = self.desired(name)
        return (desired.epoch, desired.gen, desired.bundle) if desired else (0, 0, None)

    def answer(self, name: str, *, state: State = "active", code: int = 5001) -> None:
        epoch, gen, bundle = self.targeted(name)
        problem = Problem(code=code, error="E", message="m") if state in ("failed", "rolled_back") else None
        installed = bundle if state == "active" else None
        self.report(
            Reported(device=name, epoch=epoch, gen=gen, state=state, wanted=bundle, installed=installed, error=problem)
        )

    def everybody(self) -> dict[str, str]:
        return {name: bundle.version if (bundle := self.targeted(name)[2]) else "" for name in self.names}

    def settle(self) -> Rollout:
        for second in range(20):
            for name in self.names:
                self.answer(name)
            self.rollouts.tick(second)
            if not self.rollouts.list(unfinished=True):
                break
        for name in self.names:
            self.answer(name)
        return self.rollouts.list()[-1]
