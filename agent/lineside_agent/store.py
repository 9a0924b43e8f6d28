"""The records: SQLite in WAL with ``synchronous=FULL``, one writer thread, many records a commit.

The record is its own outbox row: what is above the hub's watermark must still go home. One row, one transaction, so
the two can't disagree; and a hub that was restored from a backup, and asks for older rows again, gets them.

- ``seq`` is contiguous from 1 within the database's random ``epoch``, and given inside the transaction.
- ``(source, sequence)`` is unique: a frame that comes twice is recorded once, and that is counted.
- A database that is damaged is set aside under another name, and the line goes on with a new one and a new epoch.
- A kept image has a row of its own (`kept`), written with its record.
- A full disk doesn't stop the line: records wait in memory, `WAITING_MAX` of them, and what a live camera brings
  beyond that is counted as lost and said. A finite source waits instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import sqlite_utils

from lineside_agent import kept
from lineside_agent.images import Archive
from lineside_agent.kept import ImageCounts, KeptImage, SavedImage
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import DatabaseError, DiskFullError, StoreError

log = logging.getLogger("lineside.store")

WAITING_MAX = 1000
"""Records that may wait for the disk, about 1 KB each without an image."""

GROUP_MAX = 100
"""Records a commit: at 50 a record costs a fortieth of a commit of its own (145 µs against 6.3 ms)."""

RETRY_S = 0.5
"""Pause before the next try while the disk is full."""

NAME = "records.db"


@dataclasses.dataclass(slots=True)
class StoreCounts:
    """What the writer did since its start; read by anybody, written by the writer alone.

    Attributes:
        recorded: Rows committed.
        repeated: Frames that were recorded before.
        lost: Records for which there was neither disk nor memory.
        images_lost: Images that could not be written.
        set_aside: Damaged databases that were renamed.
    """

    recorded: int = 0
    repeated: int = 0
    lost: int = 0
    images_lost: int = 0
    set_aside: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    row: ResultRow
    frame: Frame | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Watermark:
    epoch: str
    seq: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Images:
    """What became of images; said again if it is lost."""

    epoch: str
    sent: tuple[int, ...]
    removed: tuple[int, ...]
    done: threading.Event


_Item = _Entry | _Watermark | _Images


class Store:
    """The records of one device.

    Attributes:
        counts: What happened since the start.
        problem: Why records are waiting, or ``None``.
    """

    def __init__(self, folder: Path, *, archive: Archive | None = None) -> None:
        self.counts = StoreCounts()
        self.problem: StoreError | None = None
        self._path = folder / NAME
        self._archive = archive
        self._queue: queue.Queue[_Item] = queue.Queue(WAITING_MAX)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._waiting = 0
        self._commits = 0
        self._epoch, self._last_seq, self._acked = "", 0, 0
        self._images = ImageCounts(0, 0, 0)
        self._said_full = False
        self._prepare()  # may raise: without the last sequence nobody knows where to go on
        self._writer = threading.Thread(target=self._run, name="store", daemon=True)
        self._writer.start()

    @property
    def epoch(self) -> str:
        """Random name of this database."""
        return self._epoch

    @property
    def pending(self) -> int:
        """Records that the hub has not confirmed, those included that wait for the disk."""
        with self._changed:
            return self._last_seq - self._acked + self._waiting

    def record(self, row: ResultRow, frame: Frame | None = None, *, wait: bool = True) -> bool:
        """Hands a record to the writer.

        Args:
            row: Its ``seq`` is given later.
            frame: The frame, if its image may be kept.
            wait: Whether to wait for room when the disk is full, as a finite source can.

        Returns:
            False if there was no room and the record is lost; that is counted and logged.
        """
        with self._changed:
            self._waiting += 1
        try:
            self._queue.put(_Entry(row, frame), block=wait)
        except queue.Full:
            with self._changed:
                self._waiting -= 1
                self.counts.lost += 1
            log.error("record of part %r is lost: %s", row.part_id, self.problem or "the disk is too slow")
            return False
        return True

    def acknowledge(self, epoch: str, seq: int) -> None:
        """Takes the hub's watermark: all rows up to ``seq`` are committed there.

        Args:
            epoch: Of the database that the hub speaks of; another than this one's is ignored.
            seq: May be lower than before, where the hub was restored from a backup.
        """
        if epoch != self._epoch:
            return
        with contextlib.suppress(queue.Full):  # the hub says it again after the next batch
            self._queue.put_nowait(_Watermark(epoch, seq))

    def flush(self, timeout_s: float) -> bool:
        """Waits until every record that was handed over is on disk.

        Args:
            timeout_s: At most so long.

        Returns:
            Whether it is.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting == 0, timeout_s)

    def wait_change(self, seen: int, timeout_s: float) -> int:
        """Waits until something was committed since ``seen``.

        Args:
            seen: What the last call returned; 0 at first.
            timeout_s: At most so long.

        Returns:
            For the next call.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._commits > seen, timeout_s)
            return self._commits

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

    def rows(self, after: int, limit: int) -> list[ResultRow]:
        """Reads rows for the hub, in order of ``seq``.

        Args:
            after: Only rows with a higher ``seq``.
            limit: At most so many.

        Raises:
            DatabaseError: The database cannot be read.
        """
        query = "SELECT seq, body FROM records WHERE seq > ? ORDER BY seq LIMIT ?"
        with self._reading() as connection:
            found = connection.execute(query, (after, limit)).fetchall()
        rows = (msgspec.json.decode(body, type=ResultRow) for _, body in found)
        return [msgspec.structs.replace(row, seq=seq) for (seq, _), row in zip(found, rows, strict=True)]

    # -- kept images -------------------------------------------------------------------------------------------

    @property
    def images(self) -> ImageCounts:
        """What is kept."""
        with self._changed:
            return self._images

    def first_unsent_image(self) -> KeptImage | None:
        """Returns the first image that the hub hasn't got, of a record that it has.

        Raises:
            DatabaseError: The database cannot be read.
        """
        with self._reading() as connection:
            return kept.first_unsent(connection, self.watermark)

    def oldest_images(self, limit: int) -> list[KeptImage]:
        """Returns the images that go first when there is no room; see `kept.oldest`.

        Raises:
            DatabaseError: The database cannot be read.
        """
        with self._reading() as connection:
            return kept.oldest(connection, limit)

    def images_between(self, *, since_ns: int, before_ns: int, limit: int) -> list[KeptImage]:
        """Returns images that were written in a time, by the device's clock.

        Raises:
            DatabaseError: The database cannot be read.
        """
        with self._reading() as connection:
            return kept.written_before(connection, since_ns=since_ns, before_ns=before_ns, limit=limit)

    def unknown_images(self, paths: Sequence[str]) -> list[str]:
        """Returns which of these files belong to no record.

        Raises:
            DatabaseError: The database cannot be read.
        """
        with self._reading() as connection:
            return [path for path in paths if not kept.is_known(connection, path)]

    def note_images(self, epoch: str, *, sent: Sequence[int] = (), removed: Sequence[int] = ()) -> bool:
        """Writes down what became of images; waits for the writer.

        Args:
            epoch: Of the database that they were read from; of another one nothing is noted.
            sent: Records whose image the hub has, or refused for good.
            removed: Records whose image is gone.

        Returns:
            Whether it is on disk; false while there is no room, and at the end.
        """
        done = threading.Event()
        try:
            self._queue.put(_Images(epoch, tuple(sent), tuple(removed), done), timeout=RETRY_S)
        except queue.Full:
            return False
        return done.wait(5.0)

    def next_sequence(self, source: str) -> int:
        """Returns the number of the first frame of ``source`` after the last recorded one.

        Raises:
            DatabaseError: The database cannot be read.
        """
        with self._reading() as connection:
            found = connection.execute("SELECT max(sequence) FROM records WHERE source = ?", (source,)).fetchone()
        return 0 if found[0] is None else int(found[0]) + 1

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what is waiting and ends the writer.

        Args:
            timeout_s: Records that are still waiting after so long, because the disk is full, are counted as lost.
        """
        self._closing.set()
        self._writer.join(timeout_s)
        with self._changed:
            if self._waiting:
                self.counts.lost += self._waiting
                log.error("%d records were not written before the end: %s", self._waiting, self.problem)

    # -- the database ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Opens the database, or sets it aside and makes a new one."""
        try:
            epoch, last_seq, acked, images = _open_schema(self._path)
        except sqlite3.OperationalError as error:  # locked, unreadable, no room: it is whole, so it stays
            raise _explained(error, self._path) from error
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            epoch, last_seq, acked, images = _open_schema(self._path)
        with self._changed:
            self._epoch, self._last_seq, self._acked, self._images = epoch, last_seq, acked, images
            self._changed.notify_all()

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = f"{NAME}.damaged-{time.time_ns()}"
        for suffix in ("", "-wal", "-shm"):
            path = self._path.with_name(NAME + suffix)
            if path.exists():
                path.rename(path.with_name(aside + suffix))
        self.counts.set_aside += 1
        log.error("the database is damaged (%s): set aside as %s; the line goes on with a new one", error, aside)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(_connect(self._path)) as connection:
                yield connection
        except sqlite3.DatabaseError as error:
            raise DatabaseError(f"{self._path}: {error}", action="It is set aside at the next write.") from error

    # -- the writer thread -------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the writer runs; false before `close` means a defect."""
        return self._writer.is_alive()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (group := self._next_group()) is not None:
            saved = self._save_images(group)
            while True:
                try:
                    connection = connection or _connect(self._path)
                    self._commit(connection, group, saved)
                    break
                except sqlite3.DatabaseError as error:
                    if connection is not None:
                        connection.close()
                    connection = None
                    self._failed(error)
                if self._closing.wait(RETRY_S):
                    return
        if connection is not None:
            connection.close()

    def _next_group(self) -> list[_Item] | None:
        """Waits for something to write; ``None`` when closing and nothing is left."""
        while True:
            try:
                group = [self._queue.get(timeout=0.05)]
                break
            except queue.Empty:
                if self._closing.is_set():
                    return None
        with contextlib.suppress(queue.Empty):
            while len(group) < GROUP_MAX:
                group.append(self._queue.get_nowait())
        return group

    def _save_images(self, group: list[_Item]) -> dict[tuple[str, int], SavedImage]:
        """The image comes before its record, so that a record never names an image that isn't there."""
        saved: dict[tuple[str, int], SavedImage] = {}
        if self._archive is None:
            return saved
        for item in group:
            if isinstance(item, _Entry) and item.frame is not None:
                try:
                    image = self._archive.save(item.frame, item.row.verdict)
                except StoreError as error:
                    self.counts.images_lost += 1
                    # Once while it lasts: the line goes on at tens of frames a second.
                    log.log(
                        logging.DEBUG if self._said_full else logging.ERROR,
                        "image of part %r is lost: %s",
                        item.row.part_id,
                        error,
                    )
                    self._said_full = True
                    continue
                if image is not None:
                    saved[item.row.source, item.row.sequence] = image
                    self._said_full = False
        return saved

    def _commit(
        self, connection: sqlite3.Connection, group: list[_Item], saved: dict[tuple[str, int], SavedImage]
    ) -> None:
        """Writes a group in one transaction."""
        entries = [item.row for item in group if isinstance(item, _Entry)]
        marks = [item.seq for item in group if isinstance(item, _Watermark) and item.epoch == self._epoch]
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            last_seq, images = _insert(connection, entries, saved)
            acked = _mark(connection, marks, self._acked, last_seq)
            notes = [item for item in group if isinstance(item, _Images)]
            for note in notes:
                if note.epoch == self._epoch:
                    images = images.plus(kept.mark_sent(connection, note.sent)).plus(
                        kept.remove(connection, note.removed)
                    )
        self._committed(entries, last_seq, acked, self._images.plus(images))
        for note in notes:
            note.done.set()

    def _committed(self, entries: list[ResultRow], last_seq: int, acked: int, images: ImageCounts) -> None:
        with self._changed:
            written = last_seq - self._last_seq
            self.counts.recorded += written
            self.counts.repeated += len(entries) - written
            self._waiting -= len(entries)
            self._last_seq, self._acked, self._images = last_seq, acked, images
            self._commits += 1
            if self.problem is not None:
                log.warning("records are written again")
                self.problem = None
            self._changed.notify_all()

    def _failed(self, error: sqlite3.DatabaseError) -> None:
        """Says why nothing can be written, once; a damaged database is set aside. The group is tried again."""
        if not _is_full(error) and not isinstance(error, sqlite3.OperationalError):
            self._set_aside(error)
            try:
                self._prepare()
            except (sqlite3.DatabaseError, StoreError) as again:
                log.error("no new database yet: %s", again)
        elif self.problem is None:
            self.problem = _explained(error, self._path)
            log.error("%s; records wait in memory", self.problem)


