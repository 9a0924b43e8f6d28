"""A federated training with differential privacy: its bound, its noise, its cost, and what is refused."""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from lineside.cli import main
from lineside_hub.federation.differential_privacy import (
    WORD_BITS,
    PrivacySettings,
    ReleasedSums,
    check_privacy,
    normal_noise,
    plant_deviation,
    private_settings,
    private_values,
    spent_epsilon,
    step_exponent,
)
from lineside_hub.federation.pool_config import load_pool
from lineside_hub.federation.training_coordinator import TrainingCoordinator, read_federation
from lineside_hub.federation.training_round import FederationSettings, read_weights
from lineside_link.aggregation.messages import largest_value, least_threshold
from lineside_runtime.errors import AggregationError, ConfigError, MissingExtraError, TrainingError
from tests.hub.federation.federations import SHARED, Federation, drawn_change, first_weights
from tests.hub.federation.plants import Plants
from tests.peers.brokers import Mosquitto

GIVEN = PrivacySettings(clip=0.5, noise=2.0, delta=1e-5, sums=4, epsilon=4.0)


def test_the_bound_holds_and_the_noise_of_the_least_plants_is_enough() -> None:
    count, exponent = 5, step_exponent(GIVEN, 5)
    quiet = PrivacySettings(clip=0.5, noise=1e-2, delta=1e-5, sums=4, epsilon=4.0)
    change = drawn_change("plant-0", 1, 1)
    bounded = private_values(change, SHARED, quiet, count, b"1" * 32) * 2.0 ** step_exponent(quiet, count)
    length, noise = len(bounded), plant_deviation(quiet, count)
    assert np.linalg.norm(bounded) <= math.sqrt(0.5**2 + length * noise**2) * 1.02
    small = {name: each * 1e-9 for name, each in change.items()}  # what is below the bound stays as it is
    drawn = normal_noise(b"2" * 32, length) * plant_deviation(GIVEN, count)
    flat = np.concatenate([small[name].astype(np.float64).reshape(-1) for name in SHARED])
    values = private_values(small, SHARED, GIVEN, count, b"2" * 32)
    assert np.abs(values * 2.0**exponent - flat - drawn).max() <= 1.5 * 2.0**exponent
    assert np.abs(values).max() <= largest_value(count, WORD_BITS)
    # as much as is promised from the least number of plants, without the one who looks
    assert plant_deviation(GIVEN, count) ** 2 * (least_threshold(count) - 1) == pytest.approx((2.0 * 0.5) ** 2)
    assert not np.array_equal(values, private_values(small, SHARED, GIVEN, count, b"3" * 32))
    change["head.bias"][0] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        private_values(change, SHARED, GIVEN, count, b"1" * 32)
    with pytest.raises(ConfigError, match="more of it for so many plants"):
        step_exponent(quiet, 1000)


def test_noise_is_normal() -> None:
    noise = normal_noise(b"n" * 32, 200_001)
    assert len(noise) == 200_001 and abs(noise.mean()) < 0.01 and noise.std() == pytest.approx(1, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3, abs=0.1)
    assert np.mean(np.abs(noise) < 1) == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.005)


