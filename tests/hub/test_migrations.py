"""Databases of earlier releases open with this one, in SQLite and in PostgreSQL; killed half-way they are whole."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from lineside_hub import migrations
from lineside_hub.results.database import Database
from lineside_hub.results.postgres import PostgresSink, engine_for, prepare, select
from lineside_hub.results.streams import read_batch
from lineside_hub.rollouts.runner import Rollouts, members
from lineside_link.messages import ResultRow, Results, encode
from lineside_link.result_table import COLUMN_TYPES, RESULT_COLUMNS
from lineside_runtime.errors import DatabaseError
from tests.hub import old_databases
from tests.peers.postgres import PostgresServer

KILL_AT = """
import os, signal, sys, sqlite3, tempfile
from pathlib import Path
from lineside_hub.results import database
with tempfile.TemporaryDirectory() as folder:
    database.Database.open(Path(folder)).close()  # imports what the processes below need
count, at, connect = 0, 0, database._connect
def step(statement):
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)
def traced(path):
    connection = connect(path)
    connection.set_trace_callback(step)
    return connection
database._connect = traced
for folder, at in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    child = os.fork()
    if child == 0:
        database.Database.open(Path(folder)).close()
        print(count, flush=True)
        os._exit(0)
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

KILL_AT_POSTGRES = """
import os, signal, sys
import sqlalchemy as sa
from lineside_hub.results.postgres import engine_for, prepare
def migrate(at):
    engine, count = engine_for(sys.argv[1]), 0
    @sa.event.listens_for(engine, "before_cursor_execute")
    def step(*_):
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
    with engine.begin() as connection:
        prepare(connection)
    return count
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print(migrate(int(line)), flush=True)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("ended with", code, flush=True)
"""

OPEN_AT_ONCE = """
import os, sys, tempfile
from pathlib import Path
from lineside_hub.results.database import Database
with tempfile.TemporaryDirectory() as folder:
    Database.open(Path(folder)).close()  # imports what the processes below need
may, told = os.pipe()
children = []
for _ in range(4):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(told)
        os.read(may, 1)  # until all are there
        Database.open(Path(sys.argv[1])).close()
        os._exit(0)
os.close(told)
print([os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in children])
"""


