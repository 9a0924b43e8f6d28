"""Changes of several plants are averaged over a real broker, exactly, also where something is killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lineside.cli import main
from lineside_hub.federation.pool_config import load_pool
from lineside_hub.federation.training_coordinator import (
    ROOT_NAME,
    STATE_NAME,
    TrainingCoordinator,
    create_federation,
    read_federation,
)
from lineside_hub.federation.training_round import (
    EXPONENT_MAX,
    FederationSettings,
    Weights,
    common_exponents,
    exponents_vector,
    mean_update,
    needed_exponents,
    outer_step,
    quantized_update,
    read_weights,
    write_weights,
)
from lineside_hub.repository.repository import Repository
from lineside_link.aggregation.identity import make_key
from lineside_runtime.errors import (
    AggregationError,
    BundleFormatError,
    ConfigError,
    InputError,
    RolloutError,
    TrainingError,
)
from tests.hub.federation.federations import (
    SCORE,
    SHARED,
    Federation,
    first_weights,
    mortal_coordinator,
    run_command,
    same,
)
from tests.hub.federation.plants import Plants
from tests.peers.brokers import Mosquitto
from tests.peers.processes import ChildProcess


@pytest.fixture
def plants(tmp_path: Path, broker: Mosquitto) -> Plants:
    return Plants(tmp_path, broker.config(), 4, hubs=False)


def coordinator(federation: Federation, **options: Any) -> TrainingCoordinator:
    plants = federation.plants
    return TrainingCoordinator(
        federation.folder, load_pool(plants.pool), plants.coordinator, **{"step_timeout_s": 60.0, **options}
    )


def run_until_killed(process: ChildProcess) -> list[str]:
    """Runs a mortal process; returns the lines that it wrote."""
    process.start()
    process.wait_killed()
    return process.log.splitlines()


def test_weights_are_those_of_the_plants_changes_bit_by_bit(plants: Plants, capsys: pytest.CaptureFixture[str]) -> None:
    federation = Federation(plants, rounds=2)
    with federation.joined():
        state = coordinator(federation).run()
    assert [each.plants for each in state.rounds] == [tuple(plants.names)] * 2
    assert [each.score for each in state.rounds] == [SCORE, SCORE]
    assert state.result_score == 2 * SCORE
    assert same(federation.weights(), federation.expected())
    for training in federation.trainings.values():
        assert training.result is not None
        assert same(training.result, federation.weights())
        assert training.trained == [1, 2]
    with federation.joined(plants.names[0]):  # after the end, which ends at once
        pass
    assert federation.said[plants.names[0]][-1] == "the training is over, and this plant has its result"
    with pytest.raises(TrainingError, match="was over after 2 rounds"):
        federation.join_late(plants.names[1])
    assert main(["federate", "show", "--federation", str(federation.folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    received = (shown["rounds"][0]["sent_bytes"] + shown["rounds"][0]["received_bytes"]) / len(plants.names)
    assert received < 1.7 * shown["weights_bytes"]


def test_a_plant_that_leaves_and_a_killed_broker_change_no_sum(plants: Plants, broker: Mosquitto) -> None:
    federation = Federation(plants, rounds=1)
    # 4 plants, of which 3 must remain.
    with federation.joined() as services:

        def after(line: str) -> None:
            if line.startswith("update, shares:"):
                services["plant-1"].close()
                broker.restart()

        state = coordinator(federation, step_timeout_s=8.0, on_progress=after).run()
    assert set(plants.names) - set(state.rounds[0].plants) <= {"plant-1"}
    assert same(federation.weights(), federation.expected())


def test_a_killed_coordinator_goes_on_with_the_same_sum(plants: Plants, tmp_path: Path) -> None:
    federation = Federation(plants, rounds=1)
    mortal = (
        mortal_coordinator(federation, step, tmp_path / f"run-{number}.log")
        for number, step in enumerate(("exponents, survivors", "update, masked"))
    )
    command = [sys.executable, "-m", "lineside", *run_command(plants, federation.folder)]
    last = ChildProcess(command, tmp_path / "run-2.log")
    with federation.joined():
        first, second = (run_until_killed(process) for process in mortal)
        last.start()
        assert last.wait(120) == 0, last.log
    assert first[-1].startswith("exponents, survivors:")
    assert second[0].startswith("exponents, survivors:")
    assert second[-1].startswith("update, masked:")
    begin, went_on, *_ = last.log.splitlines()
    assert begin == "round 1 of 1: waits for plants to train it, for up to 3600 s"
    assert went_on.startswith("update, masked:")
    assert same(federation.weights(), federation.expected())
    assert all(training.trained == [1] for training in federation.trainings.values())


def test_a_round_with_too_few_plants_is_given_up_and_begun_anew(plants: Plants) -> None:
    federation = Federation(plants, rounds=1)
    with federation.joined("plant-0", "plant-1") as few:
        with pytest.raises(AggregationError, match="expected at least 3; got 2"):
            coordinator(federation, training_timeout_s=2.0, step_timeout_s=2.0).run()
        for service in few.values():
            service.close()
    assert read_federation(federation.folder).attempt == 2
    with federation.joined():
        state = coordinator(federation).run()
    assert state.rounds[0].attempt == 2
    assert same(federation.weights(), federation.expected())


def test_a_plant_refuses_what_another_than_the_coordinator_signs(plants: Plants) -> None:
    federation, other = Federation(plants, rounds=1), make_key()
    pool = load_pool(plants.pool)
    with pytest.raises(ConfigError, match="coordinator's key"):
        TrainingCoordinator(federation.folder, pool, other).run()
    forged = msgspec.structs.replace(pool, coordinator=other.public_key().public_bytes_raw().hex())
    with federation.joined() as services:
        run = TrainingCoordinator(federation.folder, forged, other, training_timeout_s=3.0)
        with pytest.raises(AggregationError, match="too few plants answered in step keys; expected at least 3; got 0"):
            run.run()
        assert all(any("did not sign" in line for line in lines) for lines in federation.said.values())
        for service in services.values():
            service.close()
    with pytest.raises(InputError, match="holds a federated training"):
        Federation(plants, rounds=1)
    (federation.folder / STATE_NAME).unlink()  # as if it had been killed before its end
    assert Federation(plants, rounds=1).root == federation.root == (federation.folder / ROOT_NAME).read_bytes()
    hub = Repository.create(plants.folder / "hub", groups=["line-a"])
    with pytest.raises(RolloutError, match="holds a repository already"):
        create_federation(hub.folder, federation.settings, first_weights())


def test_step_sizes_fit_all_plants_and_nothing_is_clipped() -> None:
    draw = np.random.default_rng(3)
    weights = first_weights()
    changes = [
        {name: (draw.normal(size=weights[name].shape) * scale).astype(np.float32) for name in SHARED}
        for scale in (1e-9, 1e-2, 3.0)
    ]
    changes[0]["head.bias"][:] = 0.0
    value_max = 10_922
    vectors = [exponents_vector(needed_exponents(each, SHARED, value_max), 0.5) for each in changes]
    exponents, score = common_exponents(np.sum(vectors, axis=0))
    assert score == 0.5
    numbers = [quantized_update(each, SHARED, exponents) for each in changes]
    assert all(np.abs(each).max() <= value_max for each in numbers)
    assert max(np.abs(each).max() for each in numbers) > value_max // 2
    mean = mean_update(np.sum(numbers, axis=0), weights, SHARED, exponents, 3)
    for name, exponent in zip(SHARED, exponents, strict=True):
        exact = np.mean([each[name].astype(np.float64) for each in changes], axis=0)
        assert np.abs(mean[name] - exact).max() <= 2.0**exponent / 2 + 1e-6
    changes[0]["head.bias"][0] = np.nan
    with pytest.raises(TrainingError, match=r"head\.bias is not finite"):
        needed_exponents(changes[0], SHARED, value_max)
    changes[0]["head.bias"][0] = value_max * 2.0**EXPONENT_MAX * 1.1
    with pytest.raises(AggregationError, match="too large to be summed"):
        needed_exponents(changes[0], SHARED, value_max)


def test_outer_step_has_nesterov_momentum_and_leaves_statistics_alone() -> None:
    settings = FederationSettings(
        settings={}, labels=(), shared=("w", "n.running_mean"), rounds=2, steps=1, outer_rate=0.5, outer_momentum=0.9
    )
    one = np.ones(2, np.float32)
    weights: Weights = {"w": 0 * one, "n.running_mean": 0 * one}
    momentum: Weights = {}
    mean = {"w": one, "n.running_mean": one}
    weights, momentum = outer_step(weights, mean, momentum, settings)
    assert np.allclose(weights["w"], 0.5 * (1 + 0.9))
    weights, momentum = outer_step(weights, mean, momentum, settings)
    assert np.allclose(weights["w"], 0.5 * 1.9 + 0.5 * (1 + 0.9 * 1.9))
    assert np.allclose(weights["n.running_mean"], 2)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off", write_weights({"a": np.ones(9)})[:-30]])
def test_a_file_that_holds_no_weights_is_an_error_with_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(content)
    with pytest.raises(BundleFormatError, match="holds no weights"):
        read_weights(tmp_path / "weights.npz")


def test_weights_come_back_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(write_weights({"a": np.arange(3.0)}))
    found = read_weights(tmp_path / "weights.npz")
    assert list(found) == ["a"]
    np.testing.assert_array_equal(found["a"], np.arange(3.0))