def _explained(error: sqlite3.DatabaseError, path: Path) -> StoreError:
    if _is_full(error):
        return DiskFullError(f"no room to write {path} ({error})")
    return DatabaseError(f"{path}: {error}", action="See who else holds it and whether it may be written.")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _open_schema(path: Path) -> tuple[str, int, int, ImageCounts]:
    """Makes the tables where they are missing; returns epoch, last ``seq``, watermark and what images are kept."""
    with contextlib.closing(_connect(path)) as connection:
        problems = [text for (text,) in connection.execute("PRAGMA quick_check(1)") if text != "ok"]
        if problems:
            raise sqlite3.DatabaseError(problems[0])
        database = sqlite_utils.Database(connection)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            _make_tables(database)
        facts = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        last_seq = connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0]
        images = kept.count(connection)
    return facts["epoch"], int(last_seq), int(facts["acked"]), images


def _make_tables(database: sqlite_utils.Database) -> None:
    columns = {"seq": int, "source": str, "sequence": int, "verdict": str, "captured_at_ns": int, "body": bytes}
    database["records"].create(columns, pk="seq", not_null=set(columns), if_not_exists=True)
    database["records"].create_index(["source", "sequence"], unique=True, if_not_exists=True)
    kept.make_table(database)
    database["meta"].create({"key": str, "value": str}, pk="key", if_not_exists=True)
    for key, value in (("epoch", secrets.token_hex(8)), ("acked", "0")):
        database.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (key, value))


