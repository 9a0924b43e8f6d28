"""Which picture comes when."""

from __future__ import annotations

import numpy as np
import pytest

from lineside_converters.training.data.sampler import EpochSampler, repeat_factors


def shown(*labels: list[int]) -> list[np.ndarray]:
    return [np.array(each, np.int64) for each in labels]


def test_rare_types_get_the_factor_of_the_paper_and_pictures_that_of_their_rarest() -> None:
    pictures = shown(*[[0]] * 96, [0, 1], [1, 1], [2], [])
    factors = repeat_factors(pictures, 0.1)
    assert factors[:96].tolist() == [1] * 96
    assert factors[96] == factors[97] == pytest.approx((0.1 / 0.02) ** 0.5)
    assert factors[98] == pytest.approx((0.1 / 0.01) ** 0.5)
    assert factors[99] == 1
    assert repeat_factors(pictures, 0.0).tolist() == [1] * 100


def test_laps_of_equal_pictures_show_each_once_in_another_order() -> None:
    laps = EpochSampler(np.ones(20), seed=4)
    one, two = ([laps(lap * 20 + n) for n in range(20)] for lap in range(2))
    assert sorted(one) == sorted(two) == list(range(20)) and one != two
    assert one == [EpochSampler(np.ones(20), seed=4)(n) for n in range(20)]
    assert one != [EpochSampler(np.ones(20), seed=5)(n) for n in range(20)]


def test_pictures_come_as_often_as_their_factors_say() -> None:
    factors = np.array([1.0] * 8 + [2.5, 1.3])
    laps = EpochSampler(factors, seed=0)
    assert laps.length == 12
    count = np.bincount([laps(n) for n in range(12 * 300)], minlength=10) / 300
    np.testing.assert_allclose(count, factors * 12 / factors.sum(), atol=0.08)
    a_lap = np.bincount([laps(n) for n in range(12)], minlength=10)
    assert a_lap.min() >= 1 and a_lap[8] in (2, 3) and a_lap[9] in (1, 2)