def child(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def revision(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute(migrations.READ_REVISION).fetchone()[0])
    finally:
        connection.close()


def test_what_the_code_knows_is_what_lies_in_the_folder() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert tuple(reversed([script.revision for script in scripts.walk_revisions()])) == migrations.REVISIONS
    assert scripts.get_heads() == [migrations.HEAD]


@pytest.mark.parametrize("schema", [1, 2])
def test_an_older_file_opens_and_nothing_is_lost(tmp_path: Path, schema: int) -> None:
    path = old_databases.make_sqlite(tmp_path, schema)
    before = old_databases.content(path)
    database = Database.open(tmp_path)
    (desired,) = database.desired_states().values()  # the first schema knew of no parts
    assert (desired.gen, desired.generation_of("bundle"), desired.bundle.identity if desired.bundle else "") == (
        3,
        3,
        "m@1",
    )
    assert members(database, "line-a") == (["cam-0", "cam-1"] if schema == 1 else ["cam-0"])
    assert Rollouts(database).list() == []
    assert (database.epoch, database.query("SELECT count(*) FROM results")[0][0], len(database.events())) == (7, 50, 2)
    assert [tuple(row) for row in database.query("SELECT * FROM result_totals")] == [("cam-0", "pass", 50, 0, 0)]
    database.close()
    assert old_databases.content(path) == before
    (tmp_path / "new").mkdir()
    Database.open(tmp_path / "new").close()
    assert old_databases.shape(path) == old_databases.shape(tmp_path / "new" / "hub.db")
    assert revision(path) == migrations.HEAD


def test_an_older_release_refuses_the_file_of_this_one(tmp_path: Path) -> None:
    """Schema 2 looked at ``user_version``, and took nothing but a 2."""
    Database.open(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "hub.db")
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(migrations.REVISIONS)
    connection.close()


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    Database.open(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "hub.db")
    connection.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '0099'")
    connection.commit()
    connection.close()
    with pytest.raises(DatabaseError, match="another schema") as caught:
        Database.open(tmp_path)
    assert (caught.value.code, caught.value.actual) == (4001, "0099")
    assert revision(tmp_path / "hub.db") == "0099"


def test_killed_at_any_statement_the_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    old_databases.make_sqlite(tmp_path, 1)
    before = old_databases.content(tmp_path / "hub.db")
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path, whole, ignore=shutil.ignore_patterns("whole"))
    statements = int(child(KILL_AT, str(whole), "0").stdout.split()[0])
    old, new = old_databases.shape(tmp_path / "hub.db"), old_databases.shape(whole / "hub.db")
    assert statements > 15
    # Every sixth: the statements between two of these are of the same transaction.
    folders = {at: tmp_path / f"killed-{at}" for at in {*range(1, statements + 1, 6), statements - 1, statements}}
    for folder in folders.values():
        shutil.copytree(tmp_path, folder, ignore=shutil.ignore_patterns("whole", "killed-*"))
    words = [word for at, folder in folders.items() for word in (str(folder), str(at))]
    assert child(KILL_AT, *words).stdout.splitlines() == [f"ended with {-signal.SIGKILL}"] * len(folders)
    for at, folder in folders.items():
        assert old_databases.shape(folder / "hub.db") in (old, new), at
        assert old_databases.content(folder / "hub.db") == before
        Database.open(folder).close()
        assert old_databases.shape(folder / "hub.db") == new
        assert old_databases.content(folder / "hub.db") == before


def test_processes_that_open_an_old_file_at_once_do_not_meet_in_it(tmp_path: Path) -> None:
    path = old_databases.make_sqlite(tmp_path, 1)
    before = old_databases.content(path)
    opened = child(OPEN_AT_ONCE, str(tmp_path))
    assert opened.stdout == "[0, 0, 0, 0]\n", opened.stderr
    assert old_databases.content(path) == before
    assert revision(path) == migrations.HEAD


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


@pytest.fixture
def url(server: PostgresServer, request: pytest.FixtureRequest) -> str:
    """A database of its own for each test."""
    name = f"t{abs(hash(request.node.name)):x}"
    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return server.url.rsplit("/", 1)[0] + f"/{name}"


