"""Puts checked chunks into the files of a bundle, and finds out after a kill what is there already.

An unfinished file lies beside its final place as ``.<name>.<16 digits of its sha256>.part`` in its full size, so that
its room is taken from the start and the disk cannot fill up half-way. It gets its name only when its whole
hash is right and it is on the disk. After a kill every 64 KiB slot is hashed again, and what matches is kept:
no note of progress can be wrong, because there is none.

Unfinished files are kept when a fetch stops or the hub is away. They are removed when the disk is full, because
the line's records need the room first.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lineside_runtime.bundle import CHUNK_BYTES, FileEntry, FileList, check_relative, verify_file
from lineside_runtime.errors import BundleIntegrityError, DiskFullError
from lineside_runtime.files import fsync_folder

log = logging.getLogger("lineside.link")

SPARE_BYTES = 1 << 20
"""Room that must remain beside the bundle for folders and the manifest."""


@dataclasses.dataclass(frozen=True, slots=True)
class FetchReport:
    """What a fetch did.

    Attributes:
        fetched_bytes: Came over the link.
        reused_bytes: Were there already, or are a repetition of a chunk that came.
        mismatches: Chunks that arrived with another hash and were asked for again.
    """

    fetched_bytes: int
    reused_bytes: int
    mismatches: int


@dataclasses.dataclass(slots=True, eq=False)
class _File:
    path: Path
    part: Path
    entry: FileEntry
    missing: int


class Assembly:
    """The files of one bundle on their way into a folder.

    Attributes:
        missing: sha256 of each chunk that must be fetched, once, in the order of the files.
        done_bytes: Bytes that are in place and checked.
        total_bytes: Bytes of all files.

    Args:
        manifest: Names the files.
        folder: Where to.
    """

    def __init__(self, manifest: FileList, folder: Path) -> None:
        self.total_bytes = manifest.size_bytes
        self.done_bytes = 0
        self._folder = folder
        self._fetched_bytes = 0
        self._open: list[_File] = []
        self._slots: dict[str, list[tuple[_File, int]]] = collections.defaultdict(list)
        self._entries = manifest.files

    @property
    def missing(self) -> list[str]:
        """sha256 of each chunk that is not here, each once."""
        return list(self._slots)

    def prepare(self) -> None:
        """Takes stock of what is there, makes room for the rest, and finishes the files that are whole already.

        Raises:
            DiskFullError: There is no room; no unfinished file is left.
            BundleFormatError: A path leaves the folder.
        """
        with self._disk_full_means_clean():
            self._folder.mkdir(parents=True, exist_ok=True)
            for relative, entry in self._entries.items():
                check_relative(relative)
                self._take_stock(self._folder / relative, entry)
            self._check_room()
            known = self._scan()
            for file in self._open:
                _reserve(file)
            self._copy_known(known)
            for file in [file for file in self._open if file.missing == 0]:
                self._complete(file)

    def _take_stock(self, path: Path, entry: FileEntry) -> None:
        part = path.with_name(f".{path.name}.{entry.sha256[:16]}.part")
        if path.is_file():
            try:
                verify_file(path, entry)
            except BundleIntegrityError as error:
                log.warning("%s is fetched again: %s", path, error)
                path.replace(part)
            else:
                self.done_bytes += entry.size
                return
        self._open.append(_File(path, part, entry, len(entry.chunks)))

    def _check_room(self) -> None:
        here = sum(file.part.stat().st_blocks * 512 for file in self._open if file.part.is_file())
        needed = sum(file.entry.size for file in self._open) - here
        free = shutil.disk_usage(self._folder).free
        if needed > 0 and free < needed + SPARE_BYTES:
            raise DiskFullError(path=str(self._folder), needed_bytes=needed + SPARE_BYTES)

    def _scan(self) -> dict[str, tuple[Path, int]]:
        """Hashes the slots of unfinished files and notes which chunks are missing and where known ones lie."""
        known: dict[str, tuple[Path, int]] = {}
        for file in self._open:
            found = _hash_slots(file.part) if file.part.is_file() else []
            for index, digest in enumerate(file.entry.chunks):
                if index < len(found) and found[index] == digest:
                    known[digest] = (file.part, index)
                    self._count_slot(file, index)
                else:
                    self._slots[digest].append((file, index))
        return known

    def _copy_known(self, known: dict[str, tuple[Path, int]]) -> None:
        for digest in [digest for digest in self._slots if digest in known]:
            path, index = known[digest]
            with path.open("rb") as source:
                source.seek(index * CHUNK_BYTES)
                self._write_slots(digest, source.read(CHUNK_BYTES))

    def put(self, digest: str, body: bytes) -> bool:
        """Writes a chunk wherever it belongs, and finishes the files that it completes.

        Args:
            digest: sha256 under which it was asked for.
            body: What arrived.

        Returns:
            Whether it had that hash; if not, nothing was written.

        Raises:
            DiskFullError: There is no room; no unfinished file is left.
            BundleIntegrityError: All chunks of a file are right and its own hash is not: the manifest is wrong.
        """
        if hashlib.sha256(body).hexdigest() != digest:
            return False
        with self._disk_full_means_clean():
            touched = [file for file, _ in self._slots[digest]]
            self._fetched_bytes += len(body)
            self._write_slots(digest, body)
            for file in dict.fromkeys(touched):
                if file.missing == 0:
                    self._complete(file)
        return True

    def _write_slots(self, digest: str, body: bytes) -> None:
        for file, index in self._slots.pop(digest):
            with file.part.open("r+b") as target:
                target.seek(index * CHUNK_BYTES)
                target.write(body)
            self._count_slot(file, index)

    def _count_slot(self, file: _File, index: int) -> None:
        file.missing -= 1
        self.done_bytes += min(CHUNK_BYTES, file.entry.size - index * CHUNK_BYTES)

    def _complete(self, file: _File) -> None:
        with file.part.open("r+b") as target:
            os.fsync(target.fileno())
        try:
            verify_file(file.part, file.entry)
        except BundleIntegrityError:
            file.part.unlink()
            raise
        file.part.replace(file.path)
        fsync_folder(file.path.parent)
        self._open.remove(file)

    def finish(self, mismatches: int) -> FetchReport:
        """Returns what was done; every file has its name.

        Args:
            mismatches: Chunks that had to be asked for again.
        """
        fsync_folder(self._folder)
        return FetchReport(self._fetched_bytes, self.total_bytes - self._fetched_bytes, mismatches)

    @contextmanager
    def _disk_full_means_clean(self) -> Iterator[None]:
        try:
            yield
        except DiskFullError:
            self._remove_parts()
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._remove_parts()
            raise DiskFullError(path=str(self._folder), needed_bytes=self.total_bytes - self.done_bytes) from error

    def _remove_parts(self) -> None:
        for file in self._open:
            file.part.unlink(missing_ok=True)


def _hash_slots(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [hashlib.sha256(chunk).hexdigest() for chunk in iter(lambda: file.read(CHUNK_BYTES), b"")]


def _reserve(file: _File) -> None:
    """Gives the unfinished file its full size and its blocks."""
    file.part.parent.mkdir(parents=True, exist_ok=True)
    with file.part.open("ab") as target:
        target.truncate(file.entry.size)
        if file.entry.size:
            os.posix_fallocate(target.fileno(), 0, file.entry.size)
