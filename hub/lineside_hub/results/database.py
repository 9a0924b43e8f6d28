"""The hub's SQLite database.

| table | a row is |
| --- | --- |
| ``results`` | one record of a device's outbox; primary key ``(device, epoch, seq)``, so a repeat is harmless |
| ``quarantine`` | an unreadable record, unchanged |
| ``watermarks`` | the highest contiguous ``seq`` of a device's database |
| ``interactions`` | one item that a device showed, or that a user chose there; key as of ``results`` |
| ``interaction_quarantine``, ``interaction_watermarks`` | as those of results, for interactions |
| ``devices`` | the last birth, will and report of a device |
| ``desired`` | what a group (``g/<group>``) or a device (``d/<device>``) should run |
| ``rollouts`` | one rollout, as `lineside_hub.rollouts.machine.Rollout`; changed with its desired states at once |
| ``assignments`` | the group that a device was assigned to |
| ``events`` | one entry of the timeline: a change of a device, a push, an unreadable message |
| ``frames`` | an image that belongs to a result; its content lies beside the database (`lineside_hub.results.frames`) |
| ``reviews`` | a person's mark and correction of a result (`lineside_hub.relabel`) |
| ``meta`` | the hub's epoch and the last generation |

WAL with ``synchronous=FULL``: a commit survives a power cut. The file appears with all its tables at once, so a reader
never sees half a schema; an older file is migrated when it is opened (`lineside_hub.migrations`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lineside_hub import migrations
from lineside_link.messages import ARTIFACTS, BundleRef, ConfigRef, Desired, ResultsAck, decode, encode
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import DatabaseError, DiskFullError, InputNotFoundError, MissingExtraError
from lineside_runtime.files import fsync_folder, restrictive_umask

NAME = "hub.db"

BUSY_TIMEOUT_S = 10.0

_NOTHING = "0000"
"""Result of `_revision` for a file without tables."""


EVENTS_MAX = 5000
"""Events of one device and kind that the timeline keeps, the newest ones. A line that changes its recipe with each part
would fill the disk, and a limit for all kinds together would delete deployments."""

EVENTS_STEP = 100
"""Added events after which the device's old ones are deleted."""

_DELETE_OLD_EVENTS = """
DELETE FROM events WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY kind ORDER BY id DESC) AS place FROM events WHERE device = :device
    ) WHERE place > :most
)
"""


class TimelineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the timeline.

    Attributes:
        at_ns: Unix time at the hub.
        device: Its subject; empty for the hub itself.
        kind: ``up``, ``down``, a state of `lineside_link.messages.STATES`, ``pushed``, ``withdrawn``, ``agent``
            (its own update), ``rollout``, ``moved``, ``frames``, ``configuration`` (another one, or why one was
            refused), ``drift`` (an alarm began or ended), ``recipe`` (another product), ``degraded`` (reduced service),
            ``placement`` (another device runs the model), ``override`` (a gate that a push ignored), ``malformed`` or
            ``conflict``.
        bundle: ``name@version``, if there is one.
        code: Of the error, if there was one.
    """

    at_ns: int
    device: str
    kind: str
    bundle: str = ""
    code: int | None = None
    detail: str = ""


class Database:
    """One connection; each thread opens its own.

    Attributes:
        connection: Autocommitting; changes are made inside `transaction`.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection

    @classmethod
    def open(cls, folder: Path) -> Database:
        """Opens the database of a hub's folder; creates it if there is none.

        Raises:
            InputNotFoundError: There is no such folder.
            DatabaseError: The file is damaged or was written by a newer release.
        """
        path = folder / NAME
        if not folder.is_dir():
            raise InputNotFoundError(f"{folder} is not a folder", action="Make the repository first.")
        with mapped_errors(path):
            if not path.exists():
                _create(path)
            connection = _connect(path)
            try:
                if not migrations.is_current(_revision(connection), str(path)):
                    _upgrade(path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits what the block changed, or nothing of it.

        Raises:
            DiskFullError: There is no room; the database is as it was.
        """
        with mapped_errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        """Returns all rows of a query."""
        with mapped_errors(self.path):
            return self.connection.execute(sql, parameters).fetchall()

    def data_version(self) -> int:
        """Returns a number that changes when another connection, also of another process, has committed."""
        return int(self.query("PRAGMA data_version")[0][0])

    @property
    def epoch(self) -> int:
        """The hub's epoch."""
        return int(self.query("SELECT value FROM meta WHERE key = 'epoch'")[0][0])

    def new_epoch(self) -> int:
        """Starts a higher epoch after a restore: devices with later generations would ignore the hub otherwise."""
        with self.transaction() as connection:
            epoch = max(self.epoch + 1, _now_ms())
            connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,))
            connection.execute("UPDATE desired SET epoch = ?", (epoch,))
        return epoch

    def set_desired(self, scope: str, bundle: BundleRef) -> Desired:
        """Makes a bundle the desired state of a scope, under the next generation of the whole hub.

        Args:
            scope: ``g/<group>`` or ``d/<device>``.
        """
        with self.transaction():
            return self.add_desired(scope, Desired(epoch=0, gen=0, bundle=bundle), artifact="bundle")

    def next_gen(self) -> int:
        """Returns a generation that was never given before, inside the caller's transaction."""
        self.connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'gen'")
        return int(self.query("SELECT value FROM meta WHERE key = 'gen'")[0][0])

    def add_desired(
        self, scope: str, desired: Desired, *, rollout: str = "", artifact: str = "", changed: str = "bundle"
    ) -> Desired:
        """Sets the desired state of a scope, inside the caller's transaction.

        Args:
            scope: ``g/<group>`` or ``d/<device>``.
            rollout: Identifies the push; made from the generation if empty.
            artifact: Which artifact is pushed now, by its field's name; the others stay as they were pushed before.
            changed: Which artifact the timeline names if none is pushed.
        """
        known = self.desired_state(scope)
        if desired.config is None and known is not None and known.config is not None and not known.withdrawn:
            # A desired state for a bundle alone must not make a device that was away forget how it is to run.
            windows = desired.windows | {"config": known.window_of("config")}
            desired = msgspec.structs.replace(desired, config=known.config, windows=windows)
        epoch, gen, now_ns = self.epoch, self.next_gen(), time.time_ns()
        rollout = rollout or f"push-{gen}"
        there = [name for name in ARTIFACTS if getattr(desired, name) is not None]
        gens = {name: desired.generation_of(name) for name in there} | ({artifact: gen} if artifact else {})
        pushes = {name: desired.pushed_by(name) for name in there} | ({artifact: rollout} if artifact else {})
        desired = msgspec.structs.replace(desired, epoch=epoch, gen=gen, gens=gens, pushes=pushes, rollout=rollout)
        bundle = msgspec.json.encode(desired.bundle).decode() if desired.bundle else None
        row = (scope, epoch, gen, bundle, desired.rollout, now_ns, encode(desired).decode())
        self.connection.execute(
            "INSERT OR REPLACE INTO desired (scope, epoch, gen, bundle, rollout, at_ns, message) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        subject: BundleRef | ConfigRef | None = getattr(desired, artifact or changed)
        identity = subject.identity if subject else ""
        kind = "withdrawn" if desired.withdrawn else "pushed"
        to = f"{'group' if scope.startswith('g/') else 'device'} {scope[2:]}, desired state {gen}"
        self.add_event(TimelineEvent(at_ns=now_ns, device="", kind=kind, bundle=identity, detail=to))
        return desired

    def withdraw(self, device: str, own: Desired, group: str) -> None:
        """Lets a device follow a group, in its windows, inside the caller's transaction.

        Args:
            own: Its own desired state.
        """
        follows = self.desired_state(f"g/{group}") or Desired(epoch=0, gen=0)
        given = msgspec.structs.replace(own, withdrawn=True, window=follows.window, windows=follows.windows)
        self.add_desired(f"d/{device}", given, rollout=own.rollout)

    def desired_states(self) -> dict[str, Desired]:
        """Returns the desired state of each scope, groups first: no device hears of its withdrawal before them."""
        rows = self.query("SELECT * FROM desired ORDER BY substr(scope, 1, 2) DESC, scope")
        return {row["scope"]: _desired(row) for row in rows}

    def desired_state(self, scope: str) -> Desired | None:
        """Returns the desired state of one scope, if there is one."""
        rows = self.query("SELECT * FROM desired WHERE scope = ?", scope)
        return _desired(rows[0]) if rows else None

    def add_event(self, event: TimelineEvent) -> None:
        """Adds to the timeline, inside the caller's transaction; see `EVENTS_MAX`."""
        added = self.connection.execute(
            "INSERT INTO events (at_ns, device, kind, bundle, code, detail) VALUES (?, ?, ?, ?, ?, ?)",
            (event.at_ns, event.device, event.kind, event.bundle, event.code, event.detail),
        )
        if (added.lastrowid or 0) % EVENTS_STEP == 0:
            self.connection.execute(_DELETE_OLD_EVENTS, {"device": event.device, "most": EVENTS_MAX})

    def events(self, *, kind: str | None = None) -> list[TimelineEvent]:
        """Returns the timeline, oldest first.

        Args:
            kind: Only these, if given.
        """
        rows = self.query("SELECT * FROM events WHERE ?1 IS NULL OR kind = ?1 ORDER BY id", kind)
        return [TimelineEvent(**{name: row[name] for name in TimelineEvent.__struct_fields__}) for row in rows]

    def acknowledgements(self, watermarks: str = "watermarks") -> dict[str, ResultsAck]:
        """Returns the last acknowledgement of each device.

        Args:
            watermarks: Table of them, of `lineside_hub.results.streams.RowStream`.
        """
        rows = self.query(f"SELECT device, epoch, seq, max(at_ns) FROM {watermarks} GROUP BY device")
        return {row["device"]: ResultsAck(epoch=row["epoch"], seq=row["seq"]) for row in rows}


def _desired(row: sqlite3.Row) -> Desired:
    if row["message"]:  # the columns count: a new epoch is written there alone
        return msgspec.structs.replace(decode(row["message"].encode(), Desired), epoch=row["epoch"], gen=row["gen"])
    bundle = decode_json(row["bundle"], type=BundleRef) if row["bundle"] else None
    return Desired(epoch=row["epoch"], gen=row["gen"], bundle=bundle, rollout=row["rollout"] or "")


@contextlib.contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE")):
            raise DiskFullError(path=str(path)) from error
        raise DatabaseError(
            f"{path}: {error}", action="Check the disk and the file's permissions; restore a backup if it is damaged."
        ) from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".new-db-", dir=path.parent) as folder:
        new = Path(folder) / NAME
        _upgrade(new)
        with contextlib.closing(_connect(new)) as connection:
            connection.execute("INSERT INTO meta VALUES ('epoch', ?), ('gen', 0)", (_now_ms(),))
        new.chmod(0o666 & ~restrictive_umask())
        # Closing checkpoints the log into the file. A link does not replace the file of another process.
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    fsync_folder(path.parent)


