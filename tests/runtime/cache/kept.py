"""Results whose content tells their key, and a program that writes them until it is killed.

python -m tests.runtime.cache.kept FILE BUDGET_BYTES
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lineside_runtime.cache.level import CacheStore, Level
from lineside_runtime.cache.sqlite import SqliteStore
from lineside_runtime.cache.value import CachedResult, keep
from lineside_runtime.serving.backoff import Backoff

FAST = Backoff(0.05, 0.4)
FLOATS = 1000


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


def entry_of(number: int, floats: int = FLOATS) -> CachedResult:
    return keep({"y": np.full(floats, number, np.float32)}, "ort/cpu:0")


def is_right(entry: CachedResult, number: int) -> bool:
    return bool((entry.outputs["y"] == number).all())


def found(level: Level, numbers: range) -> list[int]:
    """Returns the numbers that are there, each of which must be right."""
    here = []
    for number in numbers:
        entry = level.get(key_of(number))
        if entry is not None:
            assert is_right(entry, number)
            here.append(number)
    return here


@contextmanager
def opened(store: CacheStore, *, queue_bytes: int = 1 << 20) -> Iterator[Level]:
    level = Level(store, clock_s=time.monotonic, pauses=FAST, queue_bytes=queue_bytes, open_wait_s=10)
    try:
        yield level
    finally:
        level.close()


def main(path: Path, budget_bytes: int) -> None:
    with opened(SqliteStore(path, budget_bytes, ttl_s=None), queue_bytes=1 << 30) as level:
        number = 0
        while True:
            for _ in range(50):
                level.put(key_of(number), entry_of(number))
                number += 1
            level.flush(60)
            print(number, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
