from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from lineside_runtime.system.collector import paused


class Node:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    """The suite freezes what it has imported."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    if frozen:
        gc.freeze()
    gc.enable()


def test_what_is_made_meanwhile_is_not_walked_and_is_collected_later() -> None:
    collections: list[str] = []
    gc.callbacks.append(note := lambda phase, _: collections.append(phase))
    try:
        with paused():
            alive = weakref.ref(Node())
            made = [[] for _ in range(5000)]  # type: ignore[var-annotated]
    finally:
        gc.callbacks.remove(note)
    assert collections == []
    assert len(made) == 5000 and alive() is not None
    gc.collect()
    assert alive() is None
    assert gc.isenabled() and gc.get_threshold()[0] and not gc.get_freeze_count()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with paused():
        pass
    assert not gc.isenabled()


def test_a_collector_that_is_turned_off_meanwhile_stays_off() -> None:
    with paused():
        gc.disable()
    assert not gc.isenabled() and gc.get_threshold()[0]


def test_a_threshold_that_is_set_meanwhile_stays() -> None:
    found = gc.get_threshold()
    try:
        with paused():
            gc.set_threshold(found[0] + 1)
        assert gc.get_threshold()[0] == found[0] + 1
    finally:
        gc.set_threshold(*found)


def test_what_the_program_has_frozen_stays_frozen() -> None:
    kept = [[] for _ in range(5000)]  # type: ignore[var-annotated]
    gc.freeze()
    with paused():
        pass
    assert gc.get_freeze_count() >= len(kept)  # others of the frozen may end meanwhile
    assert gc.isenabled()
