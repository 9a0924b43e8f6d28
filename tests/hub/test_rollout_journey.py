"""Rollouts from push to device: the hub's process, a broker, and devices with the agent's own update machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_hub.fleet.listing import list_devices
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.push import release
from tests.peers import Broker, wait_for
from tests.worlds.hub import HubProcess
from tests.worlds.simulated_group import GROUP, NAMES, SimulatedGroup

pytestmark = pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)


@pytest.fixture
def group(hub_process: HubProcess, repository: Repository, broker: Broker, tmp_path: Path) -> Iterator[SimulatedGroup]:
    made = SimulatedGroup(repository.folder, broker.url, tmp_path / "devices")
    made.start()
    yield made
    made.close()


@pytest.fixture
def lineside(group: SimulatedGroup, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command of the hub; returns what it printed, or the error if it is to fail."""

    def run(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main([*words, "--hub", str(group.hub)]) == status
        out, error = capsys.readouterr()
        return error if status else out

    return run


def test_a_rollout_goes_on_where_the_hub_was_killed(
    group: SimulatedGroup, hub_process: HubProcess, lineside: Callable[..., str]
) -> None:
    pushed = group.push(2, healthy_for_s=2)
    assert pushed.devices == ("cam-1",)
    hub_process.kill()
    hub_process.start()
    wait_for(lambda: group.runs()["cam-1"] == "2.0.0", what="the canary")
    hub_process.kill()
    hub_process.start()
    group.wait_all("2.0.0")
    hub_process.kill()
    hub_process.start()
    wait_for(lambda: group.state(pushed.rollout) == "completed", what="its end")
    shown = json.loads(lineside("fleet", "rollout", "show", pushed.rollout, "--json"))
    assert shown["rollout"]["state"] == "completed"
    group.push(4, canary=0)  # who was the canary follows its group again
    group.wait_all("4.0.0")


def test_a_bad_canary_stops_it_and_nobody_else_hears_of_it(group: SimulatedGroup, lineside: Callable[..., str]) -> None:
    pushed = group.push(3, healthy_for_s=0)
    wait_for(lambda: group.state(pushed.rollout) == "rolled_back", what="the rollout to stop")
    assert group.runs() == dict.fromkeys(NAMES, "1.0.0")
    told = json.loads(lineside("fleet", "logs", "--json"))["events"]
    of = {(event["device"], event["kind"]) for event in told if event["bundle"] == "simulated@3.0.0"}
    assert ("cam-1", "rolled_back") in of
    assert not {device for device, _ in of} & {"cam-2", "cam-3"}


def test_a_canary_that_was_away_for_the_withdrawal_follows_its_group_later(
    group: SimulatedGroup, lineside: Callable[..., str]
) -> None:
    pushed = group.push(2, canary=("cam-2",), healthy_for_s=600)
    wait_for(lambda: group.runs()["cam-2"] == "2.0.0", what="the canary")
    assert json.loads(lineside("fleet", "rollout", "pause", pushed.rollout, "--json"))["state"] == "paused"
    group.devices["cam-2"].cut_power()
    lineside("fleet", "rollout", "abort", pushed.rollout)
    group.push(5, canary=0, healthy_for_s=0)
    group.devices["cam-2"].switch_on()
    group.wait_all("5.0.0")


def test_a_device_with_a_desired_state_of_its_own_is_shown_and_released(
    group: SimulatedGroup, lineside: Callable[..., str]
) -> None:
    group.push(2, canary=0, healthy_for_s=0)
    group.wait_all("2.0.0")
    group.push(4, canary=0, healthy_for_s=0)
    group.wait_all("4.0.0")
    alone = ("push", "simulated@2.0.0", "--group", GROUP, "--device")
    assert "cam-1, cam-2, cam-3" in lineside(*alone, "cam-33", status=1)
    assert "only a group" in lineside(*alone, "cam-3", "--canary", "1", status=1)
    assert "cam-3 alone" in lineside(*alone, "cam-3")
    wait_for(lambda: group.runs()["cam-3"] == "2.0.0", what="the device's own desired state")
    shown = json.loads(lineside("fleet", "show", "cam-3", "--json"))
    assert shown["own_desired"]["bundle"]["version"] == "2.0.0"
    assert shown["group_desired"]["bundle"]["version"] == "4.0.0"
    assert release(group.hub, "cam-3")
    group.wait_all("4.0.0")
    assert not release(group.hub, "cam-3")


def test_the_hub_knows_of_every_slot_what_the_device_knows(group: SimulatedGroup) -> None:
    group.push(2, canary=0, healthy_for_s=0)
    group.wait_all("2.0.0")
    verdicts = [device.outcome() for device in group.devices.values()]
    assert all(verdict.whole and verdict.state == "active" for verdict in verdicts)

    def known() -> bool:
        return {device.installed for device in list_devices(group.hub)} == {"simulated@2.0.0"}

    wait_for(known, what="the reports")
    database = Database.open(group.hub)
    kinds = [event.kind for event in database.events() if event.device == "cam-2"]
    database.close()
    assert kinds[-6:] == ["fetching", "verifying", "staged", "switching", "health_check", "active"]
