"""Workers of a real Ray run are killed five times: it ends as if nothing had been."""

from __future__ import annotations

import pytest

pytest.importorskip("ray", reason="the ray extra is not installed")

from benchmarks.converters.training.kills import KILLS, run


@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_run_whose_workers_are_killed_learns_what_an_unbroken_one_learns() -> None:
    found = run()
    assert found["kills"] == KILLS == found["restarts"]
    assert max(found["lost_steps"]) <= found["epoch_steps"]
    assert found["same_losses"], found["losses"]
    assert found["held_mean_iou"]["killed"] == found["held_mean_iou"]["whole"]
