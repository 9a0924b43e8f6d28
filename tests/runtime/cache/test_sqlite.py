from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lineside_runtime.cache.level import Level
from lineside_runtime.cache.sqlite import TOUCH_S, SqliteStore, _code
from lineside_runtime.errors import ConfigError
from lineside_runtime.serving.backoff import Backoff
from tests.peers import wait_for
from tests.runtime.cache.kept import entry_of, found, is_right, key_of, opened
from tests.runtime.clock import Clock

BUDGET = 8 << 20
WALL_S = 1_800_000_000.0
ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "cache.db"


def a_store(path: Path, budget: int = BUDGET, *, ttl_s: float | None = None, wall: Clock | None = None) -> SqliteStore:
    return SqliteStore(path, budget, ttl_s=ttl_s, wall_s=wall or Clock(WALL_S))


def fill(level: Level, numbers: range, floats: int = 1000) -> None:
    for number in numbers:
        level.put(key_of(number), entry_of(number, floats))
        assert level.flush(60)


def test_a_second_session_finds_what_the_first_has_kept(path: Path) -> None:
    with opened(a_store(path)) as level:
        fill(level, range(3))
        assert found(level, range(4)) == [0, 1, 2]
        stats = level.stats
        assert (stats.name, stats.up, stats.hits, stats.misses, stats.stored) == ("sqlite", True, 3, 1, 3)
        assert stats.used_bytes
    with opened(a_store(path)) as level:
        assert found(level, range(4)) == [0, 1, 2]


def test_nobody_else_may_read_the_file(path: Path) -> None:
    with opened(a_store(path)) as level:
        fill(level, range(1))
        for file in path.parent.iterdir():
            assert file.stat().st_mode & 0o077 == 0, file


def test_a_result_is_forgotten_at_its_time(path: Path) -> None:
    wall = Clock(WALL_S)
    with opened(a_store(path, ttl_s=10, wall=wall)) as level:
        fill(level, range(3))
        wall.now_s += 9
        assert found(level, range(3)) == [0, 1, 2]
        wall.now_s += 1
        assert found(level, range(3)) == []
        fill(level, range(3, 4))
        assert level.stats.expired == 3


def test_the_file_never_passes_its_budget_and_the_oldest_go(path: Path) -> None:
    wall = Clock(WALL_S)
    with opened(a_store(path, 1 << 20, wall=wall)) as level:
        for number in range(300):
            wall.now_s += 1
            fill(level, range(number, number + 1))
            assert path.stat().st_size <= 1 << 20
        here = found(level, range(300))
        assert 100 < len(here) < 256
        assert here == list(range(here[0], 300))
        assert level.stats.evictions == 300 - len(here)
        assert level.stats.errors == 0


def test_results_of_any_size_fit_without_a_failure(path: Path) -> None:
    budget = 1 << 20
    sizes = np.random.default_rng(1).integers(1, 17_000, 600) ** 1.12
    with opened(a_store(path, budget), queue_bytes=64 << 20) as level:
        for start in range(0, 600, 50):
            for number in range(start, start + 50):
                level.put(key_of(number), entry_of(number, int(sizes[number])))
            assert level.flush(60)
            assert path.stat().st_size <= budget
            assert found(level, range(start + 45, start + 50))
        assert (level.stats.errors, level.stats.drops, level.stats.stored) == (0, 0, 600)
        assert (level.stats.used_bytes or 0) > budget * 0.6


def test_what_is_used_stays(path: Path) -> None:
    wall = Clock(WALL_S)
    with opened(a_store(path, 1 << 20, wall=wall)) as level:
        for number in range(300):
            wall.now_s += TOUCH_S + 1
            fill(level, range(number, number + 1))
            assert found(level, range(1)) == [0]


def test_a_smaller_budget_shrinks_the_file(path: Path) -> None:
    with opened(a_store(path)) as level:
        fill(level, range(100), floats=10_000)
    assert path.stat().st_size > 3 << 20
    with opened(a_store(path, 1 << 20)) as level:
        assert found(level, range(100))
        fill(level, range(100, 101))
        assert found(level, range(100, 101)) == [100]
    assert path.stat().st_size <= 1 << 20


def test_a_value_too_large_for_the_file_is_dropped_and_counted(path: Path) -> None:
    with opened(a_store(path, 1 << 20)) as level:
        fill(level, range(1), floats=100_000)
        assert found(level, range(1)) == []
        assert (level.stats.drops, level.stats.errors) == (1, 0)


