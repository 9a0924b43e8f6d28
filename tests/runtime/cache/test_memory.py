from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lineside_runtime.cache.memory import MemoryLevel
from lineside_runtime.cache.value import CachedResult, keep
from tests.runtime.clock import Clock


def entry(size: int = 100, fill: int = 0) -> CachedResult:
    return keep({"y": np.full(size, fill, np.uint8)}, "ort/cpu:0")


SIZE = entry().size_bytes


def level(entries: float, *, ttl_s: float | None = None, clock: Clock | None = None) -> MemoryLevel[CachedResult]:
    return MemoryLevel(int(entries * SIZE), ttl_s=ttl_s, clock_s=clock or Clock())


def test_a_result_is_forgotten_at_its_time() -> None:
    clock = Clock()
    memory = level(3, ttl_s=10, clock=clock)
    memory.put(b"a", entry())
    clock.now_s += 9.999
    assert memory.get(b"a") is not None
    clock.now_s += 0.001
    assert memory.get(b"a") is None
    assert (memory.stats.expired, memory.stats.entries, memory.stats.used_bytes) == (1, 0, 0)


def test_evicting_gives_everything_back() -> None:
    memory = level(3)
    memory.put(b"a", entry())
    memory.put(b"b", entry())
    assert memory.evict() == 2 * SIZE
    assert memory.get(b"a") is None
    assert (memory.stats.used_bytes, memory.stats.evictions) == (0, 2)
    memory.put(b"a", entry())
    assert memory.get(b"a") is not None


def test_many_threads_keep_the_books_right() -> None:
    memory = level(20)
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        order = np.random.default_rng(seed).integers(0, 40, 2000)
        start.wait()
        for number in order.tolist():
            found = memory.get(bytes([number]))
            if found is None:
                memory.put(bytes([number]), entry(fill=number))
            else:
                assert found.outputs["y"][0] == number

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = memory.stats
    assert stats.hits + stats.misses == 8000
    assert stats.entries == 20
    assert stats.used_bytes == 20 * SIZE


class AgainstAModel(RuleBasedStateMachine):
    """The level against a dictionary that does the same in the plainest way."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.memory = level(3.5, ttl_s=5, clock=self.clock)
        self.model: OrderedDict[bytes, tuple[int, int, float]] = OrderedDict()
        self.stored = self.evictions = 0

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), size=st.sampled_from([10, 100, 600, 9000]))
    def put(self, key: bytes, size: int) -> None:
        made = entry(size, fill=key[0])
        self.memory.put(key, made)
        self.model.pop(key, None)
        if made.size_bytes <= self.memory.budget_bytes:
            while sum(one[0] for one in self.model.values()) + made.size_bytes > self.memory.budget_bytes:
                self.model.popitem(last=False)
                self.evictions += 1
            self.stored += 1
            self.model[key] = made.size_bytes, key[0], self.clock.now_s + 5

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d", b"e"]))
    def get(self, key: bytes) -> None:
        found = self.memory.get(key)
        known = self.model.get(key)
        if known is not None and known[2] <= self.clock.now_s:
            del self.model[key]
            known = None
        assert (found is None) == (known is None)
        if found is not None and known is not None:
            assert found.outputs["y"][0] == known[1]
            self.model.move_to_end(key)

    @rule(seconds=st.sampled_from([0.5, 2, 6]))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @invariant()
    def the_books_agree(self) -> None:
        assert self.memory.stats.entries == len(self.model)
        assert self.memory.stats.used_bytes == sum(one[0] for one in self.model.values())
        assert (self.memory.stats.stored, self.memory.stats.evictions) == (self.stored, self.evictions)


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
