"""Secure aggregation: exact sums, drop-outs at every step, a dishonest coordinator, and what a transcript shows."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import pytest

from lineside_link.aggregation.coordinator import STEPS, Coordinator
from lineside_link.aggregation.identity import PlantKey, make_key, public_hex
from lineside_link.aggregation.messages import (
    FromPlant,
    KeyList,
    MaskedVector,
    RoundPlan,
    SealedShares,
    Signatures,
    Survivors,
    ToPlant,
    from_plant,
    least_threshold,
    read_plan,
    to_plant,
)
from lineside_link.aggregation.participant import Participant
from lineside_link.aggregation.secret_sharing import PRIME, SHARE_BYTES, restore, split
from lineside_runtime.errors import AggregationError, ConfigError

LENGTH, VALUE_MAX = 50, 1_000_000


class Round:
    """Plants and a coordinator in this process; every message is encoded and decoded on its way."""

    def __init__(self, count: int, *, values: Mapping[str, np.ndarray] | None = None) -> None:
        self.keys: dict[str, PlantKey] = {f"plant-{number}": make_key() for number in range(count)}
        self.plan = RoundPlan(
            round=secrets.token_hex(16),
            question="test",
            length=LENGTH,
            value_max=VALUE_MAX,
            plants={name: public_hex(key) for name, key in self.keys.items()},
            threshold=least_threshold(count),
        )
        random = np.random.default_rng(count)
        self.values = values or {
            name: random.integers(-VALUE_MAX, VALUE_MAX + 1, LENGTH, dtype=np.int64) for name in self.keys
        }
        self.plants = {
            name: Participant(self.plan, name, self.keys[name], values) for name, values in self.values.items()
        }
        self.coordinator = Coordinator(self.plan)
        self.transcript: list[tuple[str, bytes]] = []

    def run(self, dropping: Mapping[str, set[str]] | None = None) -> np.ndarray:
        """Runs to the end; ``dropping`` names the plants that are silent from a step on."""
        gone: set[str] = set()
        messages: dict[str, ToPlant] = {}
        for step in STEPS:
            assert self.coordinator.step == step
            gone |= set((dropping or {}).get(step, set()))
            for name, plant in self.plants.items():
                if name in gone or (step != "keys" and name not in messages):
                    continue
                self.send(name, plant.join() if step == "keys" else plant.receive(self.passed(messages[name])))
            messages = self.coordinator.advance()
        return self.coordinator.sum

    def send(self, name: str, message: FromPlant) -> None:
        data = msgspec.json.encode(message)
        self.transcript.append((name, data))
        assert self.coordinator.receive(name, from_plant.decode(data))
        assert not self.coordinator.receive(name, from_plant.decode(data))  # twice changes nothing

    @staticmethod
    def passed(message: ToPlant) -> ToPlant:
        return to_plant.decode(msgspec.json.encode(message))

    def plain_sum(self) -> list[int]:
        return [sum(int(self.values[name][place]) for name in self.coordinator.survivors) for place in range(LENGTH)]


@pytest.mark.parametrize("count", [3, 5, 10])
def test_the_sum_is_exact(count: int) -> None:
    world = Round(count)
    assert world.run().tolist() == world.plain_sum()
    assert len(world.coordinator.survivors) == count


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("count", "dropped"), [(6, 1), (6, 2), (9, 3)])
def test_up_to_a_third_may_drop_out_at_each_step(step: str, count: int, dropped: int) -> None:
    world = Round(count)
    gone = {f"plant-{number}" for number in range(0, 2 * dropped, 2)}
    found = world.run({step: gone})
    assert found.tolist() == world.plain_sum()
    late = step in ("survivors", "unmask")  # their vectors are in the sum already
    assert set(world.coordinator.survivors) == set(world.plants) - (set() if late else gone)


def test_plants_may_drop_out_at_several_steps() -> None:
    world = Round(12)
    gone = {"keys": {"plant-1"}, "shares": {"plant-4"}, "masked": {"plant-7"}, "unmask": {"plant-10"}}
    assert world.run(gone).tolist() == world.plain_sum()
    assert len(world.coordinator.survivors) == 9


@pytest.mark.parametrize("step", STEPS)
def test_more_than_a_third_end_the_round_without_a_sum(step: str) -> None:
    world = Round(6)
    with pytest.raises(AggregationError, match=f"too few plants answered in step {step}; expected at least 4; got 3"):
        world.run({step: {"plant-0", "plant-1", "plant-2"}})
    with pytest.raises(AggregationError, match="no sum yet"):
        _ = world.coordinator.sum


def plan_of(**changes: object) -> bytes:
    plan = msgspec.to_builtins(Round(5).plan)
    return msgspec.json.encode(plan | changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"plants": {"a": "0" * 64, "b": "1" * 64}, "threshold": 2}, "2 plants; a sum needs 3"),
        ({"threshold": 3}, "threshold 3; 4 or more must remain"),
        ({"value_max": 1 << 62}, "does not fit into 64 bits"),
        ({"plants": {"a": "0" * 64, "b": "0" * 64, "c": "1" * 64}, "threshold": 3}, "same key"),
        ({"length": 0}, "length"),
    ],
)
def test_rounds_that_would_show_a_plant_or_overflow_are_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        read_plan(plan_of(**changes))


def test_a_number_that_is_too_large_is_refused_and_never_clipped() -> None:
    world = Round(3)
    values = np.zeros(LENGTH, np.int64)
    for value in (VALUE_MAX + 1, -VALUE_MAX - 1, np.iinfo(np.int64).min):
        values[7] = value
        with pytest.raises(ConfigError, match="too large for this round"):
            Participant(world.plan, "plant-0", world.keys["plant-0"], values)


def test_a_plant_that_sends_what_it_may_not_is_noticed_in_the_sum() -> None:
    values = {f"plant-{number}": np.zeros(LENGTH, np.int64) for number in range(3)}
    world = Round(3, values=values)
    world.plants["plant-1"]._values = np.full(LENGTH, 1 << 60, np.uint64)
    with pytest.raises(AggregationError, match="out of range"):
        world.run()


def until(world: Round, step: str) -> dict[str, ToPlant]:
    """Runs a round up to the messages that follow ``step``."""
    messages: dict[str, ToPlant] = {}
    for current in STEPS:
        for name, plant in world.plants.items():
            world.send(name, plant.join() if current == "keys" else plant.receive(messages[name]))
        messages = world.coordinator.advance()
        if current == step:
            return messages
    raise AssertionError(step)


def test_two_lists_of_survivors_are_noticed_before_any_share_is_shown() -> None:
    world = Round(6)
    messages = until(world, "masked")
    without = Survivors(tuple(name for name in world.plants if name != "plant-0"))
    signatures = {}
    for number, (name, plant) in enumerate(world.plants.items()):
        answer = plant.receive(messages[name] if number % 2 else without)
        signatures[name] = answer.signature  # type: ignore[union-attr]
    for plant in world.plants.values():
        with pytest.raises(AggregationError, match="the coordinator is not honest"):
            plant.receive(Signatures(signatures))
        with pytest.raises(AggregationError, match="has ended"):
            plant.receive(Signatures(signatures))


@pytest.mark.parametrize(
    ("step", "change", "text"),
    [
        ("keys", lambda m: KeyList(dict.fromkeys(m.keys, m.keys["plant-1"])), "not signed by it"),
        ("keys", lambda m: KeyList(dict(list(m.keys.items())[:3])), "too few plants take part"),
        ("keys", lambda m: KeyList({**m.keys, "stranger": m.keys["plant-1"]}), "does not name"),
        ("keys", lambda m: Signatures({}), "out of turn"),
        ("shares", lambda m: SealedShares(dict(list(m.shares.items())[:3])), "too few plants sent shares"),
        ("masked", lambda m: Survivors(m.plants[:2]), "too few plants survive"),
        ("survivors", lambda m: Signatures(dict(list(m.signatures.items())[:3])), "too few plants signed"),
    ],
)
def test_what_breaks_the_protocol_ends_a_plants_part(
    step: str, change: Callable[[ToPlant], ToPlant], text: str
) -> None:
    world = Round(5)
    messages = until(world, step)
    plant = world.plants["plant-0"]
    with pytest.raises(AggregationError, match=text):
        plant.receive(change(messages["plant-0"]))
    with pytest.raises(AggregationError, match="has ended"):
        plant.receive(messages["plant-0"])


def test_changed_shares_are_noticed() -> None:
    world = Round(3)
    messages = until(world, "shares")
    answers = {}
    for name, plant in world.plants.items():
        shares = dict(messages[name].shares)  # type: ignore[union-attr]
        sealed = bytearray(shares["plant-1"])
        sealed[0] ^= 1
        answers[name] = plant.receive(SealedShares({**shares, "plant-1": bytes(sealed)}))
        assert world.coordinator.receive(name, answers[name])
    messages = world.coordinator.advance()
    for name, plant in world.plants.items():
        assert world.coordinator.receive(name, plant.receive(messages[name]))
    messages = world.coordinator.advance()
    with pytest.raises(AggregationError, match="share of plant-1"):
        world.plants["plant-0"].receive(messages["plant-0"])


def test_keys_of_another_round_are_refused() -> None:
    one, other = Round(3), Round(3)
    other.keys = one.keys
    other.plan = msgspec.structs.replace(one.plan, round="another-round-of-them")
    replayed = Participant(other.plan, "plant-0", one.keys["plant-0"], one.values["plant-0"]).join()
    assert not one.coordinator.receive("plant-0", replayed)
    assert "not signed" in one.coordinator.refused["plant-0"]


# What a transcript shows.


def test_fewer_shares_than_the_threshold_fit_every_secret() -> None:
    secret, threshold = secrets.token_bytes(32), 4
    shares = split(secret, threshold, range(1, 8))
    known = {point: shares[point] for point in (2, 3, 7)}
    for candidate in (secret, bytes(32), secrets.token_bytes(32)):
        # The polynomial through the known shares and any candidate at 0 is as likely as the true one.
        points = {
            0: int.from_bytes(candidate, "big"),
            **{point: int.from_bytes(one, "big") for point, one in known.items()},
        }
        forged = dict(known) | {1: lagrange(points, 1).to_bytes(SHARE_BYTES, "big")}
        assert restore(forged) == candidate
    assert restore({point: shares[point] for point in (1, 2, 3, 7)}) == secret


def lagrange(points: dict[int, int], at: int) -> int:
    total = 0
    for point, value in points.items():
        above, below = 1, 1
        for other in points:
            if other != point:
                above = above * (at - other) % PRIME
                below = below * (point - other) % PRIME
        total = (total + value * above * pow(below, -1, PRIME)) % PRIME
    return total


def test_masked_vectors_and_shares_look_random_whatever_is_under_them() -> None:
    counts: Counter[int] = Counter()
    for _ in range(8):
        world = Round(3, values={f"plant-{number}": np.zeros(LENGTH, np.int64) for number in range(3)})
        world.run()
        for _, data in world.transcript:
            message = from_plant.decode(data)
            if isinstance(message, MaskedVector):
                counts.update(message.data)
    total = sum(counts.values())
    expected = total / 256
    chi_square = sum((counts[byte] - expected) ** 2 / expected for byte in range(256))
    assert chi_square < 410  # 255 degrees of freedom: above it once in 10^9 runs


def test_no_message_of_a_plant_holds_its_vector() -> None:
    world = Round(5)
    world.run()
    for name, data in world.transcript:
        assert world.values[name].tobytes() not in data
    vectors = [
        np.frombuffer(message.data, "<i8")
        for message in (from_plant.decode(data) for _, data in world.transcript)
        if isinstance(message, MaskedVector)
    ]
    assert len(vectors) == 5
    assert not any(np.intersect1d(vector, values).size for vector in vectors for values in world.values.values())
