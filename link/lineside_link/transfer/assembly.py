"""Write verified chunks into the files of a bundle, and find after a kill what is there already.

An unfinished file lies beside its final place as ``.<name>.<16 digits of its sha256>.part`` in its full size, so that
its room is taken from the start and the disk cannot fill up half-way. It gets its name only when every chunk in it
has the hash that the signed manifest names and it is on the disk. After a kill every 64 KiB slot is hashed again, and
what matches is kept: no note of progress can be wrong, because there is none.

The chunks are all of the file, so its own hash is not taken here a second time on the way: whoever is about to use the
bundle reads it back from the disk and compares it (`open_bundle`, the update machine's ``verifying``), which also finds
what a disk did to it.

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
import queue
import shutil
import threading
from collections.abc import Iterable, Mapping
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
        lacking: How many slots the right chunk is not in.
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
        self._named: dict[str, _File] = {}
        self._writer = _Writer()
        self._whole_now = True  # an empty file is
        self._slots: dict[str, list[tuple[_File, int]]] = collections.defaultdict(list)
        self._entries = entries
        self._clean_when_full = _CleanWhenFull(self)

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
        with self._clean_when_full:
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

    def put(self, digest: str, body: bytes | memoryview) -> bool:
        """Writes a chunk wherever it belongs; the files that it completes are finished in the background.

        Args:
            digest: sha256 under which it was asked for.

        Returns:
            Whether it had that hash; if not, nothing was written.

        Raises:
            DiskFullError: There is no room; no unfinished file is left.
            BundleIntegrityError: A file's only chunk is right and its own hash is not: the manifest is wrong.
        """
        if hashlib.sha256(body).hexdigest() != digest:
            return False
        if digest in self._slots:
            with self._clean_when_full:
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
        """Waits until every file that is whole has its name.

        Raises:
            DiskFullError: There is no room; no unfinished file is left.
        """
        with self._clean_when_full:
            self._writer.wait()

    def rebuild(self, relative: str, blocks: Iterable[bytes]) -> None:
        """Writes an unfinished file that something else than chunks makes, such as a patch, and finishes it.

        Raises:
            DeltaError: It is not what the file should be, or ``blocks`` raises it. What the file lacks is known anew.
            DiskFullError: There is no room; no unfinished file is left.
        """
        file = self._open[relative]
        with self._clean_when_full:
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
        """Removes every unfinished file."""
        self._writer.close()
        for file in (*self._open.values(), *self._named.values()):
            file.part.unlink(missing_ok=True)

    def finish(self) -> None:
        """Waits until every file has its name, and brings the names to the disk.

        Raises:
            DiskFullError: There is no room; no unfinished file is left.
        """
        self.settle()
        parents = {parent for relative in self._named for parent in Path(relative).parents}
        for parent in parents | {Path()}:
            fsync_folder(self._folder / parent)

    def close(self) -> None:
        """Ends what runs in the background; from then on nothing is written. Done twice it changes nothing."""
        self._writer.close()

    def note_full(self, error: BaseException) -> None:
        """Removes every unfinished file if the disk is full.

        Raises:
            DiskFullError: The disk is full, and the error doesn't say so itself.
        """
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(error, DiskFullError):
            self.discard()
        if full:
            raise DiskFullError(path=str(self._folder), needed_bytes=self.total_bytes - self.done_bytes) from error


class _CleanWhenFull:
    """A block in which a full disk removes the unfinished files; entered for each chunk, so it is made once."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            self._assembly.note_full(error)


class _Writer:
    """Writes chunks into files; a thread brings them to the disk beside that and gives them their names.

    One file is open at a time: chunks come in the order of the files, and opening it for each took longer than writing.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._descriptor = -1
        self._unsynced = 0
        self._jobs: queue.Queue[tuple[Path, Path | None] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def write(self, path: Path, index: int, body: bytes | memoryview) -> None:
        """Writes one slot, and has the file flushed when much was written; raises what the thread met before."""
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
        """Has a file that is whole brought to the disk, and then renamed."""
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
            except OSError as error:  # raised by `write` or `wait`, in the thread that can act upon it
                self._error = error
            self._jobs.task_done()
        self._jobs.task_done()

    def wait(self) -> None:
        """Waits until all of it is done; raises what the thread met."""
        self._jobs.join()
        if self._error is not None:
            raise self._error

    def _close_file(self) -> None:
        if self._path is not None:
            self._path = None
            os.close(self._descriptor)

    def close(self) -> None:
        """Closes the file that is open, and ends the thread when it has done what it was given."""
        self._close_file()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None


def _chunk_places(bundle: Bundle) -> dict[str, tuple[Path, int]]:
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


def _check_only_chunk(file: _File) -> None:
    """A file of one chunk has that chunk's hash: a manifest that says otherwise is found out here for nothing."""
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
    """Gives the unfinished file its full size and its blocks."""
    file.part.parent.mkdir(parents=True, exist_ok=True)
    with file.part.open("ab") as target:
        target.truncate(file.entry.size)
        if file.entry.size:
            os.posix_fallocate(target.fileno(), 0, file.entry.size)
