"""Write verified chunks into the files of a bundle, and continue after a kill.

An unfinished file is beside its final path as ``.<name>.<16 digits of its sha256>.part`` in its full size, so that the
disk cannot fill up half-way. It gets its name only when every chunk in it has the hash of the signed manifest and it is
synced. After a kill every 64 KiB slot is hashed again, and matching slots are kept: there is no progress file that
could be wrong.

The hash of a whole file is not computed here: before a bundle is used, its files are read back from the disk and
compared (`open_bundle`, the state ``verifying``), which also finds errors of the disk.

Unfinished files are kept when a fetch stops or the hub is offline. They are deleted when the disk is full, because the
records of the line have priority.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import queue
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lineside_runtime.bundle import CHUNK_BYTES, Bundle, FileEntry, check_relative, verify_file
from lineside_runtime.errors import BundleIntegrityError, DeltaError, DiskFullError
from lineside_runtime.files import fsync_folder, is_disk_full

log = logging.getLogger("lineside.link")

FLUSH_BYTES = 8 << 20
"""Written bytes after which a sync starts in the background."""

SPARE_BYTES = 1 << 20
"""Disk space that must remain for folders and the manifest."""


@dataclasses.dataclass(frozen=True, slots=True)
class FetchReport:
    """Statistics of a fetch.

    Attributes:
        fetched_bytes: Received over the link, patches included.
        reused_bytes: The rest of the files: on disk already, made by a patch, or a repeated chunk.
        mismatches: Chunks that arrived with another hash and were requested again.
        fallbacks: Why a file was fetched whole although there was a patch for it.
    """

    fetched_bytes: int
    reused_bytes: int
    mismatches: int
    multicast_bytes: int = 0
    patched: int = 0
    fallbacks: tuple[str, ...] = ()


@dataclasses.dataclass(slots=True, eq=False)
class _File:
    """An unfinished file.

    Attributes:
        part: Path while it is unfinished.
        filled: One byte for each slot: whether it has the right chunk.
        lacking: Number of slots without the right chunk.
    """

    path: Path
    part: Path
    entry: FileEntry
    filled: bytearray
    lacking: int

    @property
    def whole(self) -> bool:
        return self.lacking == 0

    def slot_bytes(self, index: int) -> int:
        return min(CHUNK_BYTES, self.entry.size - index * CHUNK_BYTES)

    @property
    def filled_bytes(self) -> int:
        return sum(self.slot_bytes(index) for index, there in enumerate(self.filled) if there)


class Assembly:
    """Files that are being written into a folder.

    Attributes:
        done_bytes: Written and checked bytes.
        fetched_bytes: Bytes of the chunks that were written by `put`.
    """

    def __init__(self, entries: Mapping[str, FileEntry], folder: Path) -> None:
        self.total_bytes = sum(entry.size for entry in entries.values())
        self.done_bytes = 0
        self.fetched_bytes = 0
        self._folder = folder
        self._open: dict[str, _File] = {}
        self._named: dict[str, _File] = {}
        self._writer = _Writer()
        self._whole_now = True  # empty files are whole
        self._slots: dict[str, list[tuple[_File, int]]] = collections.defaultdict(list)
        self._entries = entries

    @property
    def missing(self) -> list[str]:
        """sha256 of each missing chunk, in the order of the files."""
        return list(self._slots)

    @property
    def unfinished(self) -> dict[str, FileEntry]:
        """Relative path to entry of each file that is not whole."""
        return {relative: file.entry for relative, file in self._open.items()}

    def missing_in(self, relative: str) -> dict[str, int]:
        """Returns the size of each missing chunk of a file, by sha256."""
        file = self._open.get(relative)
        if file is None:
            return {}
        gaps = [index for index, there in enumerate(file.filled) if not there]
        return {file.entry.chunks[index]: file.slot_bytes(index) for index in gaps}

    def size_of(self, digest: str) -> int:
        """Returns the size of a missing chunk in bytes; 0 for any other chunk."""
        places = self._slots.get(digest)
        return places[0][0].slot_bytes(places[0][1]) if places else 0

    def prepare(self, base: Bundle | None = None) -> None:
        """Finds existing files and chunks, reserves disk space for the rest, and finishes complete files.

        Args:
            base: A bundle on this disk whose chunks are reused; each is hashed.

        Raises:
            DiskFullError: The disk is full; all unfinished files were deleted.
            BundleFormatError: A path leaves the folder.
        """
        with self._clean_when_full():
            self._folder.mkdir(parents=True, exist_ok=True)
            for relative, entry in self._entries.items():
                check_relative(relative)
                self._find_file(relative, entry)
            self._check_room()
            known: dict[str, tuple[Path, int]] = {}
            for file in self._open.values():
                known |= self._scan(file)
            for file in self._open.values():
                _reserve(file)
            self._copy_known(known)
            if base is not None:
                self._copy_known(_chunk_places(base))
            self._complete_whole()

    def _find_file(self, relative: str, entry: FileEntry) -> None:
        path = self._folder / relative
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
        self._open[relative] = _File(path, part, entry, bytearray(len(entry.chunks)), len(entry.chunks))

    def _check_room(self) -> None:
        files = self._open.values()
        here = sum(file.part.stat().st_blocks * 512 for file in files if file.part.is_file())
        needed = sum(file.entry.size for file in files) - here
        free = shutil.disk_usage(self._folder).free
        if needed > 0 and free < needed + SPARE_BYTES:
            raise DiskFullError(path=str(self._folder), needed_bytes=needed + SPARE_BYTES)

    def _scan(self, file: _File) -> dict[str, tuple[Path, int]]:
        """Hashes the slots of an unfinished file; registers missing chunks and returns the places of the others."""
        known: dict[str, tuple[Path, int]] = {}
        found = _hash_slots(file.part) if file.part.is_file() else []
        for index, digest in enumerate(file.entry.chunks):
            if index < len(found) and found[index] == digest:
                known[digest] = (file.part, index)
                self._fill(file, index)
            else:
                self._slots[digest].append((file, index))
        return known

    def _copy_known(self, known: dict[str, tuple[Path, int]]) -> None:
        for digest in [digest for digest in self._slots if digest in known]:
            path, index = known[digest]
            body = _read_slot(path, index)
            if hashlib.sha256(body).hexdigest() == digest:
                self._write_slots(digest, body)

    def put(self, digest: str, body: bytes | memoryview) -> bool:
        """Writes a chunk into all its slots; completed files are finished in the background.

        Returns:
            Whether it has that hash; if not, nothing was written.

        Raises:
            DiskFullError: The disk is full; all unfinished files were deleted.
            BundleIntegrityError: A file's only chunk has the right hash and the file has not: the manifest is wrong.
        """
        if hashlib.sha256(body).hexdigest() != digest:
            return False
        if digest in self._slots:
            with self._clean_when_full():
                self.fetched_bytes += len(body)
                self._write_slots(digest, body)
                self._complete_whole()
        return True

    def _write_slots(self, digest: str, body: bytes | memoryview) -> None:
        for file, index in self._slots.pop(digest):
            self._writer.write(file.part, index, body)
            self._fill(file, index)

    def _fill(self, file: _File, index: int) -> None:
        file.filled[index] = 1
        file.lacking -= 1
        self.done_bytes += file.slot_bytes(index)
        self._whole_now |= file.lacking == 0

    def _complete_whole(self) -> None:
        if not self._whole_now:
            return
        self._whole_now = False
        for relative in [relative for relative, file in self._open.items() if file.whole]:
            file = self._open[relative]
            _check_only_chunk(file)
            self._named[relative] = self._open.pop(relative)
            self._writer.finish(file.part, file.path)

    def settle(self) -> None:
        """Waits until every complete file has its name.

        Raises:
            DiskFullError: The disk is full; all unfinished files were deleted.
        """
        with self._clean_when_full():
            self._writer.wait()

    def rebuild(self, relative: str, blocks: Iterable[bytes]) -> None:
        """Writes and finishes a file from other content than chunks, such as a patch.

        Raises:
            DeltaError: The content is wrong, or ``blocks`` raises it. The file's missing chunks are determined again.
            DiskFullError: The disk is full; all unfinished files were deleted.
        """
        file = self._open[relative]
        with self._clean_when_full():
            self.done_bytes -= file.filled_bytes
            self._forget(file)
            try:
                _write_whole(file, blocks)
            except DeltaError:
                self._scan(file)
                raise
            self.done_bytes += file.entry.size
            self._named[relative] = self._open.pop(relative)
            file.part.replace(file.path)

    def _forget(self, file: _File) -> None:
        file.filled[:] = bytes(len(file.filled))
        file.lacking = len(file.filled)
        for digest, places in list(self._slots.items()):
            places[:] = [place for place in places if place[0] is not file]
            if not places:
                del self._slots[digest]

    def discard(self) -> None:
        """Deletes all unfinished files."""
        self._writer.close()
        for file in (*self._open.values(), *self._named.values()):
            file.part.unlink(missing_ok=True)

    def finish(self) -> None:
        """Waits until every file has its name, and syncs the folders.

        Raises:
            DiskFullError: The disk is full; all unfinished files were deleted.
        """
        self.settle()
        parents = {parent for relative in self._named for parent in Path(relative).parents}
        for parent in parents | {Path()}:
            fsync_folder(self._folder / parent)

    def close(self) -> None:
        """Ends the background thread; nothing is written afterwards. A repeat changes nothing."""
        self._writer.close()

    @contextlib.contextmanager
    def _clean_when_full(self) -> Iterator[None]:
        """Deletes all unfinished files if the block finds the disk full."""
        try:
            yield
        except DiskFullError:
            self.discard()
            raise
        except OSError as error:
            if not is_disk_full(error):
                raise
            self.discard()
            raise DiskFullError(path=str(self._folder), needed_bytes=self.total_bytes - self.done_bytes) from error


class _Writer:
    """Writes chunks into files; a background thread syncs and renames them.

    One file is kept open: chunks come in the order of the files, and opening it for each took longer than writing.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._descriptor = -1
        self._unsynced = 0
        self._jobs: queue.Queue[tuple[Path, Path | None] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def write(self, path: Path, index: int, body: bytes | memoryview) -> None:
        """Writes one slot and starts a sync after `FLUSH_BYTES`; raises an earlier error of the thread."""
        if self._error is not None:
            raise self._error
        if path is not self._path:
            self._close_file()
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            self._path = path
        if os.pwrite(self._descriptor, body, index * CHUNK_BYTES) != len(body):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self._unsynced += len(body)
        if self._unsynced >= FLUSH_BYTES and self._jobs.empty():
            self._unsynced = 0
            self._enqueue(path, None)

    def finish(self, part: Path, path: Path) -> None:
        """Queues the sync and rename of a complete file."""
        if part == self._path:
            self._close_file()
        self._enqueue(part, path)

    def _enqueue(self, part: Path, path: Path | None) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="link-disk", daemon=True)
            self._thread.start()
        self._jobs.put((part, path))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            part, path = job
            try:
                if self._error is None:
                    _sync(part)
                    if path is not None:
                        part.replace(path)
            except OSError as error:  # raised by `write` or `wait`
                self._error = error
            self._jobs.task_done()
        self._jobs.task_done()

    def wait(self) -> None:
        """Waits for all queued work; raises an error of the thread."""
        self._jobs.join()
        if self._error is not None:
            raise self._error

    def _close_file(self) -> None:
        if self._path is not None:
            self._path = None
            os.close(self._descriptor)

    def close(self) -> None:
        """Closes the open file, and ends the thread after its queued work."""
        self._close_file()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None


