"""`PartNumbers`: the last number that a part of each source has begun with, in one pre-allocated file a source.

A number is written before anything else is done with it, without fsync: after a kill the kernel still has it, so the
next process knows exactly which numbers were begun. After a power cut only the ceiling is certain, which is on the disk
before the numbers below it are used: it is not known which of the numbers after the last one on the disk were used.

The store raises the ceiling with its commits. If that is too late, as on a full disk, `begin` raises it in the file,
which needs no new room. A file that cannot be made or written is a `problem`: no further part may begin. Before it
could be made once, as on a disk that was full before the very first start, no trigger is read and no frame of a live
camera.

A device that may write little keeps the numbers in a second file in memory: a kill leaves that one too, and the one on
the disk is written with a new ceiling only. The file in memory counts only beside the one on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lineside_runtime.files import fsync_folder

log = logging.getLogger("lineside.store")

FOLDER = "begun"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

AHEAD_LEAST = 64
"""Numbers that are reserved ahead of use, at least."""

RETRY_S = 1.0
"""Pause before the next attempt to write the file."""

AHEAD_IN_FILE = 256
"""Numbers that are reserved in the file when the store cannot: one fdatasync for so many parts."""

_LAYOUT = struct.Struct("<8s16s6q")
_MAGIC = b"begun\0\0\1"
_CHECKSUM = struct.Struct("<I")
_BYTES = _LAYOUT.size + _CHECKSUM.size
"""Less than a sector, so that a power cut leaves the old content or the new one."""


class Resumed(NamedTuple):
    """State that the process before this one has left.

    Attributes:
        first: First number without a record.
        until: Number of the next part.
        unknown: Numbers in between that a part may have or not; with the others a part has begun.
    """

    first: int
    until: int
    unknown: range


class _Content(NamedTuple):
    boot: bytes
    begun: int
    ceiling: int
    owed_from: int
    unknown_from: int
    unknown_until: int
    is_settled: int

    def encode(self) -> bytes:
        data = _LAYOUT.pack(_MAGIC, *self)
        return data + _CHECKSUM.pack(zlib.crc32(data))

    @classmethod
    def decode(cls, data: bytes) -> _Content | None:
        if len(data) != _BYTES or _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0] != zlib.crc32(data[: _LAYOUT.size]):
            return None
        magic, *fields = _LAYOUT.unpack(data[: _LAYOUT.size])
        return cls(*fields) if magic == _MAGIC else None


class _Source:
    """The numbers of one source; its file may not exist yet."""

    def __init__(self, path: Path, memory: Path | None) -> None:
        self.begun = -1
        self.ceiling = 0
        self.owed_from = 0
        self.unknown = range(0)
        self._path = path
        self._memory = memory
        self._in_memory = -1
        self._boot = bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))
        self._descriptor = -1
        self._lock = threading.Lock()

    def read(self) -> _Content | None:
        content = _read(self._path)
        later = None if self._memory is None or content is None else _read(self._memory)
        if content is None or later is None or not self.is_of_this_boot(later) or later.begun < content.begun:
            return content
        return later._replace(ceiling=max(later.ceiling, content.ceiling))

    def is_of_this_boot(self, content: _Content) -> bool:
        return content.boot == self._boot

    def reserve_first(self) -> None:
        """Makes or opens the file, and puts a ceiling on the disk; raises `OSError`."""
        ceiling = self.begun + 1 + AHEAD_LEAST
        if self.is_open:
            self.raise_ceiling(ceiling)
        else:
            self._make(ceiling)

    def _make(self, ceiling: int) -> None:
        is_new = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if self._memory is not None:
                self._memory.parent.mkdir(exist_ok=True)
                self._in_memory = os.open(self._memory, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self.raise_ceiling(ceiling)
        except OSError:
            self.close()
            if is_new:
                self._path.unlink()
            raise
        if is_new:
            for folder in self._path.parents[:2]:
                fsync_folder(folder)

    @property
    def is_open(self) -> bool:
        return self._descriptor >= 0

    def begin(self, number: int) -> None:
        with self._lock:
            self.begun = max(self.begun, number)
        self.write()

    def write(self, *, ceiling: int = 0, is_settled: bool = False, to_disk: bool = False) -> None:
        with self._lock:
            if self._descriptor >= 0:
                ceiling = max(ceiling, self.ceiling)
                unknown = (self.unknown.start, self.unknown.stop)
                content = _Content(self._boot, self.begun, ceiling, self.owed_from, *unknown, is_settled)
                if self._in_memory >= 0:
                    os.pwrite(self._in_memory, content.encode(), 0)
                if self._in_memory < 0 or to_disk:
                    os.pwrite(self._descriptor, content.encode(), 0)

    def raise_ceiling(self, ceiling: int) -> None:
        """Raises the ceiling; raises `OSError` and leaves it as it was if that fails."""
        self.write(ceiling=ceiling, to_disk=True)
        os.fdatasync(self._descriptor)
        self.ceiling = max(self.ceiling, ceiling)

    def settle(self) -> None:
        self.ceiling = self.begun + 1
        self.write(is_settled=True, to_disk=True)
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._in_memory >= 0:
            os.close(self._in_memory)
            self._in_memory = -1


def _read(path: Path) -> _Content | None:
    try:
        content = _Content.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        log.error("%s can't be read: %s", path, error)
        return None
    if content is None:
        log.error("%s is damaged: which numbers were begun is not known", path)
    return content


class PartNumbers:
    """The numbers of all sources that give no part twice.

    Attributes:
        problem: Why no number can be reserved; empty if they can.

    Args:
        make_room: Makes room on a full disk; false if there is nothing to delete.
        memory: Folder for the files in memory; ``None`` without them.
    """

    def __init__(self, folder: Path, make_room: Callable[[], bool], *, memory: Path | None = None) -> None:
        self.problem = ""
        self._retry_at_s = 0.0
        self._folder = folder / FOLDER
        self._memory = None if memory is None else memory / FOLDER
        self._make_room = make_room
        self._sources: dict[str, _Source] = {}

    def resume(self, source: str, *, first: int, reserved: int, is_replaced: bool) -> Resumed:
        """Goes on after the process before this one.

        Args:
            first: Number after the last recorded one.
            reserved: The ceiling in the database.
            is_replaced: Whether the database is a new one in place of another, which has the rows of the begun numbers.
        """
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        memory = None if self._memory is None else self._memory / digest
        numbers = self._sources.setdefault(source, _Source(self._folder / digest, memory))
        left = self._resumed(numbers, first, reserved, is_replaced=is_replaced)
        # Rows in place of missing ones are not written yet: the process after a second kill must know the same.
        numbers.owed_from, numbers.unknown = max(left.first, numbers.owed_from), left.unknown
        numbers.begun, numbers.ceiling = left.until - 1, left.until
        if problem := self._open(numbers):
            self._set_problem(problem)
        return left

    def _resumed(self, numbers: _Source, first: int, reserved: int, *, is_replaced: bool) -> Resumed:
        content = numbers.read()
        if content is None:
            until = max(first, reserved)
            return Resumed(first, until, range(first, until))
        numbers.owed_from = content.owed_from
        first = max(first, content.owed_from)
        until = max(first, content.begun + 1)
        unknown = range(max(first, content.unknown_from), max(first, content.unknown_until))
        # What an older agent has recorded since is not in the file, nor is all of it after a power cut.
        if first > content.begun + 1 or not (content.is_settled or numbers.is_of_this_boot(content)):
            known, until = until, max(until, content.ceiling, reserved)
            unknown = range(unknown.start if unknown else known, until)
        return Resumed(until, until, range(0)) if is_replaced else Resumed(first, until, unknown)

    def begin(self, source: str, number: int) -> None:
        """Notes the number of a part before it is used. Waits for the disk only beyond the ceiling."""
        numbers = self._sources[source]
        try:
            numbers.begin(number)
            if number >= numbers.ceiling and numbers.is_open:
                numbers.raise_ceiling(number + 1 + AHEAD_IN_FILE)
        except OSError as error:
            self._set_problem(str(error))

    def is_reserved(self, source: str) -> bool:
        """Whether numbers of a resumed source were ever on the disk; without that a restart would give them again."""
        return self._sources[source].is_open

    def begun(self, source: str) -> int | None:
        """Returns the last begun number of a source; ``None`` if it was not resumed."""
        numbers = self._sources.get(source)
        return None if numbers is None else numbers.begun

    def wanted(self, ahead: Callable[[str], int]) -> dict[str, int]:
        """Returns the ceilings that the store must write next, by source; none while half of ``ahead`` is left."""
        return {
            source: numbers.begun + 1 + ahead(source)
            for source, numbers in self._sources.items()
            if numbers.ceiling - numbers.begun - 1 < ahead(source) // 2
        }

    @property
    def is_low(self) -> bool:
        """Whether the store must raise a ceiling now."""
        return any(numbers.ceiling - numbers.begun - 1 < AHEAD_LEAST // 2 for numbers in self._sources.values())

    def reserved(self, source: str, until: int) -> None:
        """Takes a ceiling that the store has written."""
        if numbers := self._sources.get(source):
            numbers.ceiling = max(numbers.ceiling, until)

    def replaced(self, next_number: Callable[[str], int]) -> None:
        """Takes the change to a new database: what is recorded in the old one gets no row in the new one."""
        for source, numbers in self._sources.items():
            numbers.owed_from = next_number(source)
            with contextlib.suppress(OSError):
                numbers.write(to_disk=True)

    @property
    def is_due(self) -> bool:
        """Whether the store must write although no record waits: a ceiling, or what has failed."""
        return self.is_low or (bool(self.problem) and time.monotonic() >= self._retry_at_s)

    def retry(self) -> None:
        """Tries again what has failed; at each attempt of the store to write."""
        if self.problem:
            self._retry_at_s = time.monotonic() + RETRY_S
            self._set_problem("; ".join(filter(None, map(self._open, self._sources.values()))))

    def settle(self) -> None:
        """Ends in good order: no number is under way, so the begun ones are known after a power cut too."""
        for source, numbers in self._sources.items():
            try:
                if numbers.is_open:
                    numbers.settle()
            except OSError as error:
                log.warning("%s: the last number can't be written down: %s", source, error)
            numbers.close()

    def _open(self, numbers: _Source) -> str:
        """Puts a ceiling into the file; returns why that failed, empty if it did not."""
        try:
            try:
                numbers.reserve_first()
            except OSError:
                if not self._make_room():
                    raise
                numbers.reserve_first()
        except OSError as error:
            return str(error)
        return ""

    def _set_problem(self, problem: str) -> None:
        if problem and not self.problem:
            log.error("part numbers can't be reserved: %s", problem)
        elif self.problem and not problem:
            log.warning("part numbers can be reserved again")
        self.problem = problem
