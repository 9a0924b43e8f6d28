"""Secure aggregation of counts: exactness, time and bytes of a round, with and without plants that drop out.

Baseline: the sum of the same vectors in the clear. All plants and the coordinator run in this process, one after the
other; every message is encoded and decoded as on the link. Times are processor times of all of them together.
"""

from __future__ import annotations

import math
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from benchmarks.smoke import scaled
from lineside_hub.federation.differential_privacy import plant_deviation, private_settings
from lineside_link.aggregation.coordinator import STEPS, Coordinator
from lineside_link.aggregation.identity import make_key, public_hex
from lineside_link.aggregation.messages import RoundPlan, ToPlant, from_plant, least_threshold, to_plant
from lineside_link.aggregation.participant import Participant

COUNTERS = 1000
VALUE_MAX = 1_000_000_000
SIZES = scaled((3, 10, 30), smoke=(3,))
ROUNDS = scaled(10, smoke=1)
NOISES, TRAINING_ROUNDS, DELTA = (1.0, 2.0, 4.0, 8.0), 20, 1e-5
WEIGHTS, PLANTS = 1_000_000, (5, 100, 1000)
"""Of the network, and of the pool, in the rows of private trainings."""

GOAL = {"plants": 10, "cpu_s": 1.0}


def run() -> dict[str, Any]:
    """Measures rounds of each size: nobody drops out, and a third does so before each step."""
    rows = run_rounds(SIZES, rounds=ROUNDS, length=COUNTERS, bits=64, value_max=lambda _: VALUE_MAX)
    return {
        "baseline": "the sum in the clear",
        "counters": COUNTERS,
        "goal": GOAL,
        "rows": rows,
        "private_training": [_private(noise) for noise in NOISES],
    }


def _private(noise: float) -> dict[str, Any]:
    """Returns epsilon of a private training, and the noise of a round's mean change, in terms of the bound."""
    settings = private_settings(clip=1.0, noise=noise, delta=DELTA, rounds=TRAINING_ROUNDS)
    return {
        "noise": noise,
        "rounds": TRAINING_ROUNDS,
        "delta": DELTA,
        "epsilon": settings.epsilon,
        "weights": WEIGHTS,
        "noise_of_mean": {
            str(plants): plant_deviation(settings, plants) * math.sqrt(WEIGHTS / plants) for plants in PLANTS
        },
    }


def run_rounds(
    sizes: Sequence[int], *, rounds: int, length: int, bits: Literal[16, 64], value_max: Callable[[int], int]
) -> dict[str, Any]:
    """Measures rounds of each number of plants: nobody drops out, and a third does so before each step."""
    rows: dict[str, Any] = {}
    for count in sizes:
        form = (length, bits, value_max(count))
        dropping = count - least_threshold(count)
        rows[f"{count} plants"] = _measured(count, 0, "", rounds, form)
        for step in STEPS if dropping else ():
            rows[f"{count} plants, {dropping} drop out before {step}"] = _measured(count, dropping, step, rounds, form)
    return rows


_Form = tuple[int, Literal[16, 64], int]  # length, bits, largest number


def _measured(count: int, dropping: int, step: str, number: int, form: _Form) -> dict[str, Any]:
    rounds = [_round(count, dropping, step, seed, form) for seed in range(number)]
    return {
        "rounds": number,
        "exact": sum(exact for exact, _, _ in rounds),
        "cpu_s": round(statistics.median(seconds for _, seconds, _ in rounds), 4),
        "bytes_of_a_plant": max(size for _, _, size in rounds),
    }


def _round(count: int, dropping: int, drop_at: str, seed: int, form: _Form) -> tuple[bool, float, int]:
    length, bits, value_max = form
    keys = {f"plant-{number}": make_key() for number in range(count)}
    plan = RoundPlan(
        round=secrets.token_hex(16),
        question="benchmark",
        length=length,
        value_max=value_max,
        bits=bits,
        plants={name: public_hex(key) for name, key in keys.items()},
        threshold=least_threshold(count),
    )
    random = np.random.default_rng(seed)
    values = {name: random.integers(-value_max, value_max, length, dtype=np.int64, endpoint=True) for name in keys}
    sent = dict.fromkeys(keys, 0)
    began = time.process_time()
    plants = {name: Participant(plan, name, keys[name], values[name]) for name in keys}
    coordinator = Coordinator(plan)
    messages: dict[str, ToPlant] = {}
    for step in STEPS:
        if step == drop_at:
            for name in list(plants)[:dropping]:
                del plants[name]
        for name, plant in plants.items():
            if step == "keys":
                answer = msgspec.json.encode(plant.join())
            elif name in messages:
                answer = msgspec.json.encode(plant.receive(to_plant.decode(msgspec.json.encode(messages[name]))))
            else:
                continue
            sent[name] += len(answer)
            coordinator.receive(name, from_plant.decode(answer))
        messages = coordinator.advance()
    seconds = time.process_time() - began
    plain = np.sum([values[name] for name in coordinator.survivors], axis=0)
    return np.array_equal(coordinator.sum, plain), seconds, max(sent.values())