def _chunk_places(bundle: Bundle) -> dict[str, tuple[Path, int]]:
    return {
        digest: (bundle.path / relative, index)
        for relative, entry in bundle.manifest.files.items()
        for index, digest in enumerate(entry.chunks)
    }


def _read_slot(path: Path, index: int) -> bytes:
    try:
        with path.open("rb") as source:
            source.seek(index * CHUNK_BYTES)
            return source.read(CHUNK_BYTES)
    except FileNotFoundError:  # the base is incomplete: its chunk is fetched
        return b""


def _hash_slots(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [hashlib.sha256(chunk).hexdigest() for chunk in iter(lambda: file.read(CHUNK_BYTES), b"")]


def _check_only_chunk(file: _File) -> None:
    """Checks that a file of one chunk has the hash of that chunk, which finds a wrong manifest at no cost."""
    if len(file.entry.chunks) == 1 and file.entry.chunks[0] != file.entry.sha256:
        file.part.unlink()
        raise BundleIntegrityError(
            f"{file.path}: its chunk is right and its hash is not", expected=f"sha256 {file.entry.sha256}"
        )


def _write_whole(file: _File, blocks: Iterable[bytes]) -> None:
    digest = hashlib.sha256()
    with file.part.open("r+b") as target:
        for block in blocks:
            target.write(block)
            digest.update(block)
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != file.entry.sha256:
        raise DeltaError(
            "the patch makes another file", expected=f"sha256 {file.entry.sha256}", actual=digest.hexdigest()
        )


def _sync(path: Path) -> None:
    with path.open("r+b") as target:
        os.fsync(target.fileno())


def _reserve(file: _File) -> None:
    """Allocates the full size of an unfinished file."""
    file.part.parent.mkdir(parents=True, exist_ok=True)
    with file.part.open("ab") as target:
        target.truncate(file.entry.size)
        if file.entry.size:
            os.posix_fallocate(target.fileno(), 0, file.entry.size)
