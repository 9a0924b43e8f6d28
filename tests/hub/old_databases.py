"""Databases as earlier releases made them, with a row or more in each table; the statements are those releases' own."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

_SQLITE_1 = (
    'CREATE TABLE "results" ("device" TEXT, "epoch" TEXT, "seq" INTEGER, "part_id" TEXT NOT NULL, "source" TEXT, '
    '"sequence" INTEGER, "captured_at_ns" INTEGER, "verdict" TEXT NOT NULL, "detections" TEXT NOT NULL, "bundle" TEXT, '
    '"bundle_sha256" TEXT, "requested_device" TEXT, "used_device" TEXT, "latency_ms" REAL, "width" INTEGER, '
    '"height" INTEGER, "error" TEXT, "received_at_ns" INTEGER NOT NULL, PRIMARY KEY ("device", "epoch", "seq"))',
    'CREATE TABLE "quarantine" ("device" TEXT, "epoch" TEXT, "seq" INTEGER, "raw" BLOB NOT NULL, '
    '"reason" TEXT NOT NULL, "received_at_ns" INTEGER, PRIMARY KEY ("device", "epoch", "seq"))',
    'CREATE TABLE "watermarks" ("device" TEXT, "epoch" TEXT, "seq" INTEGER NOT NULL, "at_ns" INTEGER, '
    'PRIMARY KEY ("device", "epoch"))',
    'CREATE TABLE "devices" ("device" TEXT PRIMARY KEY, "up" INTEGER, "up_at_ns" INTEGER, "birth" TEXT, '
    '"reported_at_ns" INTEGER, "reported" TEXT)',
    'CREATE TABLE "desired" ("scope" TEXT PRIMARY KEY, "epoch" INTEGER NOT NULL, "gen" INTEGER NOT NULL, '
    '"bundle" TEXT, "rollout" TEXT, "at_ns" INTEGER)',
    'CREATE TABLE "events" ("id" INTEGER PRIMARY KEY, "at_ns" INTEGER NOT NULL, "device" TEXT NOT NULL, '
    '"kind" TEXT NOT NULL, "bundle" TEXT, "code" INTEGER, "detail" TEXT)',
    'CREATE INDEX "idx_events_device_at_ns" ON "events" ("device", "at_ns")',
    'CREATE TABLE "meta" ("key" TEXT PRIMARY KEY, "value" INTEGER NOT NULL)',
    "PRAGMA user_version = 1",
)

_SQLITE_2 = (
    "ALTER TABLE desired ADD COLUMN message TEXT",
    "ALTER TABLE devices ADD COLUMN group_name TEXT NOT NULL DEFAULT ''",
    "CREATE TABLE rollouts (id TEXT PRIMARY KEY, group_name TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,"
    " created_at_ns INTEGER NOT NULL, changed_at_ns INTEGER NOT NULL, value TEXT NOT NULL)",
    "CREATE TABLE assignments (device TEXT PRIMARY KEY, group_name TEXT NOT NULL, at_ns INTEGER NOT NULL)",
    "CREATE INDEX results_by_part ON results (part_id)",
    "CREATE INDEX results_by_time ON results (captured_at_ns)",
    "UPDATE devices SET group_name = 'line-a'",
    "INSERT INTO assignments VALUES ('cam-1', 'line-b', 5)",
    "PRAGMA user_version = 2",
)

BUNDLE = '{"name":"m","version":"1","target":"line-a/m-1.json","sha256":"' + "1" * 64 + '"}'
BIRTH = '{"v":1,"device":"cam-0","up":true,"boot_id":"b","group":"line-a"}'

_COMMON_ROWS: dict[str, list[tuple[Any, ...]]] = {
    "results": [
        ("cam-0", "e", seq, f"part-{seq}", "cam", seq, 10 * seq, "pass", "[]", "m@1", "", "", "", 0.5, 8, 8, "", seq)
        for seq in range(1, 51)
    ],
    "quarantine": [("cam-0", "e", 51, b"\xff", "why", 51)],
    "watermarks": [("cam-0", "e", 51, 51)],
}

_SQLITE_ROWS: dict[str, list[tuple[Any, ...]]] = {
    **_COMMON_ROWS,
    "devices": [("cam-0", 1, 3, BIRTH, 4, None), ("cam-1", 0, 3, BIRTH.replace("cam-0", "cam-1"), None, None)],
    "desired": [("g/line-a", 7, 3, BUNDLE, "push-3", 9)],
    "events": [(1, 3, "cam-0", "up", "", None, "boot b"), (2, 3, "", "pushed", "m@1", None, "g/line-a 3")],
    "meta": [("epoch", 7), ("gen", 3)],
}

POSTGRES = (
    "CREATE TABLE results (device TEXT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL, part_id TEXT NOT NULL, "
    "source TEXT NOT NULL, sequence BIGINT NOT NULL, captured_at_ns BIGINT NOT NULL, verdict TEXT NOT NULL, "
    "detections TEXT NOT NULL, bundle TEXT NOT NULL, bundle_sha256 TEXT NOT NULL, requested_device TEXT NOT NULL, "
    "used_device TEXT NOT NULL, latency_ms DOUBLE PRECISION NOT NULL, width BIGINT NOT NULL, height BIGINT NOT NULL, "
    "error TEXT NOT NULL, received_at_ns BIGINT NOT NULL, PRIMARY KEY (device, epoch, seq))",
    "CREATE INDEX results_by_part ON results (part_id)",
    "CREATE INDEX results_by_time ON results (captured_at_ns)",
    "CREATE TABLE quarantine (device TEXT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL, raw BYTEA NOT NULL, "
    "reason TEXT NOT NULL, received_at_ns BIGINT NOT NULL, PRIMARY KEY (device, epoch, seq))",
    "CREATE TABLE watermarks (device TEXT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL, at_ns BIGINT NOT NULL, "
    "PRIMARY KEY (device, epoch))",
)

POSTGRES_ROWS = _COMMON_ROWS


def make_sqlite(folder: Path, schema: int) -> Path:
    """Makes ``hub.db`` as the release of schema 1 or 2 did."""
    path = folder / "hub.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    for statement in _SQLITE_1:
        connection.execute(statement)
    for table, rows in _SQLITE_ROWS.items():
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    for statement in _SQLITE_2 if schema == 2 else ():
        connection.execute(statement)
    connection.close()
    return path


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that the first schema has, in the first schema's columns."""
    connection = sqlite3.connect(path)
    try:
        return {
            table: sorted(row[: len(rows[0])] for row in connection.execute(f"SELECT * FROM {table}"))
            for table, rows in _SQLITE_ROWS.items()
        }
    finally:
        connection.close()


def shape(path: Path) -> set[tuple[Any, ...]]:
    """Tables, columns and indexes: name, kind of affinity, key."""
    connection = sqlite3.connect(path)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {
            (table, name, kind.replace("DOUBLE", "REAL"), bool(required or key), key)
            for table in tables
            for _, name, kind, required, _, key in connection.execute(f"SELECT * FROM pragma_table_info('{table}')")
        }
        indexes = connection.execute(
            "SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        )
        return columns | set(indexes)
    finally:
        connection.close()