def test_epsilon_is_that_of_gaussian_noise() -> None:
    pytest.importorskip("opacus", reason="the federate extra is not installed")
    orders = np.arange(1.01, 400, 0.01)

    def reference(noise: float, delta: float, sums: int) -> float:
        """Rényi divergence of normal distributions, and its conversion (arXiv:2004.00010, proposition 12)."""
        spent = sums * orders / (2 * noise**2)
        return float(np.min(spent + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)))

    for noise, sums in ((1.0, 1), (4.0, 23), (10.0, 100)):
        assert spent_epsilon(noise=noise, delta=1e-5, sums=sums) == pytest.approx(
            reference(noise, 1e-5, sums), rel=0.01
        )
    made = private_settings(clip=0.5, noise=4.0, delta=1e-5, rounds=20)
    assert made.sums == 23 and made.epsilon == pytest.approx(reference(4.0, 1e-5, 23), rel=0.01)
    check_privacy(made, None)
    check_privacy(made, made.epsilon)
    lying = PrivacySettings(clip=0.5, noise=4.0, delta=1e-5, sums=23, epsilon=1.0)
    for privacy, least, said in (
        (made, 1.0, "less private"),
        (None, 8.0, "no differential"),
        (lying, None, "epsilon of"),
    ):
        with pytest.raises(AggregationError, match=said):
            check_privacy(privacy, least)
    for name, value in (("clip", 0.0), ("noise", -1.0), ("delta", 0.5)):
        with pytest.raises(ConfigError, match=name):
            private_settings(**{"clip": 1.0, "noise": 1.0, "delta": 1e-5, "rounds": 1, name: value})  # type: ignore[arg-type]


def test_without_the_accountant_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opacus", "opacus.accountants", "opacus.accountants.analysis"):
        monkeypatch.setitem(sys.modules, name, None)
    spent_epsilon.cache_clear()
    with pytest.raises(MissingExtraError, match=r"lineside\[federate\]"):
        spent_epsilon(noise=1.0, delta=1e-5, sums=1)


def test_a_budget_is_kept_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "released.json"
    first = ReleasedSums(path)
    for digest in ("a", "b", "a"):  # the same round again is no further release
        first.add(digest, 2)
    with pytest.raises(AggregationError, match="budget is used up"):
        ReleasedSums(path).add("c", 2)
    ReleasedSums(path).add("b", 2)
    path.write_text("[")
    with pytest.raises(ConfigError, match="can't be read"):
        ReleasedSums(path)


def test_what_is_half_configured_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["federate", "init", "--start", str(tmp_path), "--out", str(tmp_path / "federation")]
    for more, said in (
        (["--clip", "1"], "no --noise, --delta, --local-norms"),
        (["--clip", "1", "--noise", "4", "--delta", "1e-5"], "no --local-norms"),
    ):
        assert main([*words, *more]) != 0
        assert said in capsys.readouterr().err
    with pytest.raises(ConfigError, match="statistics of batch norms"):
        FederationSettings(settings={}, labels=(), shared=("n.running_mean",), rounds=1, steps=1, privacy=GIVEN)


def test_only_numbers_with_noise_leave_a_plant(
    tmp_path: Path, broker: Mosquitto, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("opacus", reason="the federate extra is not installed")
    plants = Plants(tmp_path, broker.config(), 4, hubs=False)
    made = private_settings(clip=0.5, noise=4.0, delta=1e-5, rounds=1)
    federation = Federation(plants, rounds=1, privacy=made)
    pool = load_pool(plants.pool)
    with federation.joined():
        state = TrainingCoordinator(federation.folder, pool, plants.coordinator, step_timeout_s=60.0).run()
    [record] = state.rounds
    assert record.score is None and state.result_score is None and state.given_out
    kept = [
        read_weights(next((plants.folder / f"training-{name}" / "updates").glob("*.npz"))) for name in record.plants
    ]
    assert all(set(each) == {"/score", "/private"} and np.isnan(each["/score"]) for each in kept)
    total = np.sum([each["/private"] for each in kept], axis=0)
    assert hashlib.sha256(total.astype("<i8").tobytes()).hexdigest() == record.sum_sha256
    moved = federation.weights()["trunk.weight"] - first_weights()["trunk.weight"]
    deviation = plant_deviation(made, 4) * 2 / 4  # of the mean of four
    assert moved.std() == pytest.approx(deviation, rel=0.05)
    again = TrainingCoordinator(federation.folder, pool, plants.coordinator).run()  # which has nothing left to do
    assert again == read_federation(federation.folder) == state
    assert main(["federate", "show", "--federation", str(federation.folder)]) == 0
    assert f"epsilon {made.epsilon:.2f} at delta 1e-05" in capsys.readouterr().out