def _insert(
    connection: sqlite3.Connection, rows: list[ResultRow], saved: dict[tuple[str, int], SavedImage]
) -> tuple[int, ImageCounts]:
    """Inserts rows with the next numbers, and their images; returns the last number, and what images that adds."""
    seq = int(connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0])
    images = ImageCounts(0, 0, 0)
    columns = "seq, source, sequence, verdict, captured_at_ns, body"  # named: a newer agent may have added others
    query = f"INSERT OR IGNORE INTO records ({columns}) VALUES (?, ?, ?, ?, ?, ?)"
    for row in rows:
        body = msgspec.json.encode(row)
        values = (seq + 1, row.source, row.sequence, row.verdict, row.captured_at_ns, body)
        if connection.execute(query, values).rowcount:
            seq += 1
            if (image := saved.get((row.source, row.sequence))) is not None:
                images = images.plus(kept.insert(connection, seq, image))
        else:
            log.warning("frame %d of %s is recorded already", row.sequence, row.source)
    return seq, images


def _mark(connection: sqlite3.Connection, marks: list[int], acked: int, last_seq: int) -> int:
    """Writes the newest watermark down; returns it."""
    if not marks or marks[-1] == acked:
        return acked
    if not 0 <= marks[-1] <= last_seq:
        log.error("the hub confirms row %d, but there are only %d: is this database a copy?", marks[-1], last_seq)
        return acked
    connection.execute("UPDATE meta SET value = ? WHERE key = 'acked'", (str(marks[-1]),))
    return marks[-1]


def _is_full(error: sqlite3.DatabaseError) -> bool:
    return "disk is full" in str(error) or "disk I/O error" in str(error)
