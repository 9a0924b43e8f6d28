from __future__ import annotations

import threading

import pytest

from lineside_runtime.serving.shared import Retired, Shared


class Thing:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_what_nobody_uses_is_closed_when_it_is_retired() -> None:
    thing = Thing()
    shared = Shared(thing)
    assert shared.enter() is thing
    shared.leave()
    assert thing.closed == 0
    shared.retire()
    shared.retire()
    assert thing.closed == 1


def test_the_last_user_closes_what_was_retired() -> None:
    thing = Thing()
    shared = Shared(thing)
    shared.enter()
    with shared.use():
        shared.retire()
        assert thing.closed == 0
    assert thing.closed == 0
    shared.leave()
    assert thing.closed == 1


def test_nobody_gets_in_after_it_was_retired() -> None:
    shared = Shared(Thing())
    shared.retire()
    with pytest.raises(Retired):
        shared.enter()
    with pytest.raises(Retired), shared.use():
        pass


def test_a_user_that_fails_lets_go() -> None:
    thing = Thing()
    shared = Shared(thing)
    with pytest.raises(KeyError), shared.use():
        raise KeyError
    shared.retire()
    assert thing.closed == 1


def test_it_is_closed_once_and_never_in_use_whoever_retires_it() -> None:
    """Eight threads use it while it is retired; none of them sees it closed."""
    for _ in range(50):
        thing = Thing()
        shared = Shared(thing)
        start = threading.Barrier(9)
        seen: list[int] = []

        def use(shared: Shared[Thing] = shared, start: threading.Barrier = start, seen: list[int] = seen) -> None:
            start.wait(timeout=60)
            try:
                while True:
                    value = shared.enter()
                    seen.append(value.closed)
                    shared.leave()
            except Retired:
                return

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        start.wait(timeout=60)
        shared.retire()
        for thread in threads:
            thread.join(timeout=60)
        assert thing.closed == 1
        assert not any(seen)
