"""Results in PostgreSQL: the same tables and the same answers as in SQLite, for plants that have a server already.

Devices, wishes, rollouts and the timeline stay in ``hub.db``. Results are committed here first; where the hub is killed
before ``hub.db`` is, a device sends again what was not acknowledged, and the primary key makes that harmless.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from lineside_hub.database import Event
from lineside_hub.results import COLUMNS, Bad, Batch, Key, Sink, Values, quarantined
from lineside_link.messages import ResultRow, ResultsAck
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
_ARRAYS = {sa.BigInteger: "bigint[]", sa.Double: "double precision[]", sa.Text: "text[]"}

_KEY = ("device", "epoch", "seq")

METADATA = sa.MetaData()

RESULTS = sa.Table(
    "results",
    METADATA,
    *(sa.Column(name, _KINDS.get(name, sa.Text), primary_key=name in _KEY, nullable=False) for name in COLUMNS),
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

_INSERT = sa.text(
    # One statement a group, a column an array: a tenth of the time of a statement a row.
    f"INSERT INTO results ({', '.join(COLUMNS)}) SELECT * FROM unnest("
    + ", ".join(f"CAST(:{name} AS {_ARRAYS[_KINDS.get(name, sa.Text)]})" for name in COLUMNS)
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
    return sa.create_engine(url, pool_pre_ping=True, pool_size=1, max_overflow=1)


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Turns SQLAlchemy's errors into ours; the text is the server's, without the parameters."""
    try:
        yield
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).splitlines()[0]
        action = "Check the server and results.url in hub.toml; devices keep their results until it is back."
        raise DatabaseError(f"PostgreSQL: {said}", action=action) from error


class PostgresSink(Sink):
    """Writes into PostgreSQL, in a transaction of its own.

    Args:
        url: ``postgresql+psycopg://…``. The tables are made with the first write.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._engine = engine_for(url)
        self._ready = False

    def write(self, batches: Sequence[Batch]) -> tuple[dict[str, ResultsAck], list[Event]]:
        """As `Sink.write`; committed when it returns."""
        if not batches:
            return {}, []
        try:
            with mapped_errors(), self._engine.begin() as self._connection:
                if not self._ready:
                    METADATA.create_all(self._connection)
                    self._ready = True
                return self._store([_without_nul(batch) for batch in batches], time.time_ns())
        except DatabaseError:
            self.forget()
            raise

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def _insert(self, batches: list[list[Values]], events: list[Event]) -> None:
        rows = [row for batch in batches for row in batch]
        if not rows:
            return
        columns = dict(zip(COLUMNS, (list(column) for column in zip(*rows, strict=True)), strict=True))
        new = self._connection.execute(_INSERT, columns).rowcount
        if new == len(rows):
            return
        self.repeats += len(rows) - new
        keys = list(dict.fromkeys(row[:3] for row in rows))
        content = sa.select(RESULTS.c.part_id, RESULTS.c.captured_at_ns, RESULTS.c.verdict)
        there = []
        for device, epoch, seq in keys:
            where = (RESULTS.c.device == device) & (RESULTS.c.epoch == epoch) & (RESULTS.c.seq == seq)
            there.append(((device, epoch), seq, tuple(self._connection.execute(content.where(where)).one())))
        events += self._compare(there, rows)

    def _set_aside(self, rows: list[Bad], events: list[Event]) -> None:
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
            if not sa.inspect(connection).has_table(WATERMARKS.name):
                return {}
            newest = sa.select(WATERMARKS).distinct(WATERMARKS.c.device)
            rows = connection.execute(newest.order_by(WATERMARKS.c.device, WATERMARKS.c.at_ns.desc()))
            return {row.device: ResultsAck(epoch=row.epoch, seq=row.seq) for row in rows}
    finally:
        engine.dispose()


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
        with mapped_errors(), engine.connect() as connection:
            METADATA.create_all(connection)
            streaming = connection.execution_options(yield_per=10_000)
            yield from (tuple(row) for row in streaming.execute(sa.text(text), parameters))
    finally:
        engine.dispose()


def _is(table: sa.Table, key: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.device == key[0], table.c.epoch == key[1]


def _without_nul(batch: Batch) -> Batch:
    """PostgreSQL's text holds no NUL: such a row would be refused for ever, and goes into quarantine."""
    if not any(_has_nul(row) for row in batch.rows):
        return batch
    bad = [
        (row.seq, msgspec.json.encode(row), "a text with NUL, which PostgreSQL can't hold")
        for row in batch.rows
        if _has_nul(row)
    ]
    kept = [row for row in batch.rows if not _has_nul(row)]
    return Batch(batch.device, batch.epoch, kept, [*batch.unreadable, *bad])


def _has_nul(row: ResultRow) -> bool:
    texts = row.part_id, row.source, row.bundle, row.bundle_sha256, row.requested_device, row.used_device, row.error
    return any("\0" in text for text in texts)
