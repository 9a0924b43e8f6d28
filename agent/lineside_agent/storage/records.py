"""The records: SQLite in WAL mode with ``synchronous=FULL``, one writer thread, many records a commit.

The record is its own outbox row: what is above the hub's watermark must still be sent. One row in one transaction, so
the two cannot disagree; and a hub that was restored from a backup and requests older rows again gets them.

- `database` has the rows and their numbers; a frame that comes twice is recorded once, and that is counted.
- A record is noted in memory before the line is told its verdict (`record_files.journal`): a kill takes none.
- It is on disk ``commit_every_s`` later at the latest: each commit costs whole pages. With a limit on a day's writes
  that may be longer (`COMMIT_EVERY_S`), and a power cut takes the records of that time.
- A damaged database is set aside under another name, and the line goes on with a new one and a new epoch.
- A full disk does not stop the line, not even at its start: images are deleted, then the disk reserve, then records
  that the hub has. Meanwhile records wait in memory, `WAITING_MAX` of them; further ones of a live camera are counted
  as lost and logged. A finite source waits instead.
- Numbers of a live camera and of triggers are noted before anything else is done with them, and reserved on disk before
  that (`record_files.part_numbers`): after a kill each part under way gets a row ``unrecorded``. After a
  power cut it is not known which reserved numbers were used: their rows are ``unknown``, and count nowhere.
- A kept image that the hub is to have has a row of its own (`unsent`), written with its record.
- The oldest records are deleted beyond the limits of ``[store]``; with a hub only those that it has confirmed.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import secrets
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lineside_agent.config import StoreConfig
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.record_files import database, packs
from lineside_agent.storage.record_files.commit_queue import (
    GROUP_MAX,
    CommitQueue,
    Item,
    LateImage,
    NewWatermark,
    RecordEntry,
    SettledImage,
)
from lineside_agent.storage.record_files.journal import RecordJournal, memory_folder
from lineside_agent.storage.record_files.missing_records import LostRecords, MissingRecords
from lineside_agent.storage.record_files.part_numbers import AHEAD_LEAST, PartNumbers
from lineside_agent.storage.record_files.store_counts import StoreCounts
from lineside_agent.storage.retention import RetentionPolicy
from lineside_agent.storage.write_budget import COMMIT_EVERY_S, Saving
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import StoreError

log = logging.getLogger("lineside.store")

IMAGES_WAITING_MAX = 16
"""Images that may wait for the disk; further ones are skipped and counted, and have their record."""

AHEAD_GROUPS = 4
"""Commits whose numbers are reserved ahead, so that the next reservation is on disk in time."""

RETRY_S = 0.5
"""Pause before the next attempt while the disk is full."""

NAME = "records.db"


class RecordStore:
    """The records of one device.

    Attributes:
        problem: Why records wait; ``None`` if they do not.
        numbers: Of sources that give no part twice.
        kill_safe: Folder for what a kill must leave and a power cut may take: in memory with a limit on writes.

    Args:
        confirmed_only: Whether only records that the hub has may be deleted.
        saving: Returns how the write budget has records written.
        memory: Folder that a kill leaves as it is, and that never waits for a disk.

    Raises:
        DatabaseError: Another process holds the database, or it may not be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        archive: ImageArchive | None = None,
        rules: StoreConfig | None = None,
        confirmed_only: bool = False,
        saving: Callable[[], Saving] = lambda: Saving.NONE,
        memory: Path | None = None,
    ) -> None:
        self.counts = StoreCounts()
        self.problem: StoreError | None = None
        self._path = folder / NAME
        self._rules = rules or StoreConfig()
        memory = memory or memory_folder(folder)
        is_bounded = self._rules.writes_max_bytes_a_day is not None and memory != folder
        self.kill_safe = memory if is_bounded else folder
        self.retention = RetentionPolicy(folder, self._path, archive)
        self.numbers = PartNumbers(folder, self.retention.make_room, memory=memory if is_bounded else None)
        self._journal = RecordJournal(memory)
        self._archive = archive
        self._confirmed_only = confirmed_only
        self._saving = saving
        self._queue = CommitQueue()
        self._changed = threading.Condition()
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
        self._left_over = self._read_journal()
        self._writer = threading.Thread(target=self._run, name="store", daemon=True)
        self._writer.start()

    @property
    def epoch(self) -> str:
        """Random name of this database."""
        return self._epoch

    @property
    def pending(self) -> int:
        """Records that the hub has not confirmed, with those that wait for the disk."""
        with self._changed:
            return self._last_seq - self._acked + self._waiting + self._missing

    def use(self, rules: StoreConfig) -> None:
        """Applies other rules, from the next commit on."""
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
            row: The record; its ``seq`` is assigned later.
            frame: The images that may be kept, the decisive camera's first.
            wait: Whether to wait for room when the disk is full, as a finite source can.

        Returns:
            False if there was no room and the record is lost; that is counted and logged, and a row ``unrecorded``
                takes its place when there is room.
        """
        frames = () if frame is None else (frame,) if isinstance(frame, Frame) else tuple(frame)
        self.note(row)
        with self._changed:
            self._waiting += 1
            frames = frames if self._may_wait_with_images(row, frames, wait=wait) else ()
            self._images += len(frames)
            wake = bool(frames) or self._queue.is_urgent or self._queue.is_filling or self._waiting >= self._group_max()
        # Rows are written in the order of their numbers: none may overtake a lost one.
        if (self._lost and not wait) or not self._queue.put(RecordEntry(row, frames), wait=wait):
            self._count_lost(row, len(frames))
            return False
        if wake:
            self._queue.wake()
        return True

    def note(self, row: ResultRow) -> None:
        """Notes a record that `record` gets next, before the line is told its verdict: a kill does not take it.

        None may overtake a lost one: after a kill those from a lost one on have rows ``unrecorded``. Parts of a source
        that gives them again, with their images, are not noted.
        """
        if not self._lost and self.numbers.begun(row.source) is not None:
            self._journal.note(row)

    def _count_lost(self, row: ResultRow, images: int) -> None:
        reason = str(self.problem or "the disk is too slow")
        self._journal.forget(row)
        with self._changed:
            self._waiting -= 1
            self._images -= images
            self.counts.lost += 1
            if self.numbers.begun(row.source) is not None:
                self._missing += 1
                self._lost.add(row, reason)
        log.error("record of part %r is lost: %s", row.part_id, reason)

    def begin(self, source: str, number: int) -> None:
        """Notes the number of a part, before anything else is done with it."""
        self.numbers.begin(source, number)
        if self.numbers.is_low and not self._queue.is_urgent:
            self._queue.hurry()

    def _may_wait_with_images(self, row: ResultRow, frames: tuple[Frame, ...], *, wait: bool) -> bool:
        """Whether images may wait for the disk; a thousand records may, but as many images are a gigabyte."""
        if not frames or self._archive is None or not self._archive.wants(row):
            return False
        if self._changed.wait_for(lambda: self._images < IMAGES_WAITING_MAX, None if wait else 0.0):
            return True
        self._archive.counts.skipped += len(frames)
        return False

    def acknowledge(self, epoch: str, seq: int) -> None:
        """Takes the hub's watermark: it has committed all rows up to ``seq``.

        Args:
            epoch: Of the database; that of another database is ignored.
            seq: May be lower than before, after the hub was restored from a backup.
        """
        if epoch != self._epoch:
            return
        with self._changed:  # at once: the next commit may be minutes away, and a row that is sent twice does no harm
            if not 0 <= seq <= self._last_seq:
                log.error("the hub confirms row %d of %d here: is this database a copy?", seq, self._last_seq)
                return
            self._acked = seq
        self._queue.offer(NewWatermark(epoch))  # the hub repeats it after the next batch

    def flush(self, timeout_s: float) -> bool:
        """Has all records written now, and waits at most ``timeout_s``; returns whether they are."""
        with self._changed:
            if self._waiting or self._missing:
                self._queue.hurry()
            return self._changed.wait_for(lambda: not (self._waiting or self._missing), timeout_s)

    def wait_change(self, seen: int, timeout_s: float) -> int:
        """Waits for a commit after ``seen`` (0 at first); returns the value for the next call."""
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
        """Reads at most ``limit`` rows above ``after`` and up to `last_seq`, in order of ``seq``."""
        # A commit that `last_seq` does not count yet is on disk: the hub could confirm its rows before it is counted.
        through = self.last_seq
        with database.reading(self._path) as connection:
            found = database.rows_after(connection, self._path, after, limit)
        return [row for row in found if row.seq <= through]

    @property
    def unsent_images(self) -> int:
        """Kept images that the hub does not have."""
        with self._changed:
            return self._unsent

    def first_unsent_image(self, after: int) -> database.UnsentImage | None:
        """Returns the first unsent image of a record above ``after`` that the hub has."""
        through = self.watermark
        if after >= through or not self.unsent_images:
            return None
        with database.reading(self._path) as connection:
            return database.first_unsent(connection, after=after, through=through)

    def send_image(self, epoch: str, seq: int, image: Path) -> None:
        """Has an image sent to the hub that was kept after its record was written, with the next commit."""
        if name := self._name_to_send(image):
            self._queue.put(LateImage(epoch, seq, name), wait=False)
            self._queue.wake()

    def settle_image(self, epoch: str, seq: int) -> None:
        """Marks an image that need not be sent any more, with the next commit."""
        self._queue.offer(SettledImage(epoch, seq))  # if dropped, the image is offered once more after the next start

    def next_sequence(self, source: str) -> int:
        """Returns the number after the last recorded one of ``source``."""
        with self._changed:
            return self._sequences.get(source, -1) + 1

    def resume(self, source: str, *, has_gaps: bool = False) -> int:
        """Returns the number of the next part of a source that gives none twice; `begin` notes it.

        A number that was begun and has no record, as after a kill, gets a row ``unrecorded``; one that may have been
        begun, as after a power cut, a row ``unknown``.

        Args:
            has_gaps: Whether not every number is a part, so that those without a record are ``unknown``.
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
            missing = MissingRecords(source, left.first, left.until, unknown, reason)
            for row in missing.rows(left.first, count):  # else a second kill would leave later ones, and none of these
                self._journal.note(row)
            self._queue.put(missing)
        self._queue.hurry()
        return left.until

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what waits and ends the writer; what still waits after ``timeout_s`` is counted as lost."""
        self._queue.close()
        self._writer.join(timeout_s)
        with self._changed:
            if self._waiting:
                self.counts.lost += self._waiting
                log.error("%d records were not written before the end: %s", self._waiting, self.problem)
        self.numbers.settle()
        self._journal.close()

    # -- the database ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Opens the database, or sets it aside and makes a new one; on a full disk the writer does so later."""
        try:
            facts = self._open()
        except sqlite3.OperationalError as error:  # locked, unreadable: it is whole, so it stays
            raise database.as_store_error(error, self._path) from error
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            facts = self._open()
        with self._changed:
            self._epoch, self._last_seq, self._acked = facts.epoch, facts.last_seq, facts.acked
            self._journal.epoch = facts.epoch
            self._reserved = {**self._reserved, **facts.reserved}
            self._unsent = facts.unsent
            for source, sequence in facts.sequences.items():
                self._sequences[source] = max(sequence, self._sequences.get(source, -1))
            self._changed.notify_all()
        if self._has_tables and self._path.stat().st_size > database.CHECKED_AT_START_BYTES:
            threading.Thread(target=self._check, name="store-check", daemon=True).start()

    def _read_journal(self) -> list[ResultRow]:
        """Takes the records that the process before this one could not commit; the writer begins with them."""
        epochs, rows = self._journal.read()
        if self._epoch not in epochs and not self.counts.set_aside:  # of another database, such as a deleted one
            rows = []
        if rows and self._has_tables:
            with database.reading(self._path) as connection:
                known = packs.recorded(connection, self._path, rows)
            rows = [row for row in rows if (row.source, row.sequence) not in known]
        self._journal.begin(self._epoch, rows)
        if rows:
            log.warning("%d records that a kill had left uncommitted are written now", len(rows))
        with self._changed:
            self._waiting += len(rows)
            self._count_sequences(rows)
        return rows

    def _count_sequences(self, rows: list[ResultRow]) -> None:
        for row in rows:
            self._sequences[row.source] = max(row.sequence, self._sequences.get(row.source, -1))

    def _open(self) -> database.DatabaseFacts:
        epoch = secrets.token_hex(8)
        self._is_replaced = not self._path.exists()
        facts = self._try_to_open(epoch)
        if facts is None and self.retention.make_room():
            facts = self._try_to_open(epoch)
        return facts or database.read_facts(self._path) or database.DatabaseFacts(epoch, 0, 0, {})

    def _try_to_open(self, epoch: str) -> database.DatabaseFacts | None:
        """Opens the database or makes a new one; ``None`` where there is no room."""
        try:
            facts = database.open_schema(self._path, epoch)
        except sqlite3.OperationalError as error:
            if not database.is_full(error, self._path):
                raise
            self._report(error)
            return None
        self._has_tables = True
        return facts

    def _check(self) -> None:
        """Checks a large database in a thread of its own; the writer acts on the result."""
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

    @property
    def alive(self) -> bool:
        """Whether the writer runs; false before `close` means a defect."""
        return self._writer.is_alive()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (group := self._take_left_over() or self._next_group()) is not None:
            while True:
                try:
                    is_bounded = self._rules.writes_max_bytes_a_day is not None
                    connection = connection or database.connect(self._path, is_bounded=is_bounded)
                    self._write(connection, group)
                    break
                except sqlite3.DatabaseError as error:
                    if connection is not None:
                        connection.close()
                    connection = None
                    self._failed(error)
                if self._queue.wait_closing(RETRY_S):
                    return
        if connection is not None:
            self._release_numbers(connection)
            connection.close()

    def _release_numbers(self, connection: sqlite3.Connection) -> None:
        """Ends the reservations in good order: no number is under way, so those without a record were not used."""
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for source in self._reserved:
                    begun = self.numbers.begun(source)
                    until = self.next_sequence(source)
                    database.reserve(connection, source, until if begun is None else max(until, begun + 1))
        except sqlite3.DatabaseError as error:
            log.warning("numbers stay reserved, and will be recorded as unknown: %s", error)

    def _next_group(self) -> list[Item] | None:
        return self._queue.next_group(
            lambda: self.commit_every_s, self._group_max, self._save_images, self._take_lost, self._is_due
        )

    def _take_left_over(self) -> list[Item]:
        rows, self._left_over = self._left_over, []
        images = [None if self._archive is None else self._archive.find(row) for row in rows]
        return [RecordEntry(row, (), self._name_to_send(image)) for row, image in zip(rows, images, strict=True)]

    def _group_max(self) -> int:
        return packs.RECORDS_MAX if self._saving() is Saving.PACKS else GROUP_MAX

    def _take_lost(self) -> list[Item]:
        """Takes the lost records, when everything before them is written."""
        with self._changed:
            return list(self._lost.take())

    def _is_due(self) -> bool:
        """Whether there is something to do although no record waits."""
        return self.retention.is_requested or self._damage is not None or self.numbers.is_due

    @property
    def commit_every_s(self) -> float:
        """Longest time until a record is on disk; so much a power cut may take."""
        return max(self._rules.commit_every_s, COMMIT_EVERY_S[self._saving()])

    def _save_images(self, item: Item) -> Item:
        """Writes the images before their record, so that a record never names an image that is not there."""
        if not isinstance(item, RecordEntry) or not item.frames:
            return item
        images = [self._save_image(frame, item.row) for frame in item.frames]
        with self._changed:
            self._images -= len(item.frames)
            self._changed.notify_all()
        return RecordEntry(item.row, (), self._name_to_send(images[0]))

    def _name_to_send(self, image: Path | None) -> str:
        is_sent = image is not None and self._confirmed_only and self._rules.send_images
        return f"{image.parent.name}/{image.name}" if image is not None and is_sent else ""

    def _save_image(self, frame: Frame, row: ResultRow) -> Path | None:
        if self._archive is None:
            return None
        try:
            return self._archive.save(frame, row)
        except StoreError as error:
            self.counts.images_lost += 1
            log.error("image of part %r is lost: %s", row.part_id, error)
            return None

    def _write(self, connection: sqlite3.Connection, group: list[Item]) -> None:
        """Writes a group in one transaction, after the maintenance that is due."""
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
        entries = [item.row for item in group if isinstance(item, RecordEntry)]
        reserved = self._to_reserve(entries)
        if not group and not reserved:
            return
        images = {
            (item.row.source, item.row.sequence): item.image
            for item in group
            if isinstance(item, RecordEntry) and item.image
        }
        settled = [item.seq for item in group if isinstance(item, SettledImage) and item.epoch == self._epoch]
        late = [item for item in group if isinstance(item, LateImage) and item.epoch == self._epoch]
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if len(entries) >= packs.RECORDS_LEAST and self._saving() is Saving.PACKS:
                last_seq = database.insert_packed(connection, self._path, entries, images)
            else:
                last_seq = database.insert(connection, entries, images)
            if NewWatermark(self._epoch) in group:
                database.set_watermark(connection, self._acked)
            for source, until in reserved.items():
                database.reserve(connection, source, until)
            added = database.count_unsent(connection, after=self._last_seq) if images else 0
            added -= database.settle_unsent(connection, settled)
            added += database.add_unsent(connection, [database.UnsentImage(item.seq, item.path) for item in late])
        with self._changed:
            written = last_seq - self._last_seq
            self.counts.recorded += written
            self.counts.repeated += len(entries) - written
            self._waiting -= len(entries)
            self._unsent += added
            self.counts.images_late += len(late)
            self._reserved.update(reserved)
            self._committed(entries, last_seq)
        self._journal.settle(entries)
        for source, until in reserved.items():
            self.numbers.reserved(source, until)

    def _to_reserve(self, rows: list[ResultRow]) -> dict[str, int]:
        """Returns the numbers to reserve with these rows, by source."""
        counts = collections.Counter(row.source for row in rows)
        return self.numbers.wanted(lambda source: max(AHEAD_LEAST, AHEAD_GROUPS * counts[source], 2 * self._waiting))

    def _write_missing(self, connection: sqlite3.Connection, missing: MissingRecords) -> None:
        """Writes rows in place of missing records, in several transactions; after a failure it goes on where it was."""
        while (first := max(missing.first, self.next_sequence(missing.source))) < missing.until:
            rows = missing.rows(first)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                last_seq = database.insert(connection, rows)
            self._journal.settle(rows)
            with self._changed:
                self._missing -= len(rows)
                self._committed(rows, last_seq)

    def _committed(self, rows: list[ResultRow], last_seq: int) -> None:
        """Updates the state after a commit; the caller holds the lock."""
        self._last_seq = last_seq
        self._count_sequences(rows)
        self._commits += 1
        if not self._waiting and not self._missing:
            self._queue.calm()
        if self.problem is not None:
            log.warning("records are written again")
            self.problem = None
        self._changed.notify_all()

    def _failed(self, error: sqlite3.DatabaseError) -> None:
        """Logs once why nothing can be written, and sets a damaged database aside. The group is tried again."""
        if database.is_full(error, self._path):
            self._report(error)
            self.retention.make_room()
            self.numbers.retry()
        elif not isinstance(error, sqlite3.OperationalError):
            self._set_aside(error)
            try:
                self._prepare()
            except (sqlite3.DatabaseError, StoreError) as again:
                log.error("no new database yet: %s", again)
        else:
            self._report(error)

    def _report(self, error: sqlite3.DatabaseError) -> None:
        if self.problem is None:
            self.problem = database.as_store_error(error, self._path)
            log.error("%s; records wait in memory", self.problem)
