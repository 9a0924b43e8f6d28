"""What errors cost, the thresholds that follow, and whether scores are probabilities."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_converters.gates.statistics import interval_of_share
from lineside_converters.thresholds.costs import ErrorCosts, TypeScores, cheapest, choose, cost_interval
from lineside_converters.thresholds.reliability import LEAST, expected_calibration_error, reliability
from lineside_models.metrics import wilson
from lineside_runtime.errors import ConfigError

SCORES = st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99]), min_size=1, max_size=12)
FINE = np.linspace(0.0005, 0.9995, 1999)


def _costs(**changes: Any) -> ErrorCosts:
    return ErrorCosts(**{"miss": 100.0, "reject": 1.0, "bad_share": 0.01, **changes})


def _expected(scores: TypeScores, costs: ErrorCosts, bar: float, floor: float) -> float:
    """The table of costs, part by part."""
    review = costs.review or 0.0
    bad = [0.0 if best >= bar else review if best >= floor else costs.miss for best in scores.bad]
    good = [costs.reject if best >= bar else review if best >= floor else 0.0 for best in scores.good]
    return scores.prior * sum(bad) / len(bad) + (1 - scores.prior) * sum(good) / len(good)


def _drawn(seed: int, count: int) -> TypeScores:
    """Bad parts' logits lie around 1.5, good parts' around -1.5; on one good part in three nothing is found."""
    random = np.random.default_rng(seed)
    bad = 1 / (1 + np.exp(-random.normal(1.5, 1.0, count)))
    good = 1 / (1 + np.exp(-random.normal(-1.5, 1.0, count))) * (random.random(count) > 1 / 3)
    return TypeScores(bad, good, 0.01)


def test_with_many_parts_the_threshold_is_that_of_theory() -> None:
    """Of two normal distributions: where the weighted densities cross, at 3 l = ln of the ratio of the weights."""
    costs = _costs(miss=300.0)
    bar, floor = choose(_drawn(1, 4000), costs)
    crossing = np.log(0.99 * (2 / 3) / (0.01 * 300)) / 3
    assert floor is None
    assert np.log(bar / (1 - bar)) == pytest.approx(crossing, abs=0.25)


def test_with_few_parts_the_threshold_is_nearly_as_cheap_as_it_can_be() -> None:
    """Chosen on 25 parts of each kind, judged on 20,000 others; the best threshold for those is the yardstick."""
    costs, truth = _costs(), _drawn(99, 20_000)
    least = float(truth.cost(FINE, miss=100.0, reject=1.0).min())
    chosen = [choose(_drawn(seed, 25), costs)[0] for seed in range(40)]
    mean = float(np.mean(truth.cost(chosen, miss=100.0, reject=1.0)))
    assert mean < 1.25 * least


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES, st.sampled_from([0.001, 0.01, 0.2]), st.sampled_from([None, 0.05, 0.3, 0.9]))
def test_thresholds_and_bands_are_in_order(
    bad: list[float], good: list[float], prior: float, review: float | None
) -> None:
    scores = TypeScores(np.array(bad), np.array(good), prior)
    bar, floor = choose(scores, _costs(review=review))
    assert 0 < bar < 1
    assert floor is None or 0 < floor < bar


def test_the_band_is_cheaper_than_any_single_threshold_where_reviews_are_cheap() -> None:
    costs, scores = _costs(review=0.1), _drawn(5, 3000)
    bar, floor = choose(scores, costs)
    assert floor is not None
    single = min(_expected(scores, costs, threshold, threshold) for threshold in FINE[::20])
    assert _expected(scores, costs, bar, floor) < 0.8 * single
    grid = 1 / (1 + np.exp(-np.linspace(-4, 4, 17)))
    best = min(_expected(scores, costs, high, low) for low, high in itertools.combinations(grid.tolist(), 2))
    assert _expected(scores, costs, bar, floor) < 1.1 * best


def test_a_dearer_miss_never_raises_the_threshold() -> None:
    random = np.random.default_rng(3)
    scores = TypeScores(random.beta(4, 2, 60), random.beta(1, 5, 80), 0.01)
    bars = [cheapest(scores, miss=miss, reject=1.0) for miss in (1, 10, 100, 1000, 10_000)]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] > bars[-1]


def test_a_part_without_any_candidate_is_never_rejected() -> None:
    scores = TypeScores(np.zeros(3), np.zeros(4), 0.5)
    bar = cheapest(scores, miss=1e6, reject=1.0)
    assert bar > 0
    assert scores.missed(bar) == 3
    assert scores.hit(bar) == 0


def test_the_interval_of_a_share_holds_it_although_frames_of_a_part_are_alike() -> None:
    """Parts of eight frames, whose shares of rejected frames differ widely."""
    random = np.random.default_rng(4)
    parts = np.repeat(np.arange(30), 8)
    held = {"parts": 0, "frames": 0}
    for _ in range(120):
        hits = random.random(len(parts)) < np.repeat(random.beta(0.3, 0.7, 30), 8)
        for name, (low, high) in {
            "parts": interval_of_share(hits, parts),
            "frames": wilson(int(hits.sum()), len(hits)),
        }.items():
            held[name] += low <= 0.3 <= high
    assert held["parts"] >= 0.88 * 120 > 0.8 * 120 > held["frames"]


def test_a_part_a_frame_or_no_hit_leave_wilsons_interval() -> None:
    hits = np.arange(20) < 3
    assert interval_of_share(hits, np.arange(20)) == wilson(3, 20)
    assert interval_of_share(np.zeros(20, np.bool_), np.repeat(np.arange(4), 5)) == wilson(0, 20)
    assert interval_of_share(np.zeros(0, np.bool_), []) == (0.0, 1.0)


def test_the_interval_of_a_cost_holds_it_as_often_as_it_says_and_no_error_seen_is_not_certain() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        missed, hit = random.binomial(60, 0.1), random.binomial(40, 0.2)
        low, high = cost_interval([(1.0, int(missed), 60), (2.0, int(hit), 40)])
        held += low <= 0.1 + 2 * 0.2 <= high
    assert 180 <= held <= 199
    low, high = cost_interval([(1.0, 0, 10)])
    assert low < 0.01 and high > 0.1


@pytest.mark.parametrize(
    ("name", "value"),
    [("miss", 0.0), ("reject", -1.0), ("miss", float("nan")), ("miss", float("inf")), ("bad_share", 0.0),
     ("bad_share", 1.0), ("review", 1.0), ("review", 0.0), ("review", float("nan"))],
)  # fmt: skip
def test_costs_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError):
        _costs(**{name: value})


def test_scores_that_are_probabilities_have_hardly_an_error() -> None:
    random = np.random.default_rng(1)
    scores = random.uniform(0, 1, 8000)
    found = reliability(scores[:, None], random.random((8000, 1)) < scores[:, None], ("a",))
    assert found is not None
    assert found.ece < 0.03
    assert found.candidates == (scores >= found.from_score).sum()
    assert all(abs(each.score - each.right) < 0.08 for each in found.bins)


def test_scores_that_claim_too_much_have_the_error_that_they_claim_too_much() -> None:
    random = np.random.default_rng(2)
    true = random.uniform(0.1, 0.7, 8000)
    found = reliability(true[:, None] + 0.2, random.random((8000, 1)) < true[:, None], ("a",))
    assert found is not None
    assert found.ece == pytest.approx(0.2, abs=0.02)
    assert found.low < 0.2 < found.high


def test_the_error_is_that_of_the_textbook() -> None:
    """Guo's sum, written out bin by bin."""
    random = np.random.default_rng(3)
    scores, right = random.uniform(0.1, 1, 500), random.random(500) < 0.5
    edges = np.linspace(0.1, 1.0, 10)
    error = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (scores >= low) & (scores < high)
        if inside.any():
            error += inside.mean() * abs(scores[inside].mean() - right[inside].mean())
    assert expected_calibration_error(scores, right) == pytest.approx(error, abs=1e-9)


def test_a_type_with_few_scores_has_no_figure_of_its_own() -> None:
    random = np.random.default_rng(4)
    best = random.uniform(0.2, 1, (200, 2))
    best[LEAST - 1 :, 1] = 0
    found = reliability(best, random.random((200, 2)) < best, ("a", "b"))
    assert found is not None
    assert list(found.by_type) == ["a"]


def test_too_few_scores_say_nothing() -> None:
    assert reliability(np.full((500, 1), 0.01), np.zeros((500, 1), bool), ("a",)) is None
    assert reliability(np.empty((0, 1)), np.empty((0, 1), bool), ("a",)) is None
