"""Results in PostgreSQL, with the same tables and answers as in SQLite.

Devices, desired states, rollouts and the timeline stay in ``hub.db``. Results are committed here first; where the hub
is killed before ``hub.db`` is, a device sends again what was not acknowledged, and the primary key makes that harmless.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from lineside_hub import migrations
from lineside_hub.results.database import TimelineEvent
from lineside_hub.results.streams import RESULTS, RowBatch, RowStream
from lineside_hub.results.writer import Sink
from lineside_link.messages import ResultsAck
from lineside_runtime.errors import DatabaseError, MissingExtraError

try:
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as error:
    raise MissingExtraError(
        "results in PostgreSQL need SQLAlchemy and psycopg",
        action="Install the extra: pip install 'lineside[postgres]'.",
    ) from error

_SQL_TYPES: dict[type, str] = {int: "bigint", float: "double precision", str: "text"}

CONNECT_TIMEOUT_S = 5
"""An unreachable server must not block the hub's threads for minutes."""


def engine_for(url: str) -> sa.Engine:
    """Returns an engine that reconnects after a restart of the server.

    Args:
        url: ``postgresql+psycopg://…``.
    """
    return sa.create_engine(
        url, pool_pre_ping=True, pool_size=1, max_overflow=1, connect_args={"connect_timeout": CONNECT_TIMEOUT_S}
    )


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Maps SQLAlchemy's errors to `DatabaseError`, with the server's text and without the parameters."""
    try:
        yield
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).splitlines()[0]
        action = "Check the server and results.url in hub.toml; devices keep their results until it is back."
        raise DatabaseError(f"PostgreSQL: {said}", action=action) from error


def prepare(connection: sa.Connection) -> None:
    """Migrates new or older tables, inside the caller's transaction."""
    if (found := _revision(connection)) is not None and migrations.is_current(found, "the PostgreSQL database"):
        return
    # Locked until the end of the transaction: another process may do the same.
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock(hashtext('{migrations.VERSION_TABLE}'))")
    found = _revision(connection)
    if found is not None:
        if not migrations.is_current(found, "the PostgreSQL database"):
            migrations.upgrade(connection)
        return
    # The first release with PostgreSQL stored no revision.
    migrations.upgrade(connection, unstamped="0001" if _has_table(connection, "results") else None)


def _revision(connection: sa.Connection) -> str | None:
    if not _has_table(connection, migrations.VERSION_TABLE):
        return None
    return str(connection.exec_driver_sql(migrations.READ_REVISION).scalar_one())


def _has_table(connection: sa.Connection, name: str) -> bool:
    return connection.execute(sa.text("SELECT to_regclass(:name)"), {"name": name}).scalar() is not None


class PostgresSink(Sink):
    """Writes into PostgreSQL, in a transaction of its own.

    Args:
        url: ``postgresql+psycopg://…``. The first write creates the tables.
    """

    def __init__(self, url: str, stream: RowStream = RESULTS) -> None:
        super().__init__(stream)
        self._engine = engine_for(url)
        self._insert_rows = _insert_statement(stream)
        self._ready = False

    def _write(self, batches: Sequence[RowBatch]) -> tuple[dict[str, ResultsAck], list[TimelineEvent]]:
        """Has committed when it returns."""
        try:
            with mapped_errors(), self._engine.begin() as self._connection:
                if not self._ready:
                    prepare(self._connection)
                    self._ready = True
                return self._store([_without_nul(batch) for batch in batches], time.time_ns())
        except DatabaseError:
            self.forget()
            raise

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def _insert(self, batches: list[RowBatch], now_ns: int, events: list[TimelineEvent]) -> None:
        if not batches:
            return
        came = sum(len(batch.rows) for batch in batches)
        text = msgspec.json.encode(batches).decode()
        new = self._connection.execute(self._insert_rows, {"batches": text, "now_ns": now_ns}).rowcount
        if new < came:
            self.repeats += came - new
            for batch in batches:
                self._compare(batch, now_ns, events)

    def _execute(self, text: str, parameters: Mapping[str, object]) -> sa.CursorResult[Any]:
        return self._connection.execute(sa.text(text), parameters)

    def _execute_many(self, text: str, rows: Sequence[Mapping[str, object]]) -> None:
        self._connection.execute(sa.text(text), rows)


def _insert_statement(stream: RowStream) -> sa.TextClause:
    """Returns one statement a group, with JSON: a statement a row takes twice the time, an array a column three."""
    names = tuple(stream.row_types)
    return sa.text(
        f"INSERT INTO {stream.name} (device, epoch, {', '.join(names)}, received_at_ns) "
        f"SELECT b.device, b.epoch, {', '.join(f'r.{name}' for name in names)}, :now_ns "
        "FROM json_to_recordset(CAST(:batches AS json)) AS b(device text, epoch text, rows json), "
        f"json_to_recordset(b.rows) AS r({', '.join(f'{name} {_SQL_TYPES[stream.row_types[name]]}' for name in names)})"
        " ON CONFLICT (device, epoch, seq) DO NOTHING"
    )


def acknowledgements(url: str, stream: RowStream = RESULTS) -> dict[str, ResultsAck]:
    """Returns the last acknowledgement of each device."""
    engine = engine_for(url)
    try:
        with mapped_errors(), engine.connect() as connection:
            if not _has_table(connection, stream.watermarks):
                return {}
            newest = (
                f"SELECT DISTINCT ON (device) device, epoch, seq FROM {stream.watermarks} ORDER BY device, at_ns DESC"
            )
            rows = connection.execute(sa.text(newest))
            return {row.device: ResultsAck(epoch=row.epoch, seq=row.seq) for row in rows}
    finally:
        engine.dispose()


class Statements:
    """Runs one statement at a time, each in a transaction of its own."""

    def __init__(self, url: str) -> None:
        self._engine = engine_for(url)
        self._ready = False

    def __call__(self, text: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        """Returns its rows."""
        with mapped_errors(), self._engine.begin() as connection:
            if not self._ready:
                prepare(connection)
                self._ready = True
            result = connection.execute(sa.text(text), parameters)
            return [tuple(row) for row in result] if result.returns_rows else []

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()


def select(url: str, text: str, parameters: dict[str, object]) -> Iterator[Sequence[Any]]:
    """Yields the rows of a query, in batches from a server-side cursor.

    Args:
        text: With named parameters.
    """
    engine = engine_for(url)
    try:
        with mapped_errors(), engine.begin() as connection:
            prepare(connection)
            streaming = connection.execution_options(yield_per=10_000)
            yield from (tuple(row) for row in streaming.execute(sa.text(text), parameters))
    finally:
        engine.dispose()


def _without_nul(batch: RowBatch) -> RowBatch:
    """Moves rows with NUL, which PostgreSQL's text cannot hold, to quarantine: they would be refused for ever."""
    reason = "a text with NUL, which PostgreSQL can't hold"
    if b"\\u0000" not in msgspec.json.encode(batch.rows):  # also where it is no escape, but seldom
        return batch
    bad = [(row.seq, msgspec.json.encode(row), reason) for row in batch.rows if _has_nul(msgspec.to_builtins(row))]
    refused = {each[0] for each in bad}
    kept = [row for row in batch.rows if row.seq not in refused]
    return msgspec.structs.replace(batch, rows=kept, unreadable=[*batch.unreadable, *bad])


def _has_nul(value: object) -> bool:
    """Whether a text has it anywhere, those of boxes and measured values included."""
    if isinstance(value, dict):
        return any(map(_has_nul, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value
