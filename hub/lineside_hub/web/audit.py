"""The audit log: who changed what, when, from where, with the values before and after.

Each row's digest covers the row and the digest before it, so that a changed or removed row shows (`verify`). Numbers
are never given twice, so that rows missing at the end show too. Whoever can write ``hub.db`` could compute all digests
anew; the head that `verify` returns, kept elsewhere, shows that as well. Each row is also a line of the hub's log.

A request is first noted as pending and becomes a row when its outcome is known; what a kill leaves pending becomes a
row at the next start. So each request that changes something leaves exactly one row.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sqlite3
import time
import uuid
from typing import Any

import msgspec

from lineside_hub.results.database import Database
from lineside_runtime.errors import ConfigError

log = logging.getLogger("lineside.hub.audit")

UNKNOWN_OUTCOME = "the hub ended before the outcome was known"

PAGE_ROWS = 100

_EMPTY_HEAD = "0:"

_HEAD = re.compile(rf"{_EMPTY_HEAD}|[1-9][0-9]*:[0-9a-f]{{64}}")

_FIELDS = ("at_ns", "who", "address", "action", "subject", "before", "after", "error")


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    Attributes:
        at_ns: Unix time.
        who: Name of the account; ``system user NAME`` for a command on the hub's machine.
        address: Of the client; empty for a command.
        before: Values before, as JSON; empty for none.
        after: Values after, as JSON; empty for none.
        error: Why it failed; empty if it did not.
        digest: SHA-256 over the previous row's digest and this row.
    """

    id: int
    at_ns: int
    who: str
    address: str
    action: str
    subject: str
    before: str
    after: str
    error: str
    digest: str


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `verify`.

    Attributes:
        head: Number and digest of the last row, ``number:digest``.
        problems: What is wrong, in order; empty if nothing is.
    """

    rows: int
    head: str
    problems: tuple[str, ...]


def begin(database: Database, *, who: str, address: str, action: str, subject: str) -> str:
    """Notes that a request begins to change something; returns its identifier for `finish`."""
    pending = uuid.uuid4().hex
    with database.transaction() as connection:
        row = (pending, time.time_ns(), who, address, action, subject)
        connection.execute("INSERT INTO audit_pending VALUES (?, ?, ?, ?, ?, ?)", row)
    return pending


def finish(
    database: Database,
    pending: str,
    *,
    who: str | None = None,
    subject: str | None = None,
    before: Any = None,
    after: Any = None,
    error: str = "",
) -> None:
    """Replaces a pending request by its row.

    Args:
        who: Instead of the one given to `begin`, as after a sign-in.
        subject: Instead of the one given to `begin`.
        before: Any value that msgspec encodes; ``None`` for none.
        after: As ``before``.
    """
    with database.transaction() as connection:
        [row] = connection.execute("SELECT * FROM audit_pending WHERE id = ?", (pending,)).fetchall()
        connection.execute("DELETE FROM audit_pending WHERE id = ?", (pending,))
        _append(
            connection,
            at_ns=row["at_ns"],
            who=row["who"] if who is None else who,
            address=row["address"],
            action=row["action"],
            subject=row["subject"] if subject is None else subject,
            before=_json(before),
            after=_json(after),
            error=error,
        )


def discard(database: Database, pending: str) -> None:
    """Forgets a pending request that was refused before it could change anything."""
    with database.transaction() as connection:
        connection.execute("DELETE FROM audit_pending WHERE id = ?", (pending,))


def add(
    connection: sqlite3.Connection, *, who: str, action: str, subject: str, before: Any = None, after: Any = None
) -> None:
    """Adds the row of a command, inside the transaction that changes something."""
    _append(
        connection,
        at_ns=time.time_ns(),
        who=who,
        address="",
        action=action,
        subject=subject,
        before=_json(before),
        after=_json(after),
        error="",
    )


def recover(database: Database) -> int:
    """Turns what an earlier process left pending into rows; returns how many."""
    left = database.query("SELECT id FROM audit_pending ORDER BY at_ns")
    for row in left:
        finish(database, row["id"], error=UNKNOWN_OUTCOME)
    return len(left)


def list_entries(database: Database, *, before_id: int | None = None) -> list[AuditEntry]:
    """Returns `PAGE_ROWS` rows, newest first."""
    text = f"SELECT * FROM audit WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT {PAGE_ROWS}"
    rows = database.query(text, before_id)
    return [AuditEntry(**dict(row)) for row in rows]


def verify(database: Database, *, head: str = "") -> AuditReport:
    """Checks numbers and digests of all rows.

    Args:
        head: What an earlier call returned as head; that row must still be there, unchanged.

    Raises:
        ConfigError: The given head is none.
    """
    if head and not _HEAD.fullmatch(head):
        expected = "NUMBER:DIGEST, as `lineside hub audit verify` prints it"
        raise ConfigError("--head", expected=expected, actual=repr(head[:80]), action="Copy the whole head.")
    problems: list[str] = []
    rows = last = 0
    digest = ""
    digests: dict[str, None] = {}
    for row in database.query("SELECT * FROM audit ORDER BY id"):
        if row["id"] != last + 1:
            problems.append(f"rows {last + 1} to {row['id'] - 1} are removed")
        elif _digest(digest, row["id"], *(row[name] for name in _FIELDS)) != row["digest"]:
            problems.append(f"row {row['id']} is changed")
        rows, last, digest = rows + 1, row["id"], row["digest"]
        digests[f"{last}:{digest}"] = None
    given = database.query("SELECT seq FROM sqlite_sequence WHERE name = 'audit'")
    if given and given[0]["seq"] > last:
        problems.append(f"rows {last + 1} to {given[0]['seq']} are removed")
    if head not in ("", _EMPTY_HEAD) and head not in digests:
        problems.append(f"the row of the head {head[:40]} is removed or changed")
    return AuditReport(rows=rows, head=f"{last}:{digest}" if rows else _EMPTY_HEAD, problems=tuple(problems))


def _append(connection: sqlite3.Connection, **values: Any) -> None:
    last = connection.execute("SELECT id, digest FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    given = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
    number = max(last["id"] if last else 0, given["seq"] if given else 0) + 1
    fields = [values[name] for name in _FIELDS]
    digest = _digest(last["digest"] if last else "", number, *fields)
    connection.execute(
        "INSERT INTO audit (id, at_ns, who, address, action, subject, before, after, error, digest) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (number, *fields, digest),
    )
    log.info(
        "%d %s: %s %s%s (digest %s)",
        number,
        values["who"],
        values["action"],
        values["subject"],
        f": {values['error']}" if values["error"] else "",
        digest,
    )


def _digest(previous: str, *values: object) -> str:
    return hashlib.sha256(msgspec.json.encode([previous, *values])).hexdigest()


def _json(value: Any) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()