def test_what_does_not_fit_the_queue_is_dropped_and_counted(path: Path) -> None:
    store = a_store(path)
    with opened(store, queue_bytes=20_000) as level, locked(path):
        for number in range(20):
            level.put(key_of(number), entry_of(number))
        assert level.stats.drops == 17  # three of 5,060 bytes fit
    assert level.stats.drops + level.stats.stored == 20


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process is writing, and for long."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


def test_reading_goes_on_while_another_process_writes_for_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineside_runtime.cache.sqlite.WRITE_TIMEOUT_S", 0.05)
    with opened(a_store(path)) as level:
        fill(level, range(3))
        with locked(path):
            level.put(key_of(3), entry_of(3))
            wait_for(lambda: level.stats.errors, what="the writer to give up")
            assert found(level, range(4)) == [0, 1, 2]
            assert level.stats.up
        wait_for(lambda: _takes_again(level), what="writing to go on")


class TendedStore(SqliteStore):
    """Counts how often its level has looked after it."""

    tended = 0

    def tend(self) -> None:
        super().tend()
        self.tended += 1

    def is_tended(self, times: int) -> bool:
        return self.tended >= times


def test_reading_does_not_end_the_pause_in_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineside_runtime.cache.sqlite.WRITE_TIMEOUT_S", 0.05)
    monkeypatch.setattr("lineside_runtime.cache.level.TEND_S", 0.02)
    store = TendedStore(path, 8 << 20, ttl_s=None)
    with contextlib.closing(Level(store, clock_s=time.monotonic, pauses=Backoff(60, 60), open_wait_s=10)) as level:
        fill(level, range(2))
        with locked(path):
            level.put(key_of(2), entry_of(2))
            wait_for(lambda: level.stats.errors, what="the writer to give up")
            for _ in range(3):
                assert found(level, range(3)) == [0, 1]
                seen = store.tended + 2
                wait_for(partial(store.is_tended, seen), what="its thread")
            assert (level.stats.errors, level.stats.drops) == (1, 1)


