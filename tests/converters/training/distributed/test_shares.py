"""Parts of a batch, and who gets how much of it."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from lineside_converters.training.distributed.batch_shares import ShareSchedule, balanced, part_of


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.31, 0.42, 0.27), (0.05, 0.95)])
@pytest.mark.parametrize("batch", [7, 24, 33])
def test_the_parts_make_the_batch(shares: tuple[float, ...], batch: int) -> None:
    rows = [row for rank in range(len(shares)) for row in range(batch)[part_of(shares, rank).rows(batch)]]
    assert rows == list(range(batch))


def test_a_worker_of_half_the_speed_gets_half_as_much() -> None:
    shares = balanced((0.5, 0.5), (0.1, 0.2))
    assert shares == pytest.approx((2 / 3, 1 / 3))
    assert balanced(shares, (0.2 / 3 * 2, 0.2 / 3 * 2.1)) == shares  # nearly even: left alone


def test_nobody_gets_next_to_nothing() -> None:
    assert min(balanced((0.5, 0.5), (0.001, 1.0))) > 0.04


def test_shares_hold_from_their_step_on_also_after_a_resume() -> None:
    schedule = ShareSchedule(2)
    schedule.add(20, (0.6, 0.4))
    again = ShareSchedule(2)
    again.restore(schedule.state())
    for each in (schedule, again):
        assert each.at(19) == (0.5, 0.5) and each.at(20) == (0.6, 0.4) == each.at(1000)
    other = ShareSchedule(3)
    other.restore(schedule.state())
    assert other.at(30) == pytest.approx((1 / 3,) * 3)
