"""Results in PostgreSQL, with the same tables and answers as in SQLite.

Devices, wishes, rollouts and the timeline stay in ``hub.db``. Results are committed here first; where the hub is killed
before ``hub.db`` is, a device sends again what was not acknowledged, and the primary key makes that harmless.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from lineside_hub import migrations
from lineside_hub.results.database import TimelineEvent
from lineside_hub.results.writer import Bad, Key, ResultBatch, Sink, quarantined
from lineside_link.messages import ResultRow, ResultsAck
from lineside_link.result_table import RESULT_COLUMNS
from lineside_runtime.errors import DatabaseError, MissingExtraError

try:
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as error:
    raise MissingExtraError(
        "results in PostgreSQL need SQLAlchemy and psycopg",
        action="Install the extra: pip install 'lineside[postgres]'.",
    ) from error

_KINDS: dict[str, Any] = {"seq": sa.BigInteger, "sequence": sa.BigInteger, "captured_at_ns": sa.BigInteger}
_KINDS |= {"width": sa.BigInteger, "height": sa.BigInteger, "received_at_ns": sa.BigInteger, "latency_ms": sa.Double}
_SQL_KINDS: dict[Any, str] = {sa.BigInteger: "bigint", sa.Double: "double precision", sa.Text: "text"}

_KEY = ("device", "epoch", "seq")

CONNECT_TIMEOUT_S = 5
"""A server that doesn't answer at all must not hold the hub's threads for minutes."""

METADATA = sa.MetaData()
"""What this release reads and writes. `lineside_hub.migrations` makes the tables; a test holds the two together."""

RESULTS = sa.Table(
    "results",
    METADATA,
    *(sa.Column(name, _KINDS.get(name, sa.Text), primary_key=name in _KEY, nullable=False) for name in RESULT_COLUMNS),
    sa.Index("results_by_part", "part_id"),
    sa.Index("results_by_time", "captured_at_ns"),
)

QUARANTINE = sa.Table(
    "quarantine",
    METADATA,
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("received_at_ns", sa.BigInteger, nullable=False),
)

WATERMARKS = sa.Table(
    "watermarks",
    METADATA,
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("at_ns", sa.BigInteger, nullable=False),
)

FRAMES = sa.Table(
    "frames",
    METADATA,
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("received_at_ns", sa.BigInteger, nullable=False),
    sa.Index("frames_by_content", "sha256"),
    sa.Index("frames_by_time", "received_at_ns"),
)

REVIEWS = sa.Table(
    "reviews",
    METADATA,
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("wrong", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("marked_by", sa.Text, nullable=False),
    sa.Column("marked_at_ns", sa.BigInteger, nullable=False),
    sa.Column("boxes", sa.Text, nullable=False),
    sa.Column("corrected_by", sa.Text, nullable=False),
    sa.Column("corrected_at_ns", sa.BigInteger, nullable=False),
)

_ROW_COLUMNS = tuple(name for name in RESULT_COLUMNS if name in ResultRow.__struct_fields__)

_INSERT = sa.text(
    # One statement a group, which the server reads from JSON: a statement a row costs twice the time, and an array a
    # column three times.
    f"INSERT INTO results (device, epoch, {', '.join(_ROW_COLUMNS)}, received_at_ns) "
    f"SELECT b.device, b.epoch, {', '.join(f'r.{name}' for name in _ROW_COLUMNS)}, :now_ns "
    "FROM json_to_recordset(CAST(:batches AS json)) AS b(device text, epoch text, rows json), "
    "json_to_recordset(b.rows) AS r("
    + ", ".join(f"{name} {_SQL_KINDS[_KINDS.get(name, sa.Text)]}" for name in _ROW_COLUMNS)
    + ") ON CONFLICT (device, epoch, seq) DO NOTHING"
)

_KEEP_MARK = sa.text(
    "INSERT INTO watermarks VALUES (:device, :epoch, :seq, :at_ns) "
    "ON CONFLICT (device, epoch) DO UPDATE SET seq = excluded.seq, at_ns = excluded.at_ns"
)


def engine_for(url: str) -> sa.Engine:
    """Returns an engine that finds a server again that was restarted.

    Args:
        url: ``postgresql+psycopg://…``.
    """
    return sa.create_engine(
        url, pool_pre_ping=True, pool_size=1, max_overflow=1, connect_args={"connect_timeout": CONNECT_TIMEOUT_S}
    )


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Turns SQLAlchemy's errors into ours; the text is the server's, without the parameters."""
    try:
        yield
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).splitlines()[0]
        action = "Check the server and results.url in hub.toml; devices keep their results until it is back."
        raise DatabaseError(f"PostgreSQL: {said}", action=action) from error


