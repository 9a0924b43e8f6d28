"""Packs: records of a device that may write little are read as those in the database."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside_agent.config import AgentConfig, StoreConfig, read_config
from lineside_agent.storage import verdict_marks
from lineside_agent.storage.record_files import packs
from lineside_agent.storage.record_queries import RecordQuery, find, report
from lineside_agent.storage.records import NAME, RecordStore
from lineside_agent.storage.write_budget import Saving
from lineside_link.messages import MeasuredValue, ResultRow, View
from tests.peers.waiting import wait_for
from tests.worlds.agent import write_agent

Open = Callable[..., RecordStore]
SECOND_NS = 10**9


def row(sequence: int, source: str = "cam") -> ResultRow:
    return ResultRow(
        seq=0,
        part_id=f"p{sequence}",
        source=source,
        sequence=sequence,
        captured_at_ns=1_700_000_000 * SECOND_NS + sequence * SECOND_NS,
        verdict="reject" if sequence % 3 == 0 else "pass",
        detections=(("scratch", 0.5, 1.0, 2.0, 3.25, 4.0),) if sequence % 3 == 0 else (),
        bundle="surface@1.0.0",
        latency_ms=sequence / 7,
    )


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    opened: list[RecordStore] = []

    def make(saving: Saving = Saving.PACKS, **arguments: Any) -> RecordStore:
        opened.append(RecordStore(tmp_path / "state", saving=lambda: saving, **arguments))
        return opened[-1]

    (tmp_path / "state").mkdir()
    yield make
    for store in opened:
        store.close(0.5)


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    return read_config(write_agent(tmp_path, bundle="bundle"))


def fill(store: RecordStore, *sequences: int, source: str = "cam") -> None:
    for sequence in sequences:
        assert store.record(row(sequence, source))
    assert store.flush(60.0)


def table(folder: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(folder / NAME)) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM records ORDER BY seq")]


def test_rows_come_back_as_they_were() -> None:
    odd = ResultRow(
        seq=7,
        part_id="ü",
        source="other",
        sequence=3,
        verdict="fault",
        doubtful=(("a", 0.1, 1 / 3, 2.0, 3.0, 4.0), ("b", 1.0, 0.0, 0.0, 1e300, 2.0)),
        error="why",
        unknown=True,
        views=(View(source="left", verdict="pass"),),
        measurements=(MeasuredValue(name="gap", type="gap", value=1.25, unit="mm"),),
    )
    rows = [row(5), row(4), odd, row(6)]
    assert packs.decode(packs.encode(rows)) == rows
    assert packs.decode(packs.encode(rows), needle=b"no such part") == []


def test_damaged_pack_is_an_error_that_says_so() -> None:
    data = packs.encode([row(number) for number in range(50)])
    for broken in (b"", data[:-20], data[:40] + bytes([data[40] ^ 1]) + data[41:]):
        with pytest.raises(ValueError, match=r"."):
            packs.decode(broken)


def test_packed_and_single_records_are_read_in_order_each_once(open_store: Open, tmp_path: Path) -> None:
    with contextlib.closing(open_store(Saving.NONE)) as single:
        fill(single, *range(5))
    with contextlib.closing(open_store()) as store:
        fill(store, *range(5, 305))
        fill(store, *range(305, 605))
    with contextlib.closing(open_store(Saving.NONE)) as single:
        fill(single, 605, 606)
        rows = single.rows(0, 1000)
        assert [(each.seq, each.sequence) for each in rows] == [(number + 1, number) for number in range(607)]
        assert rows[400] == msgspec.structs.replace(row(400), seq=401)
        assert [each.seq for each in single.rows(303, 4)] == [304, 305, 306, 307]
    assert len(list((tmp_path / "state" / f"{NAME}-packs").iterdir())) == 2
    assert table(tmp_path / "state") == [1, 2, 3, 4, 5, 605, 606, 607], "of packed ones only the newest is single"


def test_frame_that_comes_twice_is_packed_once(open_store: Open) -> None:
    store = open_store()
    fill(store, *range(300))
    fill(store, *range(250, 550))
    assert [each.sequence for each in store.rows(0, 1000)] == list(range(550))
    assert store.counts.repeated == 50


def test_new_database_does_not_give_records_of_a_deleted_one(open_store: Open, tmp_path: Path) -> None:
    for first in (0, 1000):
        with contextlib.closing(open_store()) as store:
            fill(store, *range(first, first + 300))
            assert [each.sequence for each in store.rows(0, 1000)] == list(range(first, first + 300))
        shutil.rmtree(tmp_path / "state")
        (tmp_path / "state").mkdir()


def test_numbers_go_on_for_an_agent_that_knows_no_packs(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    fill(store, *range(300), source="a")
    fill(store, *range(300), source="b")
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / NAME)) as connection:
        found = connection.execute("SELECT max(seq) FROM records").fetchone()
        sources = connection.execute("SELECT source, max(sequence) FROM records GROUP BY source").fetchall()
    assert (found, sources) == ((600,), [("a", 299), ("b", 299)])


def test_queries_marks_and_reports_find_packed_records(open_store: Open, config: AgentConfig) -> None:
    store = open_store()
    fill(store, *range(300))
    fill(store, *range(300, 600))
    store.close()
    assert [each.row.part_id for each in find(config, RecordQuery(limit=2))] == ["p598", "p599"]
    assert [each.row.part_id for each in find(config, RecordQuery(part_id="p17"))] == ["p17"]
    start_ns = row(0).captured_at_ns
    between = RecordQuery(since_ns=start_ns + 298 * SECOND_NS, until_ns=start_ns + 302 * SECOND_NS, verdict="pass")
    assert [each.row.part_id for each in find(config, between)] == ["p298", "p299", "p301"]
    assert report(config, RecordQuery()).verdicts == {"pass": 400, "reject": 200, "unsure": 0, "fault": 0}
    assert verdict_marks.add(config.folder, "p17", wrong=True).sequence == 17


def test_watermark_goes_on_at_once_and_is_kept(open_store: Open) -> None:
    store = open_store()
    fill(store, *range(300))
    store.acknowledge(store.epoch, 200)
    assert (store.watermark, store.pending) == (200, 100)
    fill(store, *range(300, 600))
    store.close()
    assert open_store().watermark == 200


def test_oldest_packs_go_beyond_the_bound(open_store: Open, tmp_path: Path) -> None:
    store = open_store(rules=StoreConfig(records_max_days=1.0))
    fill(store, *range(300))
    fill(store, *range(300, 600))
    store.retention.request()
    wait_for(lambda: store.rows(0, 1)[0].sequence == 300, what="a pack a sweep: all are from 2023")
    store.retention.request()
    wait_for(lambda: [each.sequence for each in store.rows(0, 1000)] == [599])
    assert not list((tmp_path / "state" / f"{NAME}-packs").iterdir())


def test_damaged_pack_loses_its_records_loudly_and_no_others(
    open_store: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    fill(store, *range(300))
    fill(store, *range(300, 600))
    first = min((tmp_path / "state" / f"{NAME}-packs").iterdir())
    first.write_bytes(b"x")
    assert [each.sequence for each in store.rows(0, 1000)] == list(range(300, 600))
    assert first.name in caplog.text


KILLED = """
import sys
from pathlib import Path
from lineside_agent.storage.record_files import database
from lineside_agent.storage.record_files import packs
from lineside_agent.storage.records import RecordStore
from lineside_agent.storage.write_budget import Saving
from lineside_link.messages import ResultRow
import os, signal
write = packs._write
def killed(path, pack, data):
    write(path, pack, data)
    os.kill(os.getpid(), signal.SIGKILL)
packs._write = killed
store = RecordStore(Path(sys.argv[1]), saving=lambda: Saving.PACKS)
store.resume("cam")
for number in range(300):
    store.flush(60.0) if number == 1 else None  # `resume` hurries: with its commit that ends
    store.record(ResultRow(seq=0, part_id="", source="cam", sequence=number, verdict="pass"))
store.flush(60.0)
"""


def test_kill_between_the_pack_and_its_row_loses_nothing(open_store: Open, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "state")], check=False, env=os.environ.copy())
    assert done.returncode == -signal.SIGKILL
    store = open_store()
    assert store.flush(60.0)
    assert [each.sequence for each in store.rows(0, 1000)] == list(range(300))
