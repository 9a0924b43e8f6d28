"""Interactions of a device: what was shown with which propensity, and what was chosen; in SQLite, durable.

A row is one item: shown (label 0) in an answer, or chosen (label 1) after one; answer 0 is none. ``seq`` is contiguous
from 1 within the database's random ``epoch``, and assigned inside the transaction. What is above the hub's watermark is
sent by `lineside_agent.storage.outbox.Outbox`; the oldest rows are deleted beyond the limit, sent or not.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lineside_agent.storage.record_files.database import connect
from lineside_link.interaction_table import EXPORT_TYPES, INTERACTION_ROW_COLUMNS
from lineside_link.messages import InteractionRow
from lineside_link.table_export import TableRow, export_table
from lineside_models.recommendation import Recommendation
from lineside_runtime.errors import DatabaseError, InputNotFoundError, RequestError

NAME = "interactions.db"

COLUMNS = {name: kind for name, kind in EXPORT_TYPES.items() if name != "device"}
"""Of the export; ``lineside train recommender`` reads the first five."""

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, at_ns INTEGER NOT NULL,
    bundle TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS interactions (seq INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL,
    item_id TEXT NOT NULL, at_ns INTEGER NOT NULL, label INTEGER NOT NULL, answer INTEGER NOT NULL, propensity REAL,
    bundle TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS interactions_shown ON interactions (answer) WHERE label = 0;
CREATE INDEX IF NOT EXISTS interactions_chosen ON interactions (answer, item_id) WHERE label = 1;
CREATE INDEX IF NOT EXISTS interactions_history ON interactions (user_id, seq) WHERE label = 1;
CREATE INDEX IF NOT EXISTS interactions_oldest ON interactions (label) WHERE label = 1;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""

_INSERT = (
    "INSERT INTO interactions (user_id, item_id, at_ns, label, answer, propensity, bundle) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


class InteractionLog:
    """The interactions of one device.

    Args:
        answers_max: Answers that are kept; the oldest go first, with what was shown in them. As many choices are kept.

    Attributes:
        lost: Rows that went beyond the limit since the start before the hub had them.
    """

    def __init__(self, folder: Path, *, answers_max: int) -> None:
        self.lost = 0
        self._last_seq: int = 0
        self._acked: int = 0
        self._answers_max = answers_max
        self._changed = threading.Condition(threading.RLock())
        self._commits = 0
        self._path = folder / NAME
        with _mapped(self._path):
            self._connection = connect(self._path, one_thread=False)
            self._prepare()
            (last,) = self._connection.execute(
                "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'interactions'), 0)"
            ).fetchone()
            (self._choices,) = self._connection.execute("SELECT count(*) FROM interactions WHERE label = 1").fetchone()
            known = dict(self._connection.execute("SELECT key, value FROM meta").fetchall())
        self.epoch: str = known["epoch"]
        self._last_seq = int(last)
        self._acked = min(int(known["acked"]), self._last_seq)

    def _prepare(self) -> None:
        """Makes the tables where they are missing, in one transaction."""
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('epoch', ?), ('acked', 0)", (secrets.token_hex(8),))

    def history(self, user: str, limit: int) -> list[str]:
        """Returns the last items that a user chose here, oldest first."""
        with self._changed, _mapped(self._path):
            rows = self._connection.execute(
                "SELECT item_id FROM interactions WHERE user_id = ? AND label = 1 ORDER BY seq DESC LIMIT ?",
                (user, limit),
            ).fetchall()
        return [item for (item,) in reversed(rows)]

    def shown(self, user: str, bundle: str, items: Sequence[Recommendation]) -> int:
        """Records an answer, and returns its number."""
        at_ns = time.time_ns()
        with self._transaction() as connection:
            answer = connection.execute(
                "INSERT INTO answers (user, at_ns, bundle) VALUES (?, ?, ?)", (user, at_ns, bundle)
            ).lastrowid
            connection.executemany(
                _INSERT, [(user, one.item, at_ns, 0, answer, one.propensity, bundle) for one in items]
            )
            oldest = int(answer or 0) - self._answers_max
            self._delete("answer BETWEEN 1 AND ? AND label = 0", oldest)
            connection.execute("DELETE FROM answers WHERE id <= ?", (oldest,))
        return int(answer or 0)

    def chose(self, user: str, item: str, answer: int) -> None:
        """Records a choice.

        Args:
            answer: Number of the answer that it followed; 0 for none.

        Raises:
            RequestError: There is no such answer of this user.
        """
        with self._transaction() as connection:
            known = connection.execute("SELECT user, bundle FROM answers WHERE id = ?", (answer,)).fetchone()
            if answer and (known is None or known[0] != user):
                raise RequestError(
                    f"no answer {answer} of user {user[:80]!r}",
                    expected="the id of an answer to this user, or 0",
                    action="Send the id that came with the recommendations.",
                )
            shown = connection.execute(
                "SELECT propensity FROM interactions WHERE answer = ? AND label = 0 AND item_id = ? AND ? > 0",
                (answer, item, answer),
            ).fetchone()
            connection.execute(
                _INSERT,
                (user, item, time.time_ns(), 1, answer, shown[0] if shown else None, known[1] if known else ""),
            )
            excess = self._choices + 1 - self._answers_max
            if excess > 0:
                self._delete("seq IN (SELECT seq FROM interactions WHERE label = 1 ORDER BY seq LIMIT ?)", excess)
            self._choices = min(self._choices + 1, self._answers_max)

    def _delete(self, which: str, limit: int) -> None:
        """Deletes rows beyond the limit, and counts those that the hub does not have."""
        where = f"FROM interactions WHERE {which}"
        (unsent,) = self._connection.execute(f"SELECT count(*) {where} AND seq > ?", (limit, self._acked)).fetchone()
        self._connection.execute(f"DELETE {where}", (limit,))
        self.lost += unsent

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._changed, _mapped(self._path):
            lost, choices = self.lost, self._choices
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                # Here and not for each answer of the hub: a watermark that is too low only costs a repeat.
                self._connection.execute("UPDATE meta SET value = ? WHERE key = 'acked'", (self._acked,))
                (last,) = self._connection.execute(
                    "SELECT seq FROM sqlite_sequence WHERE name = 'interactions'"
                ).fetchone() or (0,)
            except BaseException:
                self._connection.execute("ROLLBACK")
                self.lost, self._choices = lost, choices
                raise
            self._connection.execute("COMMIT")
            self._last_seq = last
            self._commits += 1
            self._changed.notify_all()

    # For the outbox; see `lineside_agent.storage.outbox.OutboxStore`.

    @property
    def watermark(self) -> int:
        """The highest ``seq`` that the hub has confirmed."""
        with self._changed:
            return self._acked

    @property
    def last_seq(self) -> int:
        """The highest ``seq`` on disk."""
        with self._changed:
            return self._last_seq

    @property
    def pending(self) -> int:
        """Rows that the hub has not confirmed; those that went beyond the limit are not counted exactly."""
        with self._changed:
            return self._last_seq - self._acked

    def rows(self, after: int, limit: int) -> list[InteractionRow]:
        """Reads at most ``limit`` rows above ``after``, in order of ``seq``."""
        columns = ", ".join(INTERACTION_ROW_COLUMNS)
        with self._changed, _mapped(self._path):
            found = self._connection.execute(
                f"SELECT {columns} FROM interactions WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
            ).fetchall()
        return [InteractionRow(**dict(zip(INTERACTION_ROW_COLUMNS, row, strict=True))) for row in found]

    def acknowledge(self, epoch: str, seq: int) -> None:
        """Takes the hub's watermark.

        Args:
            epoch: Of the database; that of another database is ignored.
            seq: May be lower than before, after the hub was restored from a backup.
        """
        with self._changed:
            if epoch == self.epoch and 0 <= seq <= self._last_seq:
                self._acked = seq
                self._commits += 1
                self._changed.notify_all()

    def wait_change(self, seen: int, timeout_s: float) -> int:
        """Waits for a change after ``seen`` (0 at first); returns the value for the next call."""
        with self._changed:
            self._changed.wait_for(lambda: self._commits > seen, timeout_s)
            return self._commits

    def close(self) -> None:
        """Stores the hub's watermark and closes the database."""
        with self._changed:
            try:
                with self._transaction():
                    pass
            finally:
                self._connection.close()


