"""`RecordJournal`: verdicts that the line may have been told and that no commit has written yet, for the next process.

A record is written here before the line is told its verdict, by one ``write`` without fsync into a file in memory
(`memory_folder`), which never waits for a disk. So after a kill each told verdict still has its record; a power cut
takes those since the last commit. Two files are used in turn: what is still pending is written to the other one before
the first is emptied, so at every moment one of them has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from lineside_link.messages import ResultRow
from lineside_runtime.decoding import decode_json

log = logging.getLogger("lineside.store")

NAMES = ("journal.0", "journal.1")

SHARED_MEMORY = Path("/dev/shm")
"""Linux's folder in memory where no service manager provides one."""

MAX_BYTES = 16 << 20
"""Size of one file; after a kill, records beyond it are ``unrecorded``."""


def memory_folder(folder: Path, runtime: str | None = None) -> Path:
    """Returns a private folder in memory for a state folder, which a kill of the process leaves as it is.

    Args:
        folder: The state folder; also the answer where there is no memory to write to.
        runtime: Folders of the service manager, as in systemd's ``RUNTIME_DIRECTORY``, which it keeps over a restart
            (``RuntimeDirectoryPreserve=restart``).
    """
    runtime = os.environ.get("RUNTIME_DIRECTORY", "") if runtime is None else runtime
    first = runtime.partition(":")[0]
    if first and Path(first).is_dir():
        return Path(first)
    user = SHARED_MEMORY / f"lineside-{os.getuid()}"
    place = user / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    try:
        for made in (user, place):
            made.mkdir(mode=0o700, exist_ok=True)
            found = made.lstat()
            # Everybody may write in /dev/shm: what another user has made there is not used.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                return folder
    except OSError:
        return folder
    return place


class RecordJournal:
    """Records of one store until they are committed; from any thread.

    Attributes:
        epoch: Of the database that the records belong to.
    """

    def __init__(self, folder: Path) -> None:
        self.epoch = ""
        self._paths = [folder / name for name in NAMES]
        self._pending: dict[tuple[str, int], bytes] = {}
        self._refused: set[tuple[str, int]] = set()
        self._descriptors: list[int] = []
        self._current = 0
        self._size = 0
        self._has_failed = False
        self._lock = threading.Lock()

    def read(self) -> tuple[set[str], list[ResultRow]]:
        """Returns what the process before this one has left: the epochs of its files, and rows in their order."""
        epochs: set[str] = set()
        rows: dict[tuple[str, int], ResultRow] = {}
        for path in self._paths:
            try:
                lines = path.read_bytes().split(b"\n")
            except OSError:
                continue
            for place, line in enumerate(lines):
                checksum, _, data = line.partition(b" ")
                if not data or checksum != b"%08x" % zlib.crc32(data):
                    break  # the end, or a line that the kill has cut
                if place == 0:
                    epochs.add(data.decode())
                    continue
                try:
                    row = decode_json(data, type=ResultRow)
                except msgspec.DecodeError as error:
                    log.error("%s: a record of another release can't be read: %s", path, error)
                    continue
                rows[row.source, row.sequence] = row
        return epochs, list(rows.values())

    def begin(self, epoch: str, rows: Iterable[ResultRow]) -> None:
        """Starts new files that hold these rows; on an error the store goes on without them."""
        self.epoch = epoch
        try:
            for path in self._paths:
                self._descriptors.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            self._fail(error)
            self.close()
            return
        with self._lock:
            self._pending = {(row.source, row.sequence): _line(msgspec.json.encode(row)) for row in rows}
            self._swap()

    def note(self, row: ResultRow) -> None:
        """Writes a record, before its verdict is told; does nothing for one that was noted.

        None may overtake one that found no room: the next process takes numbers below the last one for recorded.
        """
        key = (row.source, row.sequence)
        with self._lock:
            if not self._descriptors or key in self._pending or key in self._refused:
                return
            line = _line(msgspec.json.encode(row))
            if not self._refused and self._size <= MAX_BYTES and self._append(line):
                self._pending[key] = line
            else:
                self._refused.add(key)

    def settle(self, rows: Iterable[ResultRow]) -> None:
        """Removes records that are committed now."""
        with self._lock:
            if not self._descriptors:
                return
            for row in rows:
                self._pending.pop((row.source, row.sequence), None)
                self._refused.discard((row.source, row.sequence))
            self._swap()

    def forget(self, row: ResultRow) -> None:
        """Removes a lost record with the next `settle`."""
        with self._lock:
            self._pending.pop((row.source, row.sequence), None)
            self._refused.discard((row.source, row.sequence))

    def close(self) -> None:
        """Closes the files, and deletes them, and their folder in shared memory, if no record is left in them."""
        with self._lock:
            for descriptor in self._descriptors:
                os.close(descriptor)
            is_done = bool(self._descriptors) and not self._pending
            self._descriptors = []
        if is_done:
            for path in self._paths:
                path.unlink(missing_ok=True)
            folder = self._paths[0].parent
            if SHARED_MEMORY in folder.parents:  # nobody else removes it; another user of it keeps its files
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _swap(self) -> None:
        """Writes what is pending to the other file, then empties this one; the caller holds the lock."""
        before, self._current, self._size = self._current, 1 - self._current, 0
        try:
            os.ftruncate(self._descriptors[self._current], 0)
            self._append(_line(self.epoch.encode()) + b"".join(self._pending.values()))
            os.ftruncate(self._descriptors[before], 0)
        except OSError as error:
            self._fail(error)

    def _append(self, data: bytes) -> bool:
        try:
            os.pwrite(self._descriptors[self._current], data, self._size)
        except OSError as error:
            self._fail(error)
            return False
        self._size += len(data)
        return True

    def _fail(self, error: OSError) -> None:
        if not self._has_failed:
            log.error("records can't be noted before they are committed; a kill would take them: %s", error)
        self._has_failed = True


def _line(data: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(data), data)
