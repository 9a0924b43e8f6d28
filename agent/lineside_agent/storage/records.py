"""The records: SQLite in WAL mode with ``synchronous=FULL``, one writer thread, many records a commit.

The record is its own outbox row: what is above the hub's watermark must still go home. One row, one transaction, so
the two can't disagree; and a hub that was restored from a backup, and asks for older rows again, gets them.

- Rows and their numbers are `database`'s; a frame that comes twice is recorded once, and that is counted.
- A record is on disk ``commit_every_s`` after its verdict at the latest: each commit costs whole pages.
- A database that is damaged is set aside under another name, and the line goes on with a new one and a new epoch.
- A full disk doesn't stop the line, not even at its start: images make way, then the ballast, then records that the hub
  has. Meanwhile records wait in memory, `WAITING_MAX` of them, and what a live camera brings beyond that is counted as
  lost and said. A finite source waits instead.
- Numbers of a live camera, and of a line's triggers, are noted before anybody is told of them, and reserved on disk
  before that (`lineside_agent.storage.part_numbers`): after a kill each part without a record gets a row that says
  ``unrecorded``. After a power cut it is not known which of the reserved numbers were used: their rows say ``unknown``,
  and are no production figures.
- A kept image that the hub is to have has a row of its own (`unsent`), written with its record.
- The oldest records go beyond the bounds of ``[store]``; with a hub only those that it has confirmed.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lineside_agent.config import StoreConfig
from lineside_agent.storage import database, unsent_images
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.missing_records import LostRecords, MissingRecords
from lineside_agent.storage.part_numbers import AHEAD_LEAST, PartNumbers
from lineside_agent.storage.retention import RetentionPolicy
from lineside_agent.storage.unsent_images import UnsentImage
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import StoreError

log = logging.getLogger("lineside.store")

WAITING_MAX = 1000
"""Records that may wait for the disk, about 1 KB each without an image."""

GROUP_MAX = 100
"""Records a commit: at 50 a record costs a fortieth of a commit of its own (145 µs against 6.3 ms)."""

SAVING_EVERY_S = 5.0
"""Between commits while the day's allowance of writes is used up: 1.1 KB a record at ten a second."""

IMAGES_WAITING_MAX = 16
"""Images that may wait for the disk; what comes beyond is skipped, counted, and has its record."""

AHEAD_GROUPS = 4
"""As many numbers are reserved ahead as so many commits bring, so that the next reservation is on disk in time."""

RETRY_S = 0.5
"""Pause before the next try while the disk is full."""

NAME = "records.db"


@dataclasses.dataclass(slots=True)
class StoreCounts:
    """What the writer did since its start; read by anybody, written by the writer alone.

    Attributes:
        recorded: Rows committed, without those of parts that have no record.
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
    frames: tuple[Frame, ...] = ()
    image: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Watermark:
    epoch: str
    seq: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Settled:
    """The hub has the image of a record, or won't have it."""

    epoch: str
    seq: int


_Item = _Entry | MissingRecords | _Watermark | _Settled


