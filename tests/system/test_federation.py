"""Federated training with real processes: whatever is killed, and when, the weights are exact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lineside_hub.federation.training_coordinator import read_federation
from lineside_link.aggregation.coordinator import STEPS
from tests.hub.federation.conftest import broker as broker
from tests.hub.federation.federations import Federation, run_command, same
from tests.hub.federation.plants import Plants
from tests.peers.brokers import Mosquitto
from tests.peers.processes import ChildProcess
from tests.peers.waiting import wait_for

ROUNDS = 2
MOMENTS = [f"{kind}, {step}" for kind in ("exponents", "update") for step in STEPS]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", ["coordinator", "plant", "broker", "two plants"])
def test_weights_are_exact_whatever_is_killed(tmp_path: Path, broker: Mosquitto, victim: str, moment: str) -> None:
    plants = Plants(tmp_path, broker.config(), 6, hubs=False)  # of which 4 must remain
    federation = Federation(plants, rounds=ROUNDS)
    children = {
        name: ChildProcess(
            [sys.executable, "-m", "tests.system.federation_plant", str(tmp_path), name], tmp_path / f"{name}.log"
        )
        for name in plants.names
    }
    command = [sys.executable, "-m", "lineside", *run_command(plants, federation.folder, "--timeout", 6)]
    coordinator = ChildProcess(command, tmp_path / "coordinator.log")
    try:
        for child in (coordinator, *children.values()):
            child.start()
        wait_for(lambda: f"{moment}:" in coordinator.log or not coordinator.alive, what=moment)
        if victim == "broker":
            broker.restart()
        for name in {"plant": ["plant-3"], "two plants": ["plant-1", "plant-4"]}.get(victim, []):
            children[name].kill()
            if victim == "plant":
                children[name].start()
        if victim == "coordinator":
            coordinator.kill()
            coordinator.start()
        assert coordinator.wait(240) == 0, coordinator.log
    finally:
        for child in (coordinator, *children.values()):
            child.kill()
    state = read_federation(federation.folder)
    assert len(state.rounds) == ROUNDS
    assert all(len(each.plants) >= 4 for each in state.rounds)
    assert state.result_score is not None
    assert same(federation.weights(), federation.expected())


def test_the_demo_trains_with_a_killed_plant_and_a_curious_hub(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lineside.demo.federation", str(tmp_path / "demo")]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "that of their own numbers, to the last bit: True" in outcome.stdout
    rounds = [line for line in outcome.stdout.splitlines() if line.startswith("round ")]
    assert "plant-5" in rounds[0]
    assert not any("plant-5" in line for line in rounds[1:])