def _revision(connection: sqlite3.Connection) -> str:
    """Returns the schema's revision; the first releases stored it as ``user_version`` only."""
    if _is_stamped(connection):
        return str(connection.execute(migrations.READ_REVISION).fetchone()[0])
    return f"{connection.execute('PRAGMA user_version').fetchone()[0]:04d}"


def _is_stamped(connection: sqlite3.Connection) -> bool:
    named = "SELECT 1 FROM sqlite_master WHERE name = ?"
    return connection.execute(named, (migrations.VERSION_TABLE,)).fetchone() is not None


def _upgrade(path: Path) -> None:
    """Migrates a new or older file in one transaction."""
    try:
        import sqlalchemy as sa
    except ImportError as error:
        action = "Install the extra: pip install 'lineside[convert]'."
        raise MissingExtraError("an older or new database of a hub needs SQLAlchemy", action=action) from error
    engine = sa.create_engine("sqlite://", creator=lambda: _connect(path), poolclass=sa.NullPool)
    # Python's driver would begin no transaction before a change of the schema.
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
            found = _revision(driver)  # again, under the lock: another process may have been faster
            if found == _NOTHING:
                migrations.upgrade(connection)
            elif not migrations.is_current(found, str(path)):
                migrations.upgrade(connection, unstamped=None if _is_stamped(driver) else found)
    except sa.exc.DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise error.orig from error
        raise


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
