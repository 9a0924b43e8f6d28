"""Workers of real Ray runs are killed: they end as if nothing had been, or lose a round of local updates at most."""

from __future__ import annotations

import pytest

pytest.importorskip("ray", reason="the ray extra is not installed")

from benchmarks.converters.training.kills import KILLS, LOCAL_KILLS, run


@pytest.mark.filterwarnings("default")  # Ray's own
def test_runs_whose_workers_are_killed_lose_little_and_learn_what_an_unbroken_one_learns() -> None:
    found = run()
    assert found["kills"] == KILLS == found["restarts"]
    assert max(found["lost_steps"]) <= found["epoch_steps"]
    assert found["same_losses"], found["losses"]
    assert found["held_mean_iou"]["killed"] == found["held_mean_iou"]["whole"]
    local = found["local"]
    assert len(local["lost_steps"]) == LOCAL_KILLS and local["epoch_steps"] > 2 * local["round_steps"]
    assert max(local["lost_steps"]) <= local["round_steps"] + 2  # a worker that dies makes a step or two more
    assert local["losses"][-1] < local["losses"][0]
