"""The agent's own update waits for the maintenance window, as a bundle's does, and says so."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_agent.config import UpdateConfig
from lineside_agent.deployment.artifacts.agent import AgentArtifact
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.machine import AgentMachine
from lineside_agent.deployment.runner import Deployment, Runner, ShouldStop
from lineside_agent.deployment.self_update.guard import AgentSlot, Installation
from lineside_agent.deployment.self_update.payload import Payload
from lineside_agent.deployment.self_update.slots import AgentSlots
from lineside_link.messages import BundleRef, Desired
from tests.agent.deployment.self_update.wheels import make_payload, write_wheel
from tests.peers.waiting import wait_for


class AgentDevice:
    """The real runner and slots, and payloads that are never made into an environment: that takes pip a while."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").mkdir(exist_ok=True)
        self.closed = {"fetch": "", "change": "the maintenance window opens later"}
        self.brought: list[str] = []
        self.seen: list[AgentMachine] = []
        self.payloads: dict[str, Payload] = {}
        self.start()

    def start(self) -> None:
        self.stop = threading.Event()
        agent = AgentArtifact(
            self.folder / "state",
            config_path=self.folder / "agent.toml",
            slots=AgentSlots(Installation(self.folder / "opt"), "a"),
            fetch=self._fetch,
            host=self,
            report=self.seen.append,
            stop=self.stop,
            update=UpdateConfig(),
            gate=lambda _machine, fetching: self.closed["fetch" if fetching else "change"],
        )
        self.updater = Runner(Deployment(agent), stop=self.stop)
        self.thread = threading.Thread(target=self.updater.run)
        self.thread.start()

    def end(self) -> None:
        """Also what the machine would ask of the process: nothing here gets so far."""
        self.stop.set()
        self.thread.join(60.0)

    def _fetch(self, agent: BundleRef, slot: AgentSlot, slots: AgentSlots, _should_stop: ShouldStop) -> None:
        folder = slots.begin(slot, agent.sha256)
        shutil.copytree(self.payloads[agent.sha256].path, folder, dirs_exist_ok=True)
        self.brought.append(agent.version)

    def make_desired(self, gen: int, version: str) -> BundleRef:
        wheel = write_wheel(self.folder / "w", "lineside", version, {"lineside/__init__.py": b""})
        payload = make_payload(self.folder / f"p{version}", wheel)
        self.payloads[payload.digest] = payload
        agent = BundleRef(name="lineside-agent", version=version, target="g/agent.json", sha256=payload.digest)
        self.updater.post(DesiredChanged("group", Desired(epoch=1, gen=gen, agent=agent)))
        return agent

    # What the machine asks of the agent around it.

    def healthy(self) -> bool:
        return True

    def quiet(self) -> bool:
        return True

    def met_hub(self) -> bool:
        return True


@pytest.fixture
def device(tmp_path: Path) -> Iterator[AgentDevice]:
    made = AgentDevice(tmp_path)
    yield made
    made.end()


def test_it_is_brought_and_waits_for_its_window_also_over_restarts(device: AgentDevice) -> None:
    device.make_desired(1, "2.0")
    wait_for(lambda: device.updater.waiting, 60, what="the gate")
    assert (device.updater.machine.state, device.brought) == ("verifying", ["2.0"])
    assert "opens later" in device.updater.waiting
    for _ in range(5):  # more starts than a staged agent is allowed
        device.end()
        device.start()
        wait_for(lambda: device.updater.waiting, 60, what="the gate, after a restart")
    assert (device.updater.machine.state, device.brought) == ("verifying", ["2.0"])
    for wheel in (device.folder / "opt" / "slots" / "b" / "payload").glob("wheels/lineside-*"):
        wheel.write_bytes(b"so that it ends behind the gate, before pip is asked")
    device.closed["change"] = ""
    wait_for(lambda: device.updater.machine.state == "failed", 120, what="what comes behind the gate")
    assert device.updater.waiting == ""
    assert "staged" in [machine.state for machine in device.seen]
    assert device.updater.machine.error is not None
    assert device.updater.machine.error.code == 3002