def prepare(connection: sa.Connection) -> None:
    """Makes the tables, or brings those of an older release up to date; inside the caller's transaction.

    Raises:
        DatabaseError: A newer release wrote them.
    """
    if (found := _revision(connection)) is not None and migrations.is_current(found, "the PostgreSQL database"):
        return
    # Until the end of the transaction: another hub, or a command beside it, may be about to do the same.
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock(hashtext('{migrations.VERSION_TABLE}'))")
    found = _revision(connection)
    if found is not None:
        if not migrations.is_current(found, "the PostgreSQL database"):
            migrations.upgrade(connection)
        return
    # The first release with PostgreSQL made these tables at once, and wrote no revision down.
    migrations.upgrade(connection, unstamped="0001" if _has_table(connection, RESULTS.name) else None)


def _revision(connection: sa.Connection) -> str | None:
    if not _has_table(connection, migrations.VERSION_TABLE):
        return None
    return str(connection.exec_driver_sql(migrations.READ_REVISION).scalar_one())


def _has_table(connection: sa.Connection, name: str) -> bool:
    return connection.execute(sa.text("SELECT to_regclass(:name)"), {"name": name}).scalar() is not None


class PostgresSink(Sink):
    """Writes into PostgreSQL, in a transaction of its own.

    Args:
        url: ``postgresql+psycopg://…``. The tables are made with the first write.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._engine = engine_for(url)
        self._ready = False

    def write(self, batches: Sequence[ResultBatch]) -> tuple[dict[str, ResultsAck], list[TimelineEvent]]:
        """As `Sink.write`; committed when it returns."""
        if not batches:
            return {}, []
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

    def _insert(self, batches: list[ResultBatch], now_ns: int, events: list[TimelineEvent]) -> None:
        if not batches:
            return
        came = sum(len(batch.rows) for batch in batches)
        text = msgspec.json.encode(batches).decode()
        new = self._connection.execute(_INSERT, {"batches": text, "now_ns": now_ns}).rowcount
        if new < came:
            self.repeats += came - new
            for batch in batches:
                self._compare(batch, self._there(batch), now_ns, events)

    def _there(self, batch: ResultBatch) -> Iterator[tuple[int, tuple[object, ...]]]:
        content = sa.select(RESULTS.c.seq, RESULTS.c.part_id, RESULTS.c.captured_at_ns, RESULTS.c.verdict)
        seqs = [row.seq for row in batch.rows]
        where = (*_is(RESULTS, (batch.device, batch.epoch)), RESULTS.c.seq.in_(seqs))
        for row in self._connection.execute(content.where(*where)):
            yield row.seq, tuple(row)[1:]

    def _set_aside(self, rows: list[Bad], events: list[TimelineEvent]) -> None:
        for bad in rows:
            there = sa.select(sa.literal(1)).where(*_is(RESULTS, bad[:2]), RESULTS.c.seq == bad[2])
            if self._connection.execute(there).first() is not None:
                continue
            names = ("device", "epoch", "seq", "raw", "reason", "received_at_ns")
            insert = sa.text(
                "INSERT INTO quarantine VALUES (:device, :epoch, :seq, :raw, :reason, :received_at_ns) "
                "ON CONFLICT DO NOTHING"
            )
            values = dict(zip(names, bad, strict=True)) | {"reason": bad[4].replace("\0", "\\0")}
            if self._connection.execute(insert, values).rowcount:
                events.append(quarantined(bad))

    def _load_mark(self, key: Key) -> tuple[int | None, int]:
        found = self._connection.execute(sa.select(WATERMARKS.c.seq).where(*_is(WATERMARKS, key))).scalar()
        highest = max(
            int(
                self._connection.execute(
                    sa.select(sa.func.coalesce(sa.func.max(table.c.seq), 0)).where(*_is(table, key))
                ).scalar_one()
            )
            for table in (RESULTS, QUARANTINE)
        )
        return found, highest

    def _above(self, key: Key, seq: int) -> Iterator[int]:
        above = [sa.select(table.c.seq).where(*_is(table, key), table.c.seq > seq) for table in (RESULTS, QUARANTINE)]
        return (row[0] for row in self._connection.execute(sa.union(*above).order_by("seq")))

    def _keep_marks(self, marks: list[tuple[str, str, int, int]]) -> None:
        names = ("device", "epoch", "seq", "at_ns")
        self._connection.execute(_KEEP_MARK, [dict(zip(names, mark, strict=True)) for mark in marks])


def acknowledgements(url: str) -> dict[str, ResultsAck]:
    """Returns what each device was last told that it may forget.

    Raises:
        DatabaseError: The server can't be asked.
    """
    engine = engine_for(url)
    try:
        with mapped_errors(), engine.connect() as connection:
            if not _has_table(connection, WATERMARKS.name):
                return {}
            newest = "SELECT DISTINCT ON (device) device, epoch, seq FROM watermarks ORDER BY device, at_ns DESC"
            rows = connection.execute(sa.text(newest))
            return {row.device: ResultsAck(epoch=row.epoch, seq=row.seq) for row in rows}
    finally:
        engine.dispose()


class Statements:
    """Runs one statement at a time, each in a transaction of its own.

    Args:
        url: ``postgresql+psycopg://…``.
    """

    def __init__(self, url: str) -> None:
        self._engine = engine_for(url)
        self._ready = False

    def __call__(self, text: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        """Returns its rows.

        Args:
            text: With named parameters.
            parameters: By name.

        Raises:
            DatabaseError: The server can't be asked.
        """
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
    """Yields the rows of a query; the server holds the rest.

    Args:
        url: ``postgresql+psycopg://…``.
        text: With named parameters.
        parameters: By name.

    Raises:
        DatabaseError: The server can't be asked.
    """
    engine = engine_for(url)
    try:
        with mapped_errors(), engine.begin() as connection:
            prepare(connection)
            streaming = connection.execution_options(yield_per=10_000)
            yield from (tuple(row) for row in streaming.execute(sa.text(text), parameters))
    finally:
        engine.dispose()


def _is(table: sa.Table, key: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.device == key[0], table.c.epoch == key[1]


def _without_nul(batch: ResultBatch) -> ResultBatch:
    """PostgreSQL's text holds no NUL: such a row would be refused for ever, and goes into quarantine."""
    if not any(_has_nul(row) for row in batch.rows):
        return batch
    bad = [
        (row.seq, msgspec.json.encode(row), "a text with NUL, which PostgreSQL can't hold")
        for row in batch.rows
        if _has_nul(row)
    ]
    kept = [row for row in batch.rows if not _has_nul(row)]
    return msgspec.structs.replace(batch, rows=kept, unreadable=[*batch.unreadable, *bad])


def _has_nul(row: ResultRow) -> bool:
    texts = row.part_id, row.source, row.bundle, row.bundle_sha256, row.error, row.recipe
    used = row.requested_device, row.used_device, row.requested_variant, row.used_variant
    return any("\0" in text for text in (*texts, *used))
