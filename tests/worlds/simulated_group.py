"""Simulated devices of one group behind a real broker: the agent's own update machine, without engine and camera."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lineside_hub.fleet.listing import list_devices, list_rollouts
from lineside_hub.rollouts.push import PushResult, push
from lineside_hub.simulate.bundles import make_bundle
from lineside_hub.simulate.device import SimulatedDevice
from lineside_link.config import LinkConfig
from lineside_link.messages import BundleRef
from tests.peers import wait_for

SITE = "test"
GROUP = "line-a"
NAMES = ("cam-1", "cam-2", "cam-3")


class SimulatedGroup:
    """Three simulated devices of one group, and what is asked of their hub from outside."""

    def __init__(self, hub: Path, url: str, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.threads = ThreadPoolExecutor(3)
        self.devices = {
            name: SimulatedDevice(
                name,
                folder=folder / name,
                link=LinkConfig(url=url, site=SITE, reconnect_min_s=0.05, reconnect_max_s=0.3),
                group=GROUP,
                root=(hub / "metadata" / "1.root.json").read_bytes(),
                fails=frozenset({"3.0.0"}) if name == "cam-1" else frozenset(),
                schedule=self._schedule,
            )
            for name in NAMES
        }

    def _schedule(self, device: SimulatedDevice) -> None:
        self.threads.submit(device.work)

    def start(self) -> None:
        """Switches the devices on, and has all run the first version."""
        for device in self.devices.values():
            device.switch_on()
        wait_for(lambda: len(list_devices(self.hub)) == len(NAMES), what="the devices' births")
        self.push(1, canary=0, healthy_for_s=0)
        self.wait_all("1.0.0")

    def close(self) -> None:
        """Switches the devices off."""
        for device in self.devices.values():
            device.cut_power()
        self.threads.shutdown()

    def push(self, version: int, **plan: Any) -> PushResult[BundleRef]:
        return push(self.hub, make_bundle(self.folder / f"bundle-{version}", version, 4096).path, group=GROUP, **plan)

    def runs(self) -> dict[str, str]:
        return {
            name: device.machine.installed.version if device.machine.installed else ""
            for name, device in self.devices.items()
        }

    def wait_all(self, version: str) -> None:
        wait_for(lambda: self.runs() == dict.fromkeys(NAMES, version), what=f"{version} everywhere")

    def state(self, rollout: str) -> str:
        return list_rollouts(self.hub, rollout=rollout)[0].rollout.state
