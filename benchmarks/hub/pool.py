"""Secure aggregation of counts: exactness, time and bytes of a round, with and without plants that drop out.

Baseline: the sum of the same vectors in the clear. All plants and the coordinator run in this process, one after the
other; every message is encoded and decoded as on the link. Times are processor times of all of them together.
"""

from __future__ import annotations

import secrets
import statistics
import time
from typing import Any

import msgspec
import numpy as np

from benchmarks.smoke import scaled
from lineside_link.aggregation.coordinator import STEPS, Coordinator
from lineside_link.aggregation.identity import make_key, public_hex
from lineside_link.aggregation.messages import RoundPlan, ToPlant, from_plant, least_threshold, to_plant
from lineside_link.aggregation.participant import Participant

COUNTERS = 1000
VALUE_MAX = 1_000_000_000
SIZES = scaled((3, 10, 30), smoke=(3,))
ROUNDS = scaled(10, smoke=1)
GOAL = {"plants": 10, "cpu_s": 1.0}


def run() -> dict[str, Any]:
    """Measures rounds of each size: nobody drops out, and a third does so before each step."""
    rows: dict[str, Any] = {}
    for count in SIZES:
        dropping = count - least_threshold(count)
        rows[f"{count} plants"] = _measured(count, 0, "")
        for step in STEPS if dropping else ():
            rows[f"{count} plants, {dropping} drop out before {step}"] = _measured(count, dropping, step)
    return {"baseline": "the sum in the clear", "counters": COUNTERS, "goal": GOAL, "rows": rows}


def _measured(count: int, dropping: int, step: str) -> dict[str, Any]:
    rounds = [_round(count, dropping, step, seed) for seed in range(ROUNDS)]
    return {
        "rounds": ROUNDS,
        "exact": sum(exact for exact, _, _ in rounds),
        "cpu_s": round(statistics.median(seconds for _, seconds, _ in rounds), 4),
        "bytes_of_a_plant": max(size for _, _, size in rounds),
    }


def _round(count: int, dropping: int, drop_at: str, seed: int) -> tuple[bool, float, int]:
    keys = {f"plant-{number}": make_key() for number in range(count)}
    plan = RoundPlan(
        round=secrets.token_hex(16),
        question="benchmark",
        length=COUNTERS,
        value_max=VALUE_MAX,
        plants={name: public_hex(key) for name, key in keys.items()},
        threshold=least_threshold(count),
    )
    random = np.random.default_rng(seed)
    values = {name: random.integers(0, VALUE_MAX, COUNTERS, dtype=np.int64) for name in keys}
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
    plain = [sum(column) for column in zip(*(values[name].tolist() for name in coordinator.survivors), strict=True)]
    return coordinator.sum.tolist() == plain, seconds, max(sent.values())
