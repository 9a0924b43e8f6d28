"""The CUSUM test, against scipy's interval and the bounds of Wald and Lorden."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from lineside_agent.health.drift.cusum import Cusum, upper_share


@pytest.mark.parametrize(("count", "frames"), [(0, 100), (1, 500), (9, 500), (250, 500), (499, 500)])
@pytest.mark.parametrize("risk", [0.05, 3e-4])
def test_the_bound_is_clopper_and_pearsons(count: int, frames: int, risk: float) -> None:
    theirs = scipy.stats.beta.ppf(1 - risk, count + 1, frames - count)
    assert upper_share(count, frames, risk=risk) == pytest.approx(theirs, rel=1e-6)


def test_a_property_that_all_learned_frames_had_can_rise_no_further() -> None:
    assert upper_share(500, 500, risk=0.01) == 1.0
    test = Cusum(1.0, odds_ratio=3.0, limit=10.0)
    for _ in range(10_000):
        test.step(True)
    assert not test.alarm


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_false_alarms_are_as_rare_as_promised(share: float) -> None:
    """Lorden: on average 100 frames or more to a false alarm at a limit of ln 100."""
    rng = np.random.default_rng(7)
    times = []
    for _ in range(60):
        test, frames = Cusum(share, odds_ratio=3.0, limit=math.log(100)), 0
        while not test.alarm:
            test.step(bool(rng.random() < share))
            frames += 1
        times.append(frames)
    assert 100 <= np.mean(times) <= 100_000


def test_a_rise_alarms_when_promised_and_the_alarm_ends_when_it_is_over() -> None:
    test = Cusum(0.05, odds_ratio=3.0, limit=math.log(1e7))
    for frame in range(17):  # ln(1e7) / ln(0.136 / 0.05)
        assert not test.alarm, frame
        test.step(True)
    assert test.alarm
    test.step(False)
    assert test.alarm, "one good frame ends nothing"
    frames = 1
    while test.alarm:
        test.step(False)
        frames += 1
    assert test.value == 0.0
    assert frames > 20
    test.step(True)
    assert test.value > 0
    test.clear()
    assert (test.value, test.alarm) == (0.0, False)
