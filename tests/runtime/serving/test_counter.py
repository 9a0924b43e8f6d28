from __future__ import annotations

import threading

from lineside_runtime.serving.counter import Counter


def test_looking_does_not_count() -> None:
    counter = Counter()
    assert [counter.value for _ in range(3)] == [0, 0, 0]
    counter.add()
    counter.add()
    assert [counter.value for _ in range(3)] == [2, 2, 2]


def test_many_threads_count_and_look_at_once() -> None:
    counter = Counter()
    problems: list[tuple[int, int]] = []

    def work() -> None:
        seen = 0
        for _ in range(2000):
            counter.add()
            now = counter.value
            if now <= seen:
                problems.append((seen, now))
            seen = now

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not problems
    assert counter.value == 16_000