def export(folder: Path, path: Path, attributes: Mapping[str, str] | None = None) -> int:
    """Writes the interactions of a device into a file, oldest first, also while the agent runs; returns how many.

    What was shown and not chosen has label 0, what was chosen 1.

    Args:
        path: Ends with ``.csv``, ``.parquet`` or ``.jsonl``.
        attributes: Of items, joined by a vertical bar.

    Raises:
        InputNotFoundError: There are none.
        DatabaseError: They can't be read.
        ConfigError: The name of the file ends otherwise.
    """
    place = folder / NAME
    if not place.exists():
        raise InputNotFoundError(
            f"{folder} holds no interactions", action="Give agent.toml a [recommend] table, and ask for some."
        )
    with _mapped(place), contextlib.closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as connection:
        return export_table(_rows(connection, attributes or {}), path, COLUMNS, escape_formulas=False)


def _rows(connection: sqlite3.Connection, attributes: Mapping[str, str]) -> Iterator[TableRow]:
    for user, item, at_ns, label, propensity, bundle, answer in connection.execute(_EXPORTED):
        yield user, item, at_ns / 1e9, label, attributes.get(item, ""), propensity, bundle, answer


_EXPORTED = """
SELECT user_id, item_id, at_ns, label, propensity, bundle, answer FROM interactions i
WHERE label = 1 OR NOT EXISTS (SELECT 1 FROM interactions c
    WHERE c.label = 1 AND c.answer = i.answer AND c.item_id = i.item_id)
ORDER BY at_ns, seq
"""


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(f"{path}: {error}", action="Look at the disk; the records are in another file.") from error