def _takes_again(level: Level) -> bool:
    level.put(key_of(9), entry_of(9))
    level.flush(60)
    return level.get(key_of(9)) is not None


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 8000, b"x"])
def test_a_file_that_is_none_is_moved_aside(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with opened(a_store(path)) as level:
        fill(level, range(3))
        assert found(level, range(3)) == [0, 1, 2]
        assert level.stats.errors == 1
        assert "database" in level.stats.reason
    assert path.with_name("cache.db.damaged").read_bytes() == content


def test_damage_while_it_runs_is_a_miss_and_then_a_new_file(path: Path) -> None:
    with opened(a_store(path)) as level:
        fill(level, range(200))
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
        found(level, range(200))
        wait_for(lambda: path.with_name("cache.db.damaged").exists(), what="the file to be moved aside")
        wait_for(lambda: level.stats.up, what="a new file")
        assert level.stats.errors >= 1
        fill(level, range(3))
        assert found(level, range(3)) == [0, 1, 2]


def test_another_process_follows_to_the_new_file(path: Path) -> None:
    with opened(a_store(path)) as one, opened(a_store(path)) as other:
        fill(one, range(3))
        assert found(other, range(3)) == [0, 1, 2]
        path.rename(path.with_name("gone"))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        fill(one, range(3, 6))
        fill(other, range(6, 9))
        assert found(one, range(9)) == found(other, range(9)) == [3, 4, 5, 6, 7, 8]


def test_a_removed_folder_comes_back(path: Path) -> None:
    with opened(a_store(path)) as level:
        fill(level, range(3))
        for file in path.parent.iterdir():
            file.unlink()
        path.parent.rmdir()
        wait_for(lambda: _takes_again(level), what="a new file")


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE precious (x)")
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught, opened(a_store(path)):
        pass
    assert "another program" in str(caught.value.actual)
    assert path.read_bytes() == before


def test_another_release_begins_anew(path: Path) -> None:
    with opened(a_store(path)) as level:
        fill(level, range(3))
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    with opened(a_store(path)) as level:
        assert found(level, range(3)) == []
        assert _takes_again(level)


def test_a_row_that_is_no_value_is_a_miss_and_is_replaced(path: Path) -> None:
    with opened(a_store(path)) as level:
        fill(level, range(2))
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE entry SET value = (SELECT value FROM entry WHERE key = ?)", (key_of(1),))
            other.commit()
        assert found(level, range(2)) == [1]
        assert (level.stats.errors, level.stats.up) == (1, True)
        fill(level, range(1))
        assert found(level, range(2)) == [0, 1]


@pytest.mark.parametrize("value", ["text", b"", 7, b"x" * (3 << 20)])
def test_a_row_of_another_kind_is_a_miss(path: Path, value: object) -> None:
    with opened(a_store(path)) as level:
        fill(level, range(1))
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE entry SET value = ?", (value,))
            other.commit()
        assert found(level, range(1)) == []
        assert level.stats.up


def test_many_threads_read_and_write(path: Path) -> None:
    with opened(a_store(path)) as level:
        start = threading.Barrier(4)
        wrong: list[int] = []

        def work(seed: int) -> None:
            start.wait()
            for step in range(200):
                number = (seed * 37 + step * 11) % 50
                entry = level.get(key_of(number))
                if entry is None:
                    level.put(key_of(number), entry_of(number))
                elif not is_right(entry, number):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert level.flush(60)
        assert wrong == []
        stats = level.stats
        assert (stats.hits + stats.misses, stats.errors) == (800, 0)
        assert found(level, range(50)) == list(range(50))


def test_a_process_killed_while_it_writes_leaves_nothing_wrong(path: Path) -> None:
    for round_number in range(3):
        command = [sys.executable, "-m", "tests.runtime.cache.kept", str(path), str(1 << 20)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(3 + 2 * round_number):
                line = child.stdout.readline()
            child.kill()
            child.stdout.read()
        written = int(line)
        with contextlib.closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with opened(a_store(path, 1 << 20)) as level:
            assert len(found(level, range(written + 1000))) > 50
            assert (level.stats.errors, level.stats.reason) == (0, "")
            fill(level, range(1))
            assert found(level, range(1)) == [0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("database disk image is malformed", 11),
        ("file is not a database", 26),
        ("database or disk is full", 13),
        ("attempt to write a readonly database", 8),
        ("disk I/O error", 10),
        ("database is locked", 5),
        ("no such table: entry", 0),
    ],
)
def test_without_a_code_the_text_tells(text: str, code: int) -> None:
    """Python 3.10 gives no code."""
    assert _code(sqlite3.OperationalError(text)) == code


# What a process without root's powers meets: run in a child, since the tests may run as root.

_UNDER = """
import sys, threading
from pathlib import Path
from tests.runtime.cache.kept import *
from tests.peers.waiting import wait_for

path, budget = Path(sys.argv[1]), 8 << 20
def takes(level, number):
    level.put(key_of(number), entry_of(number))
    level.flush(60)
    entry = level.get(key_of(number))
    return entry is not None and is_right(entry, number)
"""


def run_under(text: str, path: Path, prepare: Callable[[], None] | None = None) -> str:
    command = [sys.executable, "-c", _UNDER + text, str(path)]
    done = subprocess.run(
        command, cwd=ROOT, preexec_fn=prepare, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_FULL = """
import resource
with opened(SqliteStore(path, budget, ttl_s=None)) as level:
    assert takes(level, 0)
    number = 1
    while level.stats.errors == 0:
        level.put(key_of(number), entry_of(number, 5000)); level.flush(60)
        number += 1
    assert level.stats.up and level.get(key_of(0)) is not None
    assert level.stats.drops >= 1
    first = level.stats.errors
    def refused_again():
        level.put(key_of(1), entry_of(1, 5000))
        level.flush(60)
        return level.stats.errors >= first + 2
    wait_for(refused_again)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for(lambda: takes(level, 7))
    print(level.stats.up)
"""


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))


def test_a_full_disk_stops_writing_with_growing_pauses_until_there_is_room(path: Path) -> None:
    assert run_under(_FULL, path, _small_files) == "True\n"


_READ_ONLY = """
import os
if os.geteuid() == 0:
    os.setegid(65534); os.seteuid(65534)
with opened(SqliteStore(path, budget, ttl_s=None)) as level:
    assert not level.stats.up and "ermission" in level.stats.reason, level.stats
    assert not takes(level, 0)
    assert level.stats.drops == 1 and level.stats.misses == 1
    wait_for(lambda: level.stats.errors >= 3)
    os.seteuid(int(os.environ["WAS"])); path.parent.chmod(0o777)
    if os.environ["WAS"] == "0": os.seteuid(65534)
    wait_for(lambda: takes(level, 0))
    print(level.stats.up)
"""


def test_a_read_only_folder_is_no_cache_until_it_is_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAS", str(os.geteuid()))
    with tempfile.TemporaryDirectory() as folder:  # pytest keeps others out of its own
        Path(folder).chmod(0o555)
        assert run_under(_READ_ONLY, Path(folder) / "cache.db") == "True\n"