def make_old(url: str) -> None:
    engine = engine_for(url)
    with engine.begin() as connection:
        for statement in old_databases.POSTGRES:
            connection.exec_driver_sql(statement)
        for table, rows in old_databases.POSTGRES_ROWS.items():
            marks = ", ".join(["%s"] * len(rows[0]))
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({marks})", rows)
    engine.dispose()


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """In the first release's columns, and past the hub's own code, which would bring the tables up to date."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = {
            table: sorted(tuple(row)[: len(rows[0])] for row in connection.exec_driver_sql(f"SELECT * FROM {table}"))
            for table, rows in old_databases.POSTGRES_ROWS.items()
        }
    engine.dispose()
    return found


def tables_of(url: str) -> set[str]:
    engine = sa.create_engine(url)
    found = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return found


OLD_TABLES = {"results", "quarantine", "watermarks"}
COUNTS = {"result_hours", "defect_hours", "result_totals"}
INTERACTIONS = {"interactions", "interaction_quarantine", "interaction_watermarks"}
NEW_TABLES = {*OLD_TABLES, *COUNTS, *INTERACTIONS, "frames", "reviews", migrations.VERSION_TABLE}


def test_postgres_of_the_first_release_is_brought_up_to_date(url: str) -> None:
    make_old(url)
    before = rows_of(url)
    assert len(list(select(url, "SELECT * FROM results", {}))) == 50
    assert tables_of(url) == NEW_TABLES
    assert rows_of(url) == before
    sink = PostgresSink(url)
    more = Results(epoch="e", rows=(ResultRow(seq=52, part_id="next", verdict="pass"),))
    acks, events = sink.write([read_batch("cam-0", encode(more))])
    sink.close()
    assert (acks["cam-0"].seq, events) == (52, [])
    assert list(select(url, "SELECT * FROM result_totals", {})) == [("cam-0", "pass", 51, 0, 0)]
    assert [row[5] for row in select(url, "SELECT * FROM result_hours", {})] == [50, 1]


def _to_0016(engine: sa.Engine) -> None:
    """Makes the database of the release before, with a challenge part, and a part of two cameras."""
    box, view = '["{}", 0.9, 1, 2, 3, 4]', '{{"source": "{}", "verdict": "reject", "detections": [{}], "readings": []}}'
    dent, burr = box.format("dent"), box.format("burr")
    views = f"[{view.format('top', dent)}, {view.format('left', burr)}]"
    with engine.begin() as connection:
        command.upgrade(migrations._config(connection), "0016")
        insert = sa.text(
            "INSERT INTO results (device, epoch, seq, part_id, source, sequence, captured_at_ns, verdict, detections, "
            "bundle, bundle_sha256, requested_device, used_device, latency_ms, width, height, error, received_at_ns, "
            "views) VALUES ('c', 'e', :seq, :part, 'cam', :seq, 5, 'reject', :found, 'm@1', '', '', '', 1, 8, 8, '', "
            "6, :views)"
        )
        for seq, part, seen in ((1, "challenge:bad", "[]"), (2, "p", "[]"), (3, "q", views)):
            connection.execute(insert, {"seq": seq, "part": part, "found": f"[{dent}]", "views": seen})
    engine.dispose()


COUNTED = ([(2,)], [("burr", 1), ("dent", 2)])
"""Results and defect types of `_to_0016` by hours, as this release counts them."""


def test_counts_of_an_older_file_are_as_the_device_counts(tmp_path: Path) -> None:
    _to_0016(sa.create_engine(f"sqlite:///{tmp_path / 'hub.db'}"))
    database = Database.open(tmp_path)
    counted = [
        [tuple(row) for row in database.query(text)]
        for text in ("SELECT results FROM result_hours", "SELECT type, results FROM defect_hours ORDER BY type")
    ]
    assert tuple(counted) == COUNTED
    assert [tuple(row) for row in database.query("SELECT count(*) FROM results")] == [(3,)]
    database.close()


def test_counts_of_an_older_postgres_are_as_the_device_counts(url: str) -> None:
    _to_0016(sa.create_engine(url))
    hours = list(select(url, "SELECT results FROM result_hours", {}))
    types = list(select(url, "SELECT type, results FROM defect_hours ORDER BY type", {}))
    assert ([tuple(row) for row in hours], [tuple(row) for row in types]) == COUNTED


def expected_tables() -> sa.MetaData:
    metadata = sa.MetaData()
    key = ("device", "epoch", "seq")
    kinds = {int: sa.BigInteger, float: sa.Double, str: sa.Text}
    sa.Table(
        "results",
        metadata,
        *(
            sa.Column(name, kinds[COLUMN_TYPES[name]], primary_key=name in key, nullable=False)
            for name in RESULT_COLUMNS
        ),
        sa.Index("results_by_part", "part_id"),
        sa.Index("results_by_time", "captured_at_ns"),
        sa.Index("results_by_device", "device", "captured_at_ns"),
        sa.Index("results_not_passed", "captured_at_ns", postgresql_where=sa.text("verdict <> 'pass'")),
    )
    text, number = sa.Text, sa.BigInteger
    _add_table(metadata, "quarantine", raw=sa.LargeBinary, reason=text, received_at_ns=number)
    _add_table(metadata, "watermarks", keys=key[:2], seq=number, at_ns=number)
    shown = _add_table(
        metadata,
        "interactions",
        user_id=text,
        item_id=text,
        at_ns=number,
        label=number,
        answer=number,
        bundle=text,
        received_at_ns=number,
    )
    shown.append_column(sa.Column("propensity", sa.Double))
    chosen = sa.text("label = 1")
    sa.Index("interactions_chosen", shown.c.device, shown.c.epoch, shown.c.answer, postgresql_where=chosen)
    sa.Index("interactions_by_time", shown.c.at_ns)
    _add_table(metadata, "interaction_quarantine", raw=sa.LargeBinary, reason=text, received_at_ns=number)
    _add_table(metadata, "interaction_watermarks", keys=key[:2], seq=number, at_ns=number)
    frames = _add_table(metadata, "frames", sha256=text, size=number, received_at_ns=number)
    sa.Index("frames_by_content", frames.c.sha256)
    sa.Index("frames_by_time", frames.c.received_at_ns)
    _add_table(
        metadata,
        "reviews",
        wrong=number,
        note=text,
        marked_by=text,
        marked_at_ns=number,
        boxes=text,
        corrected_by=text,
        corrected_at_ns=number,
    )
    hours = ("hour", "device", "bundle", "recipe")
    _add_table(metadata, "result_hours", keys=(*hours, "verdict"), results=number)
    _add_table(metadata, "defect_hours", keys=(*hours, "type"), results=number)
    _add_table(
        metadata, "result_totals", keys=("device", "verdict"), results=number, fallbacks=number, cache_hits=number
    )
    return metadata


def _add_table(
    metadata: sa.MetaData, name: str, keys: Sequence[str] = ("device", "epoch", "seq"), **columns: type[Any]
) -> sa.Table:
    numbers = ("seq", "hour")
    key_columns: list[sa.Column[Any]] = [
        sa.Column(key, sa.BigInteger if key in numbers else sa.Text, primary_key=True, autoincrement=False)
        for key in keys
    ]
    others: list[sa.Column[Any]] = [sa.Column(each, kind, nullable=False) for each, kind in columns.items()]
    return sa.Table(name, metadata, *key_columns, *others)


def test_what_the_migrations_make_in_postgres_is_what_the_code_reads(url: str) -> None:
    engine = engine_for(url)
    with engine.begin() as connection:
        prepare(connection)
        prepare(connection)
        ours = MigrationContext.configure(connection, opts={"version_table": migrations.VERSION_TABLE})
        assert compare_metadata(ours, expected_tables()) == []
    engine.dispose()


def test_postgres_of_a_newer_release_is_refused(url: str) -> None:
    engine = engine_for(url)
    with engine.begin() as connection:
        prepare(connection)
        connection.exec_driver_sql(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '0099'")
    engine.dispose()
    sink = PostgresSink(url)
    with pytest.raises(DatabaseError, match="another schema"):
        sink.write([read_batch("cam-0", encode(Results(epoch="e", rows=())))])
    sink.close()
    with pytest.raises(DatabaseError, match="another schema"):
        list(select(url, "SELECT 1", {}))


def test_killed_half_way_postgres_has_the_old_tables(url: str) -> None:
    make_old(url)
    before = rows_of(url)
    command = [sys.executable, "-c", KILL_AT_POSTGRES, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as migrated:
        assert migrated.stdin and migrated.stdout
        for at in (3, 8, 10):
            migrated.stdin.write(f"{at}\n")
            assert migrated.stdout.readline() == f"ended with {-signal.SIGKILL}\n"
            assert tables_of(url) == OLD_TABLES
            assert rows_of(url) == before
        migrated.stdin.write("0\n")
        assert int(migrated.stdout.readline()) > 10
        migrated.stdin.close()
    assert tables_of(url) == NEW_TABLES
    assert rows_of(url) == before
