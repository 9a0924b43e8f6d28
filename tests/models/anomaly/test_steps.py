"""The steps of learning what is good, each alone and against somebody else's implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import scipy

from lineside_models.anomaly.bank import entries_within, learn_bank
from lineside_models.anomaly.coreset import choose_spread
from lineside_models.anomaly.onnx_tail import with_weights
from lineside_models.anomaly.threshold import fit_threshold, predictive_shift
from lineside_models.metrics import auroc
from lineside_runtime.errors import BadInputFormatError, InputError


def _distances(rows: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return scipy.spatial.distance.cdist(rows, others)


def _random(rows: int, columns: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def test_weights_behind_a_graph_are_read_by_the_onnx_package(tmp_path: Path) -> None:
    shape = [1, 300]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "lacks w",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    weights: dict[str, npt.NDArray[Any]] = {
        "w": _random(1, 300),
        "unused": np.arange(-3, 3, dtype=np.int8).reshape(2, 3),
    }
    whole = onnx.load_from_string(with_weights(model.SerializeToString(), weights))
    onnx.checker.check_model(whole, full_check=True)
    read = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    assert read.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_a_type_that_is_not_written_is_refused() -> None:
    with pytest.raises(BadInputFormatError, match="float64"):
        with_weights(b"", {"w": np.zeros(3)})


def test_a_spread_choice_covers_better_than_chance_and_takes_the_outlier() -> None:
    features = _random(2000, 20)
    features[777] += 30
    chosen = choose_spread(features, 40, seed=0)
    assert len(set(chosen.tolist())) == 40
    assert 777 in chosen

    def worst(kept: npt.NDArray[np.int64]) -> float:
        return float(_distances(features, features[kept]).min(axis=1).max())

    drawn = [worst(np.random.default_rng(seed).choice(2000, 40, replace=False)) for seed in range(5)]
    assert worst(chosen) < min(drawn)


def test_a_spread_choice_of_more_than_there_is_takes_all_and_of_equal_features_each_once() -> None:
    assert choose_spread(_random(5, 3), 9, seed=0).tolist() == [0, 1, 2, 3, 4]
    features = np.repeat(_random(3, 60), 4, axis=0)
    chosen = choose_spread(features, 6, seed=0).tolist()
    assert len(set(chosen)) == 6
    assert {index // 4 for index in chosen[:3]} == {0, 1, 2}


def test_distances_to_a_bank_are_those_of_scipy_and_can_leave_a_frame_out() -> None:
    features, owners = _random(900, 60), np.repeat(np.arange(9), 100)
    bank = learn_bank(features, owners, entries=50, seed=1)
    asked = _random(30, 60, seed=2)
    turned = asked @ bank.whiten + bank.shift
    np.testing.assert_allclose(bank.distances(asked), _distances(turned, bank.vectors).min(axis=1), rtol=1e-3)
    owner = int(bank.owners[0])
    others = bank.vectors[bank.owners != owner]
    np.testing.assert_allclose(bank.distances(asked, without=owner), _distances(turned, others).min(axis=1), rtol=1e-3)


def test_a_kept_feature_is_nearly_at_no_distance_in_int8_and_a_bank_keeps_to_its_bytes() -> None:
    features = _random(400, 30)
    bank = learn_bank(features, np.zeros(400, np.int64), entries=400, seed=0)
    assert float(bank.distances(features).max()) < 0.1 * float(np.linalg.norm(bank.vectors, axis=1).mean())
    entries = entries_within(10_000, (60, 100))
    banks = [learn_bank(_random(900, size), np.zeros(900, np.int64), entries=entries, seed=0) for size in (60, 100)]
    assert 0 < sum(bank.size_bytes for bank in banks) <= 10_000
    assert entries_within(10, (60, 100)) == 0


def test_the_bar_is_the_wanted_quantile_of_scores_that_are_greatest_values() -> None:
    drawn = scipy.stats.gumbel_r.rvs(loc=20, scale=2, size=(20_000, 1), random_state=0).astype(np.float32)
    bar = fit_threshold(drawn, np.arange(len(drawn)), 0.99)
    distance = (bar.value - bar.offsets[0]) / bar.gains[0]
    assert distance == pytest.approx(float(scipy.stats.gumbel_r.ppf(0.99, loc=20, scale=2)), rel=0.02)
    slope, shift = bar.calibration
    scores = 1 / (1 + np.exp(-(slope * np.array(bar.left_out) + shift)))
    assert np.mean(scores < 0.5) == pytest.approx(0.99, abs=0.004)
    assert np.median(scores) == pytest.approx(0.05, abs=1e-3)


SHAPES: dict[str, tuple[str, tuple[float, ...], dict[str, float]]] = {
    "gumbel": ("gumbel_r", (), {"loc": 20, "scale": 2}),
    "gamma": ("gamma", (9,), {"loc": 5}),
    "lognormal": ("lognorm", (0.25,), {"scale": 20}),
    "normal": ("norm", (20, 2), {}),
    "bounded": ("genextreme", (0.15,), {"loc": 20, "scale": 2}),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("parts", "quantile"), [(8, 0.99), (25, 0.9), (140, 0.95)])
def test_no_more_new_parts_are_rejected_than_the_quantile_says(shape: str, parts: int, quantile: float) -> None:
    name, values, named = SHAPES[shape]
    distribution = getattr(scipy.stats, name)(*values, **named)
    drawn = distribution.rvs(size=(200, parts), random_state=parts)
    rejected = []
    for scores in drawn:
        bar = fit_threshold(scores[:, None].astype(np.float32), np.arange(parts), quantile)
        rejected.append(distribution.sf((bar.value - bar.offsets[0]) / bar.gains[0]))
    share = float(np.mean(rejected)) / (1 - quantile)
    assert share < 1.5
    if shape == "gumbel":
        assert share == pytest.approx(1, abs=0.2)


def test_frames_of_one_part_do_not_count_as_parts() -> None:
    random = np.random.default_rng(3)
    rejected = []
    for _ in range(200):
        parts = np.repeat(np.arange(10), 6)
        scores = scipy.stats.gumbel_r.rvs(size=10, random_state=random)[parts] + 0.3 * random.standard_normal(60)
        bar = fit_threshold(scores[:, None].astype(np.float32), parts, 0.95)
        new = scipy.stats.gumbel_r.rvs(size=500, random_state=random) + 0.3 * random.standard_normal(500)
        rejected.append(np.mean(new >= (bar.value - bar.offsets[0]) / bar.gains[0]))
    assert np.mean(rejected) < 1.5 * 0.05


def test_the_fewer_parts_the_higher_is_the_bar_raised() -> None:
    shifts = [predictive_shift(0.99, parts) for parts in (2, 8, 25, 140, 100_000)]
    assert shifts == sorted(shifts, reverse=True)
    assert shifts[-1] == pytest.approx(0, abs=1e-3)
    assert predictive_shift(0.9, 8) < predictive_shift(0.99, 8)


def test_one_picture_again_and_again_gives_no_bar() -> None:
    for value in (7, 0):
        with pytest.raises(InputError, match="one picture again and again"):
            fit_threshold(np.full((50, 2), value, np.float32), np.arange(50), 0.99)


def test_auroc_is_that_of_scipys_mann_whitney_also_with_ties() -> None:
    for levels in (3, 1000):
        random = np.random.default_rng(levels)
        good, bad = random.integers(0, levels, 70), random.integers(0, levels, 40) + levels // 3
        wanted = scipy.stats.mannwhitneyu(bad, good).statistic / (70 * 40)
        assert auroc(good, bad) == pytest.approx(wanted, abs=1e-12)
    with pytest.raises(InputError, match="0 bad"):
        auroc([1.0], [])
    with pytest.raises(InputError):
        auroc([1.0], [float("nan")])
