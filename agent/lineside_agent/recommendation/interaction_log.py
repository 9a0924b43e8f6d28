"""Interactions of a device: what was shown with which propensity, and what was chosen; in SQLite, durable.

A row of ``shown`` is one recommended item of one answer; ``chosen`` names the answer that it followed, 0 for none.
"""

from __future__ import annotations

import contextlib
import csv
import io
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lineside_agent.storage.record_files.database import connect
from lineside_models.recommendation import Recommendation
from lineside_runtime.errors import DatabaseError, InputNotFoundError, RequestError

NAME = "interactions.db"

COLUMNS = ("user", "item", "time", "label", "attributes", "propensity", "bundle", "answer")
"""Of the export; ``lineside train recommender`` reads the first five."""

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, at_ns INTEGER NOT NULL,
    bundle TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS shown (answer INTEGER NOT NULL, item TEXT NOT NULL, propensity REAL NOT NULL);
CREATE TABLE IF NOT EXISTS chosen (id INTEGER PRIMARY KEY AUTOINCREMENT, answer INTEGER NOT NULL, user TEXT NOT NULL,
    item TEXT NOT NULL, at_ns INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS chosen_user ON chosen (user, id);
CREATE INDEX IF NOT EXISTS shown_answer ON shown (answer);
"""


class InteractionLog:
    """The interactions of one device.

    Args:
        folder: The agent's state folder.
        answers_max: Answers that are kept; the oldest go first, with what was shown in them. As many choices are kept.
    """

    def __init__(self, folder: Path, *, answers_max: int) -> None:
        self._answers_max = answers_max
        self._lock = threading.Lock()
        with _mapped(folder / NAME):
            self._connection = connect(folder / NAME, one_thread=False)
            self._connection.executescript(_TABLES)
        self._path = folder / NAME

    def history(self, user: str, limit: int) -> list[str]:
        """Returns the last items that a user chose here, oldest first."""
        with self._lock, _mapped(self._path):
            rows = self._connection.execute(
                "SELECT item FROM chosen WHERE user = ? ORDER BY id DESC LIMIT ?", (user, limit)
            ).fetchall()
        return [item for (item,) in reversed(rows)]

    def shown(self, user: str, bundle: str, items: Sequence[Recommendation]) -> int:
        """Records an answer, and returns its number."""
        with self._transaction() as connection:
            answer = connection.execute(
                "INSERT INTO answers (user, at_ns, bundle) VALUES (?, ?, ?)", (user, time.time_ns(), bundle)
            ).lastrowid
            connection.executemany(
                "INSERT INTO shown VALUES (?, ?, ?)", [(answer, one.item, one.propensity) for one in items]
            )
            oldest = int(answer or 0) - self._answers_max
            connection.execute("DELETE FROM shown WHERE answer <= ?", (oldest,))
            connection.execute("DELETE FROM answers WHERE id <= ?", (oldest,))
        return int(answer or 0)

    def chose(self, user: str, item: str, answer: int) -> None:
        """Records a choice.

        Args:
            user: Who chose.
            item: What was chosen.
            answer: Number of the answer that it followed; 0 for none.

        Raises:
            RequestError: There is no such answer of this user.
        """
        with self._transaction() as connection:
            known = connection.execute("SELECT user FROM answers WHERE id = ?", (answer,)).fetchone()
            if answer and known != (user,):
                raise RequestError(
                    f"no answer {answer} of user {user[:80]!r}",
                    expected="the id of an answer to this user, or 0",
                    action="Send the id that came with the recommendations.",
                )
            row = connection.execute(
                "INSERT INTO chosen (answer, user, item, at_ns) VALUES (?, ?, ?, ?)",
                (answer, user, item, time.time_ns()),
            ).lastrowid
            connection.execute("DELETE FROM chosen WHERE id <= ?", (int(row or 0) - self._answers_max,))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _mapped(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Closes the database."""
        self._connection.close()


def export(folder: Path, attributes: Mapping[str, str] | None = None) -> str:
    """Returns the interactions of a device as CSV, oldest first; also while the agent runs.

    What was shown and not chosen has label 0, what was chosen 1.

    Args:
        folder: The agent's state folder.
        attributes: Of items, joined by a vertical bar.

    Raises:
        InputNotFoundError: There are none.
        DatabaseError: They can't be read.
    """
    path = folder / NAME
    if not path.exists():
        raise InputNotFoundError(
            f"{folder} holds no interactions", action="Give agent.toml a [recommend] table, and ask for some."
        )
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    with _mapped(path), contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for user, item, at_ns, label, propensity, bundle, answer in connection.execute(_ROWS):
            about = (attributes or {}).get(item, "")
            writer.writerow((user, item, at_ns / 1e9, label, about, propensity, bundle, answer))
    return text.getvalue()


_ROWS = """
SELECT answers.user, shown.item, answers.at_ns AS at_ns, 0, shown.propensity, answers.bundle, answers.id
FROM shown JOIN answers ON answers.id = shown.answer
WHERE NOT EXISTS (SELECT 1 FROM chosen WHERE chosen.answer = shown.answer AND chosen.item = shown.item)
UNION ALL
SELECT chosen.user, chosen.item, chosen.at_ns, 1, shown.propensity, coalesce(answers.bundle, ''), chosen.answer
FROM chosen LEFT JOIN answers ON answers.id = chosen.answer
LEFT JOIN shown ON shown.answer = chosen.answer AND shown.item = chosen.item
ORDER BY at_ns
"""


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(f"{path}: {error}", action="Look at the disk; the records are in another file.") from error
