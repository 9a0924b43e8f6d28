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
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lineside_runtime.bundle import CHUNK_BYTES, Bundle, FileEntry, check_relative, verify_file
from lineside_runtime.errors import BundleIntegrityError, DeltaError, DiskFullError
from lineside_runtime.files import fsync_folder

log = logging.getLogger("lineside.link")

FLUSH_BYTES = 8 << 20
"""So much is written before it is brought to the disk in the background."""

SPARE_BYTES = 1 << 20
"""Room that must remain beside the bundle for folders and the manifest."""


@dataclasses.dataclass(frozen=True, slots=True)
class FetchReport:
    """What a fetch did.

    Attributes:
        fetched_bytes: Came over the link, patches included.
        reused_bytes: The rest of the files: was there already, was made by a patch, or repeats a chunk that came.
        mismatches: Chunks that arrived with another hash and were asked for again.
        multicast_bytes: How many of the fetched bytes were sent to all devices at once.
        patched: Files that a patch made.
        fallbacks: Why a file came whole although there was a patch for it.
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
        path: Where it will stand.
        part: Where it stands until then.
        entry: What it must become.
        filled: One byte a slot: whether the right chunk is in it.
        digest: Of its first ``hashed`` slots, so that a file whose chunks come in order is not read again at its end.
        hashed: How many slots ``digest`` has seen.
    """

    path: Path
    part: Path
    entry: FileEntry
    filled: bytearray
    digest: hashlib._Hash = dataclasses.field(default_factory=hashlib.sha256)
    hashed: int = 0

    def write(self, index: int, body: bytes) -> None:
        descriptor = os.open(self.part, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.pwrite(descriptor, body, index * CHUNK_BYTES) != len(body):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.part))
        finally:
            os.close(descriptor)

    def hash_on(self, index: int, body: bytes) -> None:
        """Takes a slot that was filled into the whole file's hash, and those behind it that came before their turn."""
        if index != self.hashed:
            return
        self.digest.update(body)
        self.hashed += 1
        while self.hashed < len(self.filled) and self.filled[self.hashed]:
            self.digest.update(_read_slot(self.part, self.hashed))
            self.hashed += 1

    @property
    def whole(self) -> bool:
        return 0 not in self.filled

    def slot_bytes(self, index: int) -> int:
        return min(CHUNK_BYTES, self.entry.size - index * CHUNK_BYTES)

    @property
    def filled_bytes(self) -> int:
        return sum(self.slot_bytes(index) for index, there in enumerate(self.filled) if there)