class RecordStore:
    """The records of one device.

    Attributes:
        counts: What happened since the start.
        problem: Why records are waiting, or ``None``.
        retention: What makes way for records.
        numbers: Of parts that no source gives twice.

    Args:
        folder: The state folder.
        archive: Where images go.
        rules: The ``[store]`` table.
        confirmed_only: Whether only records that the hub has may be deleted.
        must_save: Whether the day's allowance of writes is used up.

    Raises:
        DatabaseError: Somebody else holds the database, or it may not be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        archive: ImageArchive | None = None,
        rules: StoreConfig | None = None,
        confirmed_only: bool = False,
        must_save: Callable[[], bool] = lambda: False,
    ) -> None:
        self.counts = StoreCounts()
        self.problem: StoreError | None = None
        self.retention = RetentionPolicy(folder, archive)
        self.numbers = PartNumbers(folder, self.retention.make_room)
        self._path = folder / NAME
        self._archive = archive
        self._rules = rules or StoreConfig()
        self._confirmed_only = confirmed_only
        self._must_save = must_save
        self._queue: queue.Queue[_Item] = queue.Queue(WAITING_MAX)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._hurry = threading.Event()
        self._wake = threading.Event()
        self._waiting = 0
        self._missing = 0
        self._lost = LostRecords()
        self._images = 0
        self._unsent = 0
        self._commits = 0
        self._epoch, self._last_seq, self._acked = "", 0, 0
        self._sequences: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._has_tables = False
        self._is_replaced = False
        self._damage: sqlite3.DatabaseError | None = None
        self._prepare()
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
            return self._last_seq - self._acked + self._waiting + self._missing

    def use(self, rules: StoreConfig) -> None:
        """Takes other rules, from the next commit on."""
        self._rules = rules

    def record(
        self,
        row: ResultRow,
        frame: Frame | Sequence[Frame] | None = None,
        *,
        wait: bool = True,
    ) -> bool:
        """Hands a record to the writer.

        Args:
            row: Its ``seq`` is given later.
            frame: The frame, if its image may be kept; of several cameras all of them, that which the hub is to have
                first.
            wait: Whether to wait for room when the disk is full, as a finite source can.

        Returns:
            False if there was no room and the record is lost; that is counted and logged, and a row ``unrecorded``
            takes its place when there is room.
        """
        frames = () if frame is None else (frame,) if isinstance(frame, Frame) else tuple(frame)
        with self._changed:
            self._waiting += 1
            frames = frames if self._takes_images(row, frames, wait=wait) else ()
            self._images += len(frames)
            wake = bool(frames) or self._hurry.is_set() or self._waiting >= GROUP_MAX
        if not self._put(_Entry(row, frames), wait=wait):
            self._lose(row, len(frames))
            return False
        if wake:
            self._wake.set()
        return True

    def _put(self, entry: _Entry, *, wait: bool) -> bool:
        if self._lost and not wait:
            return False  # rows are written in the order of their numbers
        try:
            self._queue.put(entry, block=wait)
        except queue.Full:
            return False
        return True

    def _lose(self, row: ResultRow, images: int) -> None:
        reason = str(self.problem or "the disk is too slow")
        with self._changed:
            self._waiting -= 1
            self._images -= images
            self.counts.lost += 1
            if self.numbers.begun(row.source) is not None:
                self._missing += 1
                self._lost.add(row, reason)
        log.error("record of part %r is lost: %s", row.part_id, reason)

    def begin(self, source: str, number: int) -> None:
        """Notes that a part has this number, before anybody is told of it.

        Args:
            source: As given to `resume`.
            number: The next one.
        """
        self.numbers.begin(source, number)
        if self.numbers.is_low and not self._hurry.is_set():
            self._hurry.set()
            self._wake.set()

    def _takes_images(self, row: ResultRow, frames: tuple[Frame, ...], *, wait: bool) -> bool:
        """Whether images may wait for the disk; a thousand records may, and as many images are a gigabyte."""
        if not frames or self._archive is None or not self._archive.wants(row):
            return False
        if self._changed.wait_for(lambda: self._images < IMAGES_WAITING_MAX, None if wait else 0.0):
            return True
        self._archive.counts.skipped += len(frames)
        return False

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
        """Has every record that was handed over written now, and waits until it is.

        Args:
            timeout_s: At most so long.

        Returns:
            Whether it is.
        """
        with self._changed:
            if self._waiting or self._missing:
                self._hurry.set()
                self._wake.set()
            return self._changed.wait_for(lambda: not (self._waiting or self._missing), timeout_s)

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
        with database.reading(self._path) as connection:
            found = connection.execute(query, (after, limit)).fetchall()
        rows = (decode_json(body, type=ResultRow) for _, body in found)
        return [msgspec.structs.replace(row, seq=seq) for (seq, _), row in zip(found, rows, strict=True)]

    @property
    def unsent_images(self) -> int:
        """Kept images that the hub hasn't got."""
        with self._changed:
            return self._unsent

    def first_unsent_image(self, after: int) -> UnsentImage | None:
        """Returns the first image that the hub hasn't got, of a record that it has.

        Args:
            after: Only of later records.

        Raises:
            DatabaseError: The database cannot be read.
        """
        through = self.watermark
        if after >= through or not self.unsent_images:
            return None
        with database.reading(self._path) as connection:
            return unsent_images.first(connection, after=after, through=through)

    def settle_image(self, epoch: str, seq: int) -> None:
        """Says that the hub has an image, or won't have it; written with the next commit.

        Args:
            epoch: Of the database that the record is of; of another one nothing is noted.
            seq: Of the record.
        """
        with contextlib.suppress(queue.Full):  # a full disk: it is offered once more after the next start
            self._queue.put_nowait(_Settled(epoch, seq))

    def next_sequence(self, source: str) -> int:
        """Returns the number of the first frame of ``source`` after the last recorded one."""
        with self._changed:
            return self._sequences.get(source, -1) + 1

    def resume(self, source: str, *, has_gaps: bool = False) -> int:
        """Returns the number of the first part of a source that gives none twice; `begin` notes this one and the next.

        What was begun before and has no record, as after a kill, gets a row that says ``unrecorded``; what may have
        been begun, as after a power cut, a row that says ``unknown``.

        Args:
            source: As in its records.
            has_gaps: Whether not every number of the source is a part, so that those without a record are ``unknown``.
        """
        first = self.next_sequence(source)
        reserved = self._reserved.get(source, 0)
        left = self.numbers.resume(source, first=first, reserved=reserved, is_replaced=self._is_replaced)
        count, unknown = left.until - left.first, range(left.first, left.until) if has_gaps else left.unknown
        if count:
            counts = (count - len(unknown), len(unknown), left.first)
            log.warning("%s: %d parts and %d reserved numbers from %d on have no record", source, *counts)
            with self._changed:
                self._missing += count
            reason = "the agent was killed, or the power was cut"
            self._queue.put(MissingRecords(source, left.first, left.until, unknown, reason))
        self._hurry.set()
        self._wake.set()
        return left.until

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what is waiting and ends the writer.

        Args:
            timeout_s: Records that are still waiting after so long, because the disk is full, are counted as lost.
        """
        self._closing.set()
        self._wake.set()
        self._writer.join(timeout_s)
        with self._changed:
            if self._waiting:
                self.counts.lost += self._waiting
                log.error("%d records were not written before the end: %s", self._waiting, self.problem)
        self.numbers.settle()

    # -- the database ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Opens the database, or sets it aside and makes a new one; a full disk leaves that to the writer."""
        try:
            facts = self._open()
        except sqlite3.OperationalError as error:  # locked, unreadable: it is whole, so it stays
            raise database.explained(error, self._path) from error
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            facts = self._open()
        with self._changed:
            self._epoch, self._last_seq, self._acked = facts.epoch, facts.last_seq, facts.acked
            self._reserved = {**self._reserved, **facts.reserved}
            self._unsent = facts.unsent
            for source, sequence in facts.sequences.items():
                self._sequences[source] = max(sequence, self._sequences.get(source, -1))
            self._changed.notify_all()
        if self._has_tables and self._path.stat().st_size > database.CHECKED_AT_START_BYTES:
            threading.Thread(target=self._check, name="store-check", daemon=True).start()

    def _open(self) -> database.DatabaseFacts:
        epoch = secrets.token_hex(8)
        self._is_replaced = not self._path.exists()
        facts = self._try_to_open(epoch)
        if facts is None and self.retention.make_room():
            facts = self._try_to_open(epoch)
        return facts or database.read_facts(self._path) or database.DatabaseFacts(epoch, 0, 0, {})

    def _try_to_open(self, epoch: str) -> database.DatabaseFacts | None:
        """Opens it or makes a new one; ``None`` where there is no room for what that needs."""
        try:
            facts = database.open_schema(self._path, epoch)
        except sqlite3.OperationalError as error:
            if not database.is_full(error, self._path):
                raise
            self._say_full(error)
            return None
        self._has_tables = True
        return facts

    def _check(self) -> None:
        """Reads a large database beside the line; what is found is for the writer to act on."""
        try:
            with contextlib.closing(database.connect(self._path)) as connection:
                database.check(connection)
        except sqlite3.OperationalError as error:
            log.warning("the database could not be checked: %s", error)
        except sqlite3.DatabaseError as error:
            self._damage = error

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = database.set_aside(self._path)
        self.counts.set_aside += 1
        self._has_tables = False
        self.numbers.replaced(self.next_sequence)
        log.error("the database is damaged (%s): set aside as %s; the line goes on with a new one", error, aside)

    # -- the writer thread -------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the writer runs; false before `close` means a defect."""
        return self._writer.is_alive()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (group := self._next_group()) is not None:
            while True:
                try:
                    connection = connection or database.connect(self._path)
                    self._write(connection, group)
                    break
                except sqlite3.DatabaseError as error:
                    if connection is not None:
                        connection.close()
                    connection = None
                    self._failed(error)
                if self._closing.wait(RETRY_S):
                    return
        if connection is not None:
            self._give_back(connection)
            connection.close()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        """At an orderly end no number is under way: what is reserved and has no record was never used."""
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for source in self._reserved:
                    begun = self.numbers.begun(source)
                    until = self.next_sequence(source)
                    database.reserve(connection, source, until if begun is None else max(until, begun + 1))
        except sqlite3.DatabaseError as error:
            log.warning("numbers stay reserved, and will be said to be unrecorded: %s", error)

    def _next_group(self) -> list[_Item] | None:
        """Waits until something is due; ``None`` when closing and nothing is left, empty to tidy up."""
        group: list[_Item] = []
        due_s = 0.0
        while len(group) < GROUP_MAX:
            left_s = due_s - time.monotonic() if group else 0.0
            at_once = self._hurry.is_set() or self._closing.is_set() or (group and left_s <= 0)
            try:
                item = self._queue.get(not group, 0.001 if at_once else 0.05)
            except queue.Empty:
                if at_once and group:
                    break
                if group:  # not woken by each record, which took as much processor time as to write it
                    self._wake.wait(left_s)
                    self._wake.clear()
                    continue
                if lost := self._take_lost():
                    return lost
                if self._closing.is_set():
                    return None
                if self._is_due:
                    break
                continue
            due_s = due_s or time.monotonic() + self._commit_every_s()
            group.append(self._without_images(item))
        return group

    def _take_lost(self) -> list[_Item]:
        """The rows of lost records, when all that waited before them is written."""
        with self._changed:
            return list(self._lost.take())

    @property
    def _is_due(self) -> bool:
        """Whether there is something to do although no record waits."""
        return self.retention.is_requested or self._damage is not None or self.numbers.is_due

    def _commit_every_s(self) -> float:
        every_s = self._rules.commit_every_s
        return max(every_s, SAVING_EVERY_S) if self._must_save() else every_s

    def _without_images(self, item: _Item) -> _Item:
        """The images come before their record, so that a record never names an image that isn't there."""
        if not isinstance(item, _Entry) or not item.frames:
            return item
        images = [self._saved(frame, item.row) for frame in item.frames]
        with self._changed:
            self._images -= len(item.frames)
            self._changed.notify_all()
        image = images[0] if self._confirmed_only and self._rules.send_images else None
        name = "" if image is None else f"{image.parent.name}/{image.name}"
        return _Entry(item.row, (), name)

    def _saved(self, frame: Frame, row: ResultRow) -> Path | None:
        if self._archive is None:
            return None
        try:
            return self._archive.save(frame, row)
        except StoreError as error:
            self.counts.images_lost += 1
            log.error("image of part %r is lost: %s", row.part_id, error)
            return None

    def _write(self, connection: sqlite3.Connection, group: list[_Item]) -> None:
        """Writes a group in one transaction, and tidies up before where that is due."""
        if self._damage is not None:
            damage, self._damage = self._damage, None
            raise damage
        if not self._has_tables:
            database.open_schema(self._path, self._epoch)
            self._has_tables = True
        self.numbers.retry()
        if self.retention.is_due:
            through = self._acked if self._confirmed_only else self._last_seq
            self.retention.tidy(connection, self._rules, through=through)
        for item in group:
            if isinstance(item, MissingRecords):
                self._write_missing(connection, item)
        entries = [item.row for item in group if isinstance(item, _Entry)]
        marks = [item.seq for item in group if isinstance(item, _Watermark) and item.epoch == self._epoch]
        reserved = self._to_reserve(entries)
        if not group and not reserved:
            return
        images = {
            (item.row.source, item.row.sequence): item.image
            for item in group
            if isinstance(item, _Entry) and item.image
        }
        settled = [item.seq for item in group if isinstance(item, _Settled) and item.epoch == self._epoch]
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            last_seq = database.insert(connection, entries, images)
            acked = database.mark(connection, marks, self._acked, last_seq)
            for source, until in reserved.items():
                database.reserve(connection, source, until)
            added = unsent_images.count(connection, after=self._last_seq) if images else 0
            added -= unsent_images.settle(connection, settled)
        with self._changed:
            written = last_seq - self._last_seq
            self.counts.recorded += written
            self.counts.repeated += len(entries) - written
            self._waiting -= len(entries)
            self._acked = acked
            self._unsent += added
            self._reserved.update(reserved)
            self._committed(entries, last_seq)
        for source, until in reserved.items():
            self.numbers.reserved(source, until)

    def _to_reserve(self, rows: list[ResultRow]) -> dict[str, int]:
        """Which numbers are to be reserved with these rows, by source."""
        pace = collections.Counter(row.source for row in rows)
        return self.numbers.wanted(lambda source: max(AHEAD_LEAST, AHEAD_GROUPS * pace[source], 2 * self._waiting))

    def _write_missing(self, connection: sqlite3.Connection, missing: MissingRecords) -> None:
        """Writes the rows of parts without a record, in several transactions; what fails is gone on with later."""
        while (first := max(missing.first, self.next_sequence(missing.source))) < missing.until:
            rows = missing.rows(first)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                last_seq = database.insert(connection, rows)
            with self._changed:
                self._missing -= len(rows)
                self._committed(rows, last_seq)

    def _committed(self, rows: list[ResultRow], last_seq: int) -> None:
        """Under the lock: what is said of every commit."""
        self._last_seq = last_seq
        for row in rows:
            self._sequences[row.source] = max(row.sequence, self._sequences.get(row.source, -1))
        self._commits += 1
        if not self._waiting and not self._missing:
            self._hurry.clear()
        if self.problem is not None:
            log.warning("records are written again")
            self.problem = None
        self._changed.notify_all()

    def _failed(self, error: sqlite3.DatabaseError) -> None:
        """Says why nothing can be written, once; a damaged database is set aside. The group is tried again."""
        if database.is_full(error, self._path):
            self._say_full(error)
            self.retention.make_room()
            self.numbers.retry()
        elif not isinstance(error, sqlite3.OperationalError):
            self._set_aside(error)
            try:
                self._prepare()
            except (sqlite3.DatabaseError, StoreError) as again:
                log.error("no new database yet: %s", again)
        elif self.problem is None:
            self.problem = database.explained(error, self._path)
            log.error("%s; records wait in memory", self.problem)

    def _say_full(self, error: sqlite3.DatabaseError) -> None:
        if self.problem is None:
            self.problem = database.explained(error, self._path)
            log.error("%s; records wait in memory", self.problem)
