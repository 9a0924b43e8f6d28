"""A federated training of drawn changes: what each plant adds is known, so that the weights after it are known too."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lineside_hub.federation.differential_privacy import PrivacySettings
from lineside_hub.federation.pool_config import PoolConfig, load_pool
from lineside_hub.federation.training_coordinator import create_federation, read_federation
from lineside_hub.federation.training_plant import LocalUpdate, TrainingPlant
from lineside_hub.federation.training_round import (
    FederationSettings,
    TrainingRound,
    Weights,
    needed_exponents,
    quantized_update,
    read_weights,
    word_bits,
)
from lineside_link.aggregation.messages import largest_value
from tests.hub.federation.plants import Plants
from tests.peers.processes import ChildProcess

SHAPES = {"trunk.weight": (300, 200), "head.weight": (7, 3), "head.bias": (7,), "norm.weight": (5,)}
SHARED = ("trunk.weight", "head.weight", "head.bias")
SCORE = 0.25

MORTAL = """
import os, signal, sys
from pathlib import Path
from lineside_hub.federation.pool_config import load_pool
from lineside_hub.federation.training_coordinator import TrainingCoordinator
from lineside_link.aggregation.identity import read_key

def report(line):
    print(line, flush=True)
    if line.startswith(sys.argv[4] + ":"):
        os.kill(os.getpid(), signal.SIGKILL)

folder, pool, key = map(Path, sys.argv[1:4])
TrainingCoordinator(folder, load_pool(pool), read_key(key), on_progress=report).run()
"""


def first_weights() -> Weights:
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


class DrawnTraining:
    """A training whose changes follow from the plant's name and the round; it keeps what it was given."""

    def __init__(self, plant: str) -> None:
        self.plant = plant
        self.trained: list[int] = []
        self.result: Weights | None = None

    def train(self, content: TrainingRound, weights: Weights, should_stop: Callable[[], bool]) -> LocalUpdate:
        del should_stop
        self.trained.append(content.number)
        return LocalUpdate(drawn_change(self.plant, content.number, content.attempt), SCORE)

    def finish(self, content: TrainingRound, weights: Weights) -> float:
        assert content.is_result
        self.result = weights
        return 2 * SCORE


def drawn_change(plant: str, number: int, attempt: int) -> Weights:
    seed = hashlib.sha256(f"{plant} {number} {attempt}".encode()).digest()
    draw = np.random.default_rng(list(seed))
    return {
        name: (draw.normal(size=SHAPES[name]) * draw.choice([1e-6, 1e-3, 1.0])).astype(np.float32) for name in SHARED
    }


class Federation:
    """A pool's plants and the folder of their coordinator."""

    def __init__(self, plants: Plants, *, rounds: int, privacy: PrivacySettings | None = None) -> None:
        self.plants, self.folder = plants, plants.folder / "federation"
        self.settings = FederationSettings(
            settings={}, labels=("a",), shared=SHARED, rounds=rounds, steps=1, privacy=privacy
        )
        self.root = create_federation(self.folder, self.settings, first_weights()).root_bytes()
        self.said: dict[str, list[str]] = {}
        self.trainings = {name: DrawnTraining(name) for name in plants.names}

    @contextlib.contextmanager
    def joined(self, *names: str) -> Iterator[dict[str, TrainingPlant]]:
        """Plants in this process, each in a thread of its own; all if none is named."""
        pool, threads, services = load_pool(self.plants.pool), [], {}
        try:
            for name in names or self.plants.names:
                services[name] = self._plant(pool, name, self.plants.folder / f"training-{name}")
                threads.append(threading.Thread(target=services[name].run, name=f"test-{name}"))
                threads[-1].start()
            yield services
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
        finally:
            for service in services.values():
                service.close()

    def _plant(self, pool: PoolConfig, name: str, folder: Path) -> TrainingPlant:
        return TrainingPlant(
            pool,
            name,
            self.plants.keys[name],
            root=self.root,
            folder=folder,
            training=self.trainings[name],
            on_progress=self.said.setdefault(name, []).append,
        )

    def join_late(self, name: str) -> None:
        """Runs a plant that has taken part in nothing, in this thread."""
        with contextlib.closing(self._plant(load_pool(self.plants.pool), name, self.plants.folder / "late")) as plant:
            plant.run()

    def expected(self) -> Weights:
        """Returns the weights that follow from the plants of each finished round, from whole numbers in the clear."""
        state, weights = read_federation(self.folder), first_weights()
        for each in state.rounds:
            changes = {name: drawn_change(name, each.number, each.attempt) for name in self.plants.names}
            value_max = largest_value(len(changes), word_bits(len(changes)))
            needed = [needed_exponents(changes[name], SHARED, value_max) for name in each.plants]
            assert all(one <= found for row in needed for one, found in zip(row, each.exponents, strict=True))
            total = [
                sum(c) for c in zip(*(self._numbers(changes[n], each.exponents) for n in each.plants), strict=True)
            ]
            digest = hashlib.sha256(np.asarray(total, "<i8").tobytes()).hexdigest()
            assert digest == each.sum_sha256, f"the sum of round {each.number} is not exact"
            at = 0
            for name, exponent in zip(SHARED, each.exponents, strict=True):
                size = weights[name].size
                mean = np.asarray(total[at : at + size]) * (2.0**exponent / len(each.plants))
                weights[name] = weights[name] + mean.reshape(SHAPES[name]).astype(np.float32)
                at += size
        return weights

    @staticmethod
    def _numbers(change: Weights, exponents: tuple[int, ...]) -> list[int]:
        numbers: list[int] = quantized_update(change, SHARED, exponents).tolist()
        return numbers

    def weights(self) -> Weights:
        """Returns the coordinator's weights."""
        return read_weights(self.folder / f"weights-{len(read_federation(self.folder).rounds)}.npz")


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def run_command(plants: Plants, folder: Path, *more: object) -> list[str]:
    """Arguments of ``federate run``."""
    common = ("federate", "run", "--federation", folder, "--pool", plants.pool)
    return [str(each) for each in (*common, "--key", plants.folder / "coordinator.key", *more)]


def mortal_coordinator(federation: Federation, step: str, log: Path) -> ChildProcess:
    """Returns a coordinator that is killed when a step has its answers and is not yet ended."""
    plants = federation.plants
    command = (sys.executable, "-c", MORTAL, federation.folder, plants.pool, plants.folder / "coordinator.key", step)
    return ChildProcess(command, log)
