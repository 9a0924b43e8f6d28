"""What all tests share."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import sqlite3
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

pytest_plugins = ["tests.peers"]

# By default an example that takes 200 ms, or slow drawing of examples, fails: on a busy machine that says nothing.
hypothesis.settings.register_profile("lineside", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("lineside")

# Hypothesis now and then draws a constant of the tested code. Among those of a thousand files the few that matter are
# hardly ever met, and to read them takes each worker of a parallel run three seconds. Other releases of hypothesis may
# keep them elsewhere.
with contextlib.suppress(ImportError):
    from hypothesis.internal.conjecture import providers
    from hypothesis.internal.constants_ast import Constants

    providers._get_local_constants = Constants


class WatchedConnection(sqlite3.Connection):
    """Warns, as Python 3.13 does by itself, if it is collected and nobody has closed it."""

    opened_at: str = ""
    closed: bool = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        callers = itertools.islice(traceback.walk_stack(sys._getframe(1)), 1, 7)
        self.opened_at = ", ".join(f"{Path(one.f_code.co_filename).name}:{line}" for one, line in callers)

    def close(self) -> None:
        super().close()
        self.closed = True

    def __del__(self) -> None:
        if self.opened_at and not self.closed:
            warnings.warn(f"unclosed SQLite connection, opened at {self.opened_at}", ResourceWarning, 2, source=self)


if sys.version_info < (3, 13):
    _connect = sqlite3.connect

    def _watched(*args: Any, **options: Any) -> sqlite3.Connection:
        if len(args) < 6:
            options.setdefault("factory", WatchedConnection)
        connection: sqlite3.Connection = _connect(*args, **options)
        return connection

    sqlite3.connect = sqlite3.dbapi2.connect = _watched  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exempts what is imported from garbage collection: visiting it again would take 0.4 s after each file."""
    gc.disable()
    yield
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Lets each worker of a parallel run begin to collect in another folder.

    In a clean clone pytest compiles the tests in 9 s; begun in one place, all workers would do the same work at once.
    """
    worker, folder = getattr(config, "workerinput", None), Path(__file__).parent
    if worker is None or [Path(argument).resolve() for argument in config.args] != [folder]:
        return
    ignored = {Path(each).resolve() for each in config.getoption("ignore") or ()}
    places = [each for each in sorted(folder.iterdir()) if each.is_dir() or each.match("test_*.py")]
    places = [each for each in places if each not in ignored and each.name != "__pycache__"]
    first = len(places) * int(worker["workerid"].removeprefix("gw")) // int(worker["workercount"])
    config.args = [str(each) for each in (*places[first:], *places[:first])]


@pytest.fixture(scope="module")
def short_warm_up() -> Iterator[None]:
    """Ends warm-ups of measurements after 0.1 s: beside other tests the times of a call hardly ever get stable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lineside_runtime.benchmark.measurement.runner.WARM_MAX_S", 0.1)
        yield


@pytest.fixture(scope="module")
def quick_passphrases() -> Iterator[None]:
    """Keys take a ninth of the rounds, in three bytes as the real number is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lineside_hub.repository.key_encryption.ROUNDS", 1 << 16)
        yield


@pytest.fixture(scope="module")
def short_gates() -> Iterator[None]:
    """Judges eight drawn frames, and times in four rounds: what a gate finds slow is timed again at length, as ever."""
    from lineside_converters.data import calibration_data
    from lineside_converters.gates import checks, process_measurement

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_data, "SIMULATED_JUDGED", 8)
        patch.setattr(checks, "ROUNDS", 4)
        patch.setattr(process_measurement, "TURN_S", 0.05)
        yield


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Collects garbage after each file: one that leaves something unclosed fails itself, and no later one.

    What is left has been imported, such as torch: it is exempt from then on, since visiting it takes 0.2 s. The umask
    and the filters of logs are set back: commands that run in this process make the one restrictive, and let the others
    leave out what is logged often. No handler of ours may stay: its filter would do the same to all later tests.
    """
    mask = os.umask(0o022)
    os.umask(mask)
    handlers = logging.getLogger().handlers
    filters = {handler: handler.filters.copy() for handler in handlers}
    yield
    os.umask(mask)
    for handler in filters:
        handler.filters[:] = filters[handler]
    left = [each for each in handlers if each not in filters and type(each).__module__.startswith("lineside")]
    handlers[:] = [each for each in handlers if each not in left]
    gc.collect()
    gc.freeze()
    assert not left, "a handler of the log was left: something is not closed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that hold a slow test first, so that none of them runs alone at the end of a parallel run.

    Every worker has the same order, wherever it began to collect.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path))
