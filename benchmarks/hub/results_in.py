"""Results a second through the hub's writer, from the payload to the acknowledgement, into SQLite and PostgreSQL.

Baseline: ``executemany`` of the same rows, ready as tuples, into the same tables of the same database with the same
indexes, committed after as many rows; nothing is read from JSON, nothing is compared, nobody is answered. PostgreSQL's
baseline is psycopg's ``executemany`` in its pipeline. Rounds of each are interleaved, each on empty tables.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from benchmarks.smoke import scaled
from lineside_hub.config import ResultsConfig
from lineside_hub.results.database import Database
from lineside_hub.results.inbox import GROUP_MAX, Inbox
from lineside_link.messages import ResultRow, Results, ResultsAck, encode
from lineside_link.result_table import RESULT_COLUMNS
from tests.peers.postgres import PostgresServer

DEVICES, BATCH_ROWS, ROWS = scaled((100, 50, 100_000), smoke=(4, 50, 400))
COMMIT_ROWS = GROUP_MAX * BATCH_ROWS
ROUNDS = scaled(5, smoke=1)

Payload = tuple[str, bytes]


def run() -> dict[str, Any]:
    """Measures rows a second."""
    payloads, rows = _prepare()
    figures: dict[str, Any] = {
        "baseline": "executemany of the same rows into the same tables, same commits",
        "rows": ROWS,
        "devices": DEVICES,
        "rows_a_message": BATCH_ROWS,
        "rows_a_commit": COMMIT_ROWS,
    }
    figures["sqlite"] = _compare(lambda: _ours(payloads, ""), lambda: _bare_sqlite(rows))
    with postgres_server() as (url, conninfo):
        figures["postgresql"] = _compare(
            lambda: _ours(payloads, url),
            lambda: _bare_postgres(rows, conninfo),
            lambda: _empty(conninfo),
        )
    return figures


def _prepare() -> tuple[list[Payload], list[tuple[Any, ...]]]:
    """One row in twenty has two detections; that is a line in trouble."""
    payloads: list[Payload] = []
    rows: list[tuple[Any, ...]] = []
    found = (("scratch", 0.91, 10.0, 20.0, 30.5, 40.5), ("inclusion", 0.55, 1.0, 2.0, 3.0, 4.0))
    for start in range(1, ROWS // DEVICES + 1, BATCH_ROWS):
        for number in range(DEVICES):
            device = f"cam-{number:03d}"
            batch = []
            for seq in range(start, start + BATCH_ROWS):
                bad = seq % 20 == 0
                batch.append(
                    ResultRow(
                        seq=seq,
                        part_id=f"part-{number:03d}-{seq:07d}",
                        source="strip",
                        sequence=seq,
                        captured_at_ns=1_700_000_000_000_000_000 + seq * 50_000_000 + number,
                        verdict="reject" if bad else "pass",
                        detections=found if bad else (),
                        bundle="surface-12@1.0.0",
                        bundle_sha256="a" * 64,
                        requested_device="cpu",
                        used_device="ort/cpu:0",
                        latency_ms=4.5,
                        width=640,
                        height=480,
                    )
                )
            payloads.append((device, encode(Results(epoch="e1", rows=tuple(batch)))))
            rows += [tuple(_value(row, name, device) for name in RESULT_COLUMNS) for row in batch]
    return payloads, rows


def _value(row: ResultRow, column: str, device: str) -> object:
    """Returns the value of a row in a column."""
    beside = {"device": device, "epoch": "e1", "received_at_ns": 1}
    value = beside[column] if column in beside else getattr(row, column)
    return msgspec.json.encode(value).decode() if isinstance(value, tuple) else value


def _compare(
    ours: Callable[[], float], bare: Callable[[], float], before: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(ROUNDS + 1):
        for name, measure in (("ours", ours), ("bare", bare)):
            before()
            elapsed = measure()
            if number:  # the first round warms up
                times[name].append(elapsed)
    ratios = [bare / ours for ours, bare in zip(times["ours"], times["bare"], strict=True)]
    return {
        "rows_s": round(ROWS / statistics.median(times["ours"])),
        "bare_rows_s": round(ROWS / statistics.median(times["bare"])),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _ours(payloads: list[Payload], url: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        Database.open(Path(folder)).close()
        acknowledged: dict[str, int] = {}
        done = threading.Event()

        def acknowledge(_stream: str, device: str, ack: ResultsAck) -> None:
            acknowledged[device] = ack.seq
            if sum(acknowledged.values()) == ROWS:
                done.set()

        inbox = Inbox(Path(folder), acknowledge, ResultsConfig(url))
        inbox.start()
        began = time.perf_counter()
        for device, payload in payloads:
            while not inbox.offer("results", device, payload):
                time.sleep(0.001)
        done.wait(120)
        elapsed = time.perf_counter() - began
        inbox.close()
        if sum(acknowledged.values()) != ROWS:
            raise SystemExit(f"{sum(acknowledged.values())} of {ROWS} rows acknowledged")
        return elapsed


def _bare_sqlite(rows: list[tuple[Any, ...]]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(Path(folder))
        insert = f"INSERT INTO results VALUES ({', '.join('?' for _ in RESULT_COLUMNS)})"
        began = time.perf_counter()
        for start in range(0, len(rows), COMMIT_ROWS):
            with database.transaction() as connection:
                connection.executemany(insert, rows[start : start + COMMIT_ROWS])
        elapsed = time.perf_counter() - began
        database.close()
        return elapsed


def _bare_postgres(rows: list[tuple[Any, ...]], conninfo: str) -> float:
    insert = f"INSERT INTO results ({', '.join(RESULT_COLUMNS)}) VALUES ({', '.join('%s' for _ in RESULT_COLUMNS)})"
    with psycopg.connect(conninfo) as connection:
        began = time.perf_counter()
        for start in range(0, len(rows), COMMIT_ROWS):
            with connection.cursor() as cursor:
                cursor.executemany(insert, rows[start : start + COMMIT_ROWS])
            connection.commit()
        return time.perf_counter() - began


def _empty(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        for table in ("results", "quarantine", "watermarks"):
            connection.execute(f"TRUNCATE {table}")


@contextmanager
def postgres_server() -> Iterator[tuple[str, str]]:
    """Debian's server with the tables of results; yields its address for the hub, and for psycopg."""
    server = PostgresServer()
    server.start()
    try:
        _make_tables(server.url)
        yield server.url, server.url.replace("+psycopg", "")
    finally:
        server.stop()


def _make_tables(url: str) -> None:
    from lineside_hub.results.postgres import engine_for, prepare

    engine = engine_for(url)
    with engine.begin() as connection:
        prepare(connection)
    engine.dispose()