class Assembly:
    """Files on their way into a folder.

    Attributes:
        done_bytes: Bytes that are in place and checked.
        total_bytes: Bytes of all files.
        fetched_bytes: Bytes of the chunks that were put in.

    Args:
        entries: Relative path to what is to stand there.
        folder: Where to.
    """

    def __init__(self, entries: Mapping[str, FileEntry], folder: Path) -> None:
        self.total_bytes = sum(entry.size for entry in entries.values())
        self.done_bytes = 0
        self.fetched_bytes = 0
        self._folder = folder
        self._open: dict[str, _File] = {}
        self._flusher = _Flusher()
        self._slots: dict[str, list[tuple[_File, int]]] = collections.defaultdict(list)
        self._entries = entries

    @property
    def missing(self) -> list[str]:
        """sha256 of each chunk that is not here, each once, in the order of the files."""
        return list(self._slots)

    @property
    def unfinished(self) -> dict[str, FileEntry]:
        """Relative path to entry of each file that is not whole."""
        return {relative: file.entry for relative, file in self._open.items()}

    def missing_in(self, relative: str) -> dict[str, int]:
        """Returns each chunk that a file lacks: its sha256, and its size in bytes.

        Args:
            relative: Of any file.
        """
        file = self._open.get(relative)
        if file is None:
            return {}
        gaps = [index for index, there in enumerate(file.filled) if not there]
        return {file.entry.chunks[index]: file.slot_bytes(index) for index in gaps}

    def size_of(self, digest: str) -> int:
        """Returns the size of a chunk that is missing, in bytes; 0 for one that is not wanted.

        Args:
            digest: sha256 of the chunk.
        """
        places = self._slots.get(digest)
        return places[0][0].slot_bytes(places[0][1]) if places else 0

    def prepare(self, base: Bundle | None = None) -> None:
        """Takes stock of what is there, makes room for the rest, and finishes the files that are whole already.

        Args:
            base: A bundle on this disk whose chunks are copied where they are wanted; each is hashed on the way.

        Raises:
            DiskFullError: There is no room; no unfinished file is left.
            BundleFormatError: A path leaves the folder.
        """
        with self._disk_full_means_clean():
            self._folder.mkdir(parents=True, exist_ok=True)
            for relative, entry in self._entries.items():
                check_relative(relative)
                self._take_stock(relative, entry)
            self._check_room()
            known: dict[str, tuple[Path, int]] = {}
            for file in self._open.values():
                known |= self._scan(file)
            for file in self._open.values():
                _reserve(file)
            self._copy_known(known)
            if base is not None:
                self._copy_known(_places(base))
            self._complete_whole()

    def _take_stock(self, relative: str, entry: FileEntry) -> None:
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
        self._open[relative] = _File(path, part, entry, bytearray(len(entry.chunks)))

    def _check_room(self) -> None:
        files = self._open.values()
        here = sum(file.part.stat().st_blocks * 512 for file in files if file.part.is_file())
        needed = sum(file.entry.size for file in files) - here
        free = shutil.disk_usage(self._folder).free
        if needed > 0 and free < needed + SPARE_BYTES:
            raise DiskFullError(path=str(self._folder), needed_bytes=needed + SPARE_BYTES)

    def _scan(self, file: _File) -> dict[str, tuple[Path, int]]:
        """Hashes an unfinished file's slots, notes the chunks that it lacks, returns where those that it has lie."""
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
            if digest in self._slots:
                self.fetched_bytes += len(body)
                self._write_slots(digest, body)
                self._complete_whole()
        return True

    def _write_slots(self, digest: str, body: bytes) -> None:
        for file, index in self._slots.pop(digest):
            file.write(index, body)
            self._fill(file, index)
            file.hash_on(index, body)
            self._flusher.note(file.part, len(body))

    def _fill(self, file: _File, index: int) -> None:
        file.filled[index] = 1
        self.done_bytes += file.slot_bytes(index)

    def _complete_whole(self) -> None:
        for relative in [relative for relative, file in self._open.items() if file.whole]:
            file = self._open[relative]
            self._flusher.wait()
            _sync(file.part)
            if _whole_digest(file) != file.entry.sha256:
                file.part.unlink()
                raise BundleIntegrityError(
                    f"{file.path}: its chunks are right and its hash is not", expected=f"sha256 {file.entry.sha256}"
                )
            self._give_name(relative)

    def _give_name(self, relative: str) -> None:
        file = self._open.pop(relative)
        file.part.replace(file.path)
        fsync_folder(file.path.parent)

    def rebuild(self, relative: str, blocks: Iterable[bytes]) -> None:
        """Writes an unfinished file that something else than chunks makes, such as a patch, and finishes it.

        Args:
            relative: Of the file.
            blocks: Its whole content.

        Raises:
            DeltaError: It is not what the file should be, or ``blocks`` raises it. What the file lacks is known anew.
            DiskFullError: There is no room; no unfinished file is left.
        """
        file = self._open[relative]
        with self._disk_full_means_clean():
            self.done_bytes -= file.filled_bytes
            self._forget(file)
            try:
                _write_whole(file, blocks)
            except DeltaError:
                self._scan(file)
                raise
            self.done_bytes += file.entry.size
            self._give_name(relative)

    def _forget(self, file: _File) -> None:
        file.filled[:] = bytes(len(file.filled))
        file.digest, file.hashed = hashlib.sha256(), 0
        for digest, places in list(self._slots.items()):
            places[:] = [place for place in places if place[0] is not file]
            if not places:
                del self._slots[digest]

    def discard(self) -> None:
        """Removes every unfinished file."""
        for file in self._open.values():
            file.part.unlink(missing_ok=True)

    def finish(self) -> None:
        """Brings the names of all files to the disk."""
        fsync_folder(self._folder)

    @contextmanager
    def _disk_full_means_clean(self) -> Iterator[None]:
        try:
            yield
        except DiskFullError:
            self.discard()
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.discard()
            raise DiskFullError(path=str(self._folder), needed_bytes=self.total_bytes - self.done_bytes) from error


class _Flusher:
    """Brings a large file to the disk while more of it comes, so that its end doesn't wait for all of it."""

    def __init__(self) -> None:
        self._unsynced = 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def note(self, path: Path, count: int) -> None:
        """Notes bytes that were written; begins to flush when they are many and nothing is being flushed."""
        self._unsynced += count
        if self._unsynced >= FLUSH_BYTES and (self._thread is None or not self._thread.is_alive()):
            self._unsynced = 0
            self._thread = threading.Thread(target=self._flush, args=(path,), daemon=True)
            self._thread.start()

    def _flush(self, path: Path) -> None:
        try:
            _sync(path)
        except OSError as error:  # raised by `wait`, in the thread that can act upon it
            self._error = error

    def wait(self) -> None:
        """Waits for what is being flushed; raises what it met."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error


def _places(bundle: Bundle) -> dict[str, tuple[Path, int]]:
    """Returns where on the disk each chunk of a bundle lies, by its manifest."""
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
    except FileNotFoundError:  # of a base that is not whole: its chunk is fetched
        return b""


def _hash_slots(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [hashlib.sha256(chunk).hexdigest() for chunk in iter(lambda: file.read(CHUNK_BYTES), b"")]


def _whole_digest(file: _File) -> str:
    """Returns the hash of the whole file; reads only what did not come in order."""
    with file.part.open("rb", buffering=0) as source:
        source.seek(file.hashed * CHUNK_BYTES)
        while block := source.read(CHUNK_BYTES * 2):
            file.digest.update(block)
    return file.digest.hexdigest()


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
    """Gives the unfinished file its full size and its blocks."""
    file.part.parent.mkdir(parents=True, exist_ok=True)
    with file.part.open("ab") as target:
        target.truncate(file.entry.size)
        if file.entry.size:
            os.posix_fallocate(target.fileno(), 0, file.entry.size)
