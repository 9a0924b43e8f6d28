"""The simulator: real processes, and an outcome that is counted from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from lineside_hub.simulate.fleet import SimulationPlan, SimulationSettings
from lineside_hub.simulate.results import PENDING_MAX, SimulatedResults
from lineside_link.messages import Results, ResultsAck, decode, encode
from lineside_runtime.errors import ConfigError


def test_a_small_fleet_ends_in_its_right_states() -> None:
    command = "fleet simulate --devices 6 --away 0.3 --bundle-kib 8 --workers 2 --json"
    done = subprocess.run(
        [sys.executable, "-m", "lineside", *command.split()], capture_output=True, text=True, timeout=280, check=False
    )
    said = json.loads(done.stdout)
    assert done.returncode == 0, said
    assert (said["devices"], said["right_state"], said["wrong_state"]) == (6, 6, 0)
    assert (said["failing"], said["away"], said["rollout"]) == (1, 2, "completed")
    assert said["bytes_sent"] > 6 * 1024
    assert said["hub_rss_bytes"] > 10e6
    assert said["seconds"] > 0


def test_parts_are_cast_without_overlap_and_never_to_the_canary() -> None:
    for devices in (1, 2, 3, 10, 1000):
        plan = SimulationPlan.of(SimulationSettings(devices=devices))
        cast = (*plan.failing, *plan.early, *plan.late)
        assert len(plan.names) == devices
        assert len(set(cast)) == len(cast)
        assert plan.names[0] not in cast
    plan = SimulationPlan.of(SimulationSettings(devices=1000))
    assert (len(plan.failing), len(plan.early), len(plan.late)) == (10, 25, 25)


def test_impossible_fleets_are_refused() -> None:
    refused: tuple[dict[str, Any], ...] = (
        {"devices": 0},
        {"devices": 5, "failing": -0.1},
        {"devices": 5, "failing": 0.5, "away": 0.5},
    )
    for wrong in refused:
        with pytest.raises(ConfigError):
            SimulationSettings(**wrong)


def test_results_are_sent_again_until_the_hub_has_them_and_a_device_without_an_answer_stops() -> None:
    made = SimulatedResults("sim-1", "e1")
    assert [row.seq for row in decode(made.inspect(3, "b@1"), Results).rows] == [1, 2, 3]
    made.take_answer("", encode(ResultsAck(epoch="other", seq=3)))
    made.take_answer("", encode(ResultsAck(epoch="e1", seq=2)))
    assert [row.seq for row in decode(made.inspect(1, "b@1"), Results).rows] == [3, 4]
    assert (made.made, made.acknowledged) == (4, 2)
    for _ in range(2):
        rows = decode(made.inspect(PENDING_MAX, "b@1"), Results).rows
    assert (len(rows), made.made) == (PENDING_MAX, 2 + PENDING_MAX)
    assert next(row.seq for row in rows if row.verdict == "reject") == 20
