from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from lineside_hub.results.database import Database, TimelineEvent
from lineside_link.messages import BundleRef
from lineside_runtime.errors import DatabaseError, DiskFullError, InputNotFoundError

REF = BundleRef(name="surface", version="1.0.0", target="line-a/surface-1.0.0.json", sha256="0" * 64)


def test_the_file_has_all_its_tables_from_the_start(tmp_path: Path, database: Database) -> None:
    tables = {row[0] for row in database.query("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"results", "quarantine", "watermarks", "devices", "desired", "events", "meta"} <= tables
    key = [row["name"] for row in database.query("SELECT * FROM pragma_table_info('results') WHERE pk > 0 ORDER BY pk")]
    assert key == ["device", "epoch", "seq"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_it_survives_a_power_cut_as_far_as_sqlite_can(database: Database) -> None:
    assert database.query("PRAGMA journal_mode")[0][0] == "wal"
    assert database.query("PRAGMA synchronous")[0][0] == 2


def test_many_that_open_it_at_once_get_the_same_epoch(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    epochs = []

    def open_it() -> None:
        opened = Database.open(tmp_path / "new")
        epochs.append(opened.epoch)
        opened.close()

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(epochs) == 8
    assert len(set(epochs)) == 1


def test_a_generation_is_never_given_twice(database: Database) -> None:
    first = database.set_desired("g/line-a", REF)
    second = database.set_desired("d/cam-01", REF)
    third = database.set_desired("g/line-a", REF)
    assert [first.gen, second.gen, third.gen] == [1, 2, 3]
    assert database.desired_states() == {"d/cam-01": second, "g/line-a": third}
    assert {(event.kind, event.detail) for event in database.events()} == {
        ("pushed", "group line-a, desired state 1"),
        ("pushed", "device cam-01, desired state 2"),
        ("pushed", "group line-a, desired state 3"),
    }


def test_a_restored_backup_gets_a_higher_epoch_and_takes_its_desired_states_along(database: Database) -> None:
    before = database.set_desired("g/line-a", REF)
    epoch = database.new_epoch()
    assert epoch > before.epoch
    assert database.epoch == epoch
    after = database.desired_states()["g/line-a"]
    assert (after.epoch, after.gen, after.bundle) == (epoch, before.gen, REF)


def test_another_connections_commit_is_noticed(tmp_path: Path, database: Database) -> None:
    before = database.data_version()
    assert database.data_version() == before
    other = Database.open(tmp_path)
    other.set_desired("g/line-a", REF)
    other.close()
    assert database.data_version() != before


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(DatabaseError), database.transaction() as connection:
        database.add_event(TimelineEvent(at_ns=1, device="cam-01", kind="up"))
        connection.execute("INSERT INTO nowhere VALUES (1)")
    assert database.events() == []
    with database.transaction():
        database.add_event(TimelineEvent(at_ns=1, device="cam-01", kind="up"))
    assert database.events(kind="up") == [TimelineEvent(at_ns=1, device="cam-01", kind="up")]
    assert database.events(kind="down") == []


def test_a_full_disk_has_its_own_code(database: Database) -> None:
    pages = database.query("PRAGMA page_count")[0][0]
    database.query(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFullError), database.transaction() as connection:
        connection.execute("INSERT INTO quarantine VALUES ('d', 'e', 1, ?, '', 0)", (b"x" * 1_000_000,))
    assert database.query("SELECT count(*) FROM quarantine")[0][0] == 0


def test_a_file_that_is_no_database_or_of_another_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        Database.open(tmp_path / "nowhere")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "hub.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DatabaseError):
        Database.open(tmp_path / "damaged")
    (tmp_path / "newer").mkdir()
    connection = sqlite3.connect(tmp_path / "newer" / "hub.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DatabaseError, match="another schema"):
        Database.open(tmp_path / "newer")
