"""Transfer of one bundle to a device, from these sources in order:

1. The disk: unfinished files of an earlier try, and chunks of the installed bundle.
2. Patches from the installed bundle's files, if the hub has them in time.
3. Multicast chunks.
4. Requests for the remaining chunks.

A patch whose outcome has another hash than in the signed manifest is logged and dropped, and the file is fetched whole.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from lineside_link.messages import Patch
from lineside_link.transfer import deltas
from lineside_link.transfer.assembly import Assembly, FetchReport
from lineside_link.transfer.multicast import MULTICAST_MIN_BYTES
from lineside_link.transfer.pace import WINDOW_MAX
from lineside_link.transfer.pull_window import RequestedPiece
from lineside_link.transfer.repository_client import RepoClient
from lineside_runtime.bundle import CHUNK_BYTES, Bundle, FileEntry, FileList
from lineside_runtime.errors import BundleIntegrityError, DeltaError, DiskFullError

log = logging.getLogger("lineside.link")

MISMATCHES_MAX = 3
"""How often a chunk with another hash is requested again before the bundle is regarded as damaged at the hub."""

_PATCH_NAME = ".{0:.16}.patch"


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkSource:
    """Target and installed bundle, for patches and multicast.

    Attributes:
        target: Its TUF target, ``<group>/<name>-<version>.json``.
        installed: The bundle on this disk that patches may start from; never written.
    """

    target: str
    sha256: str
    installed: Bundle | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _PatchedFile:
    """A file and its patch."""

    relative: str
    entry: FileEntry
    patch: Patch
    base: Path | None


def fetch_files(
    repo: RepoClient,
    manifest: FileList,
    folder: Path,
    *,
    source: ChunkSource | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FetchReport:
    """Brings every file that the manifest names into ``folder``; each chunk is checked before it is written.

    Repeated after a kill it continues: what is on the disk already is hashed and kept. A file gets its name only when
    it is whole; the manifest itself is not written.

    Args:
        manifest: From signed metadata, parsed by `lineside_runtime.bundle.parse_manifest`.
        folder: Created if it does not exist.
        source: The bundle's target and what is installed, for patches and multicast; ``None`` for plain chunks only.
        on_progress: Takes the bytes that are on the disk and the bytes of all files.
        should_stop: Called at least five times a second.

    Raises:
        DiskFullError: The disk is full; all unfinished files were removed.
        FetchError: The hub does not have it, or nothing arrived for the stall time; unfinished files are kept.
        BundleIntegrityError: The hub sends something else than the manifest names, also when asked again.
        FetchStopped: ``should_stop`` returned true; unfinished files are kept.
    """
    _keep_freed_memory()
    transfer = _BundleTransfer(repo, manifest, folder, source=source, on_progress=on_progress, should_stop=should_stop)
    try:
        return transfer.run()
    finally:
        transfer.close()


class _BundleTransfer:
    """The transfer of one bundle; arguments as for `fetch_files`."""

    def __init__(
        self,
        repo: RepoClient,
        manifest: FileList,
        folder: Path,
        *,
        source: ChunkSource | None,
        on_progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._repo = repo
        self._folder = folder
        self._source = source
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._files = Assembly(manifest.files, folder)
        self._patches = Assembly({}, folder)
        self._patched_files: dict[str, _PatchedFile] = {}
        self._to_request: collections.deque[str] = collections.deque()
        self._partial: dict[str, dict[int, memoryview]] = {}
        self._mismatches: collections.Counter[str] = collections.Counter()
        self._multicast_bytes = 0
        self._patched = 0
        self._fallbacks: list[str] = []

    def run(self) -> FetchReport:
        """Fetches what the folder lacks."""
        installed = self._source.installed if self._source is not None else None
        self._files.prepare(installed)
        self._report()
        if self._files.missing:
            self._plan_patches()
            self._take_part_in_multicast()
            self._to_request = collections.deque(self._wanted())
            self._pull()
        self._remove_patches()
        self._files.finish()
        fetched = self._files.fetched_bytes + self._patches.fetched_bytes
        return FetchReport(
            fetched_bytes=fetched,
            reused_bytes=self._files.total_bytes - self._files.fetched_bytes,
            mismatches=sum(self._mismatches.values()),
            multicast_bytes=self._multicast_bytes,
            patched=self._patched,
            fallbacks=tuple(self._fallbacks),
        )

    def close(self) -> None:
        """Ends the writers of both assemblies."""
        self._files.close()
        self._patches.close()

    def _report(self) -> None:
        self._on_progress(self._files.done_bytes, self._files.total_bytes)

    def _plan_patches(self) -> None:
        """Requests patches and prepares those that are smaller than the missing chunks."""
        if self._source is None:
            return
        unfinished = self._files.unfinished
        missing = {relative: sum(self._files.missing_in(relative).values()) for relative in unfinished}
        if max(missing.values()) < deltas.FILE_MIN_BYTES:
            return
        installed = self._source.installed
        offered = self._repo.deltas(
            self._source.sha256,
            base=installed.digest if installed else "",
            whole_bytes=sum(missing.values()),
            should_stop=self._should_stop,
        )
        by_file = {patch.file: patch for patch in offered.patches}
        chosen = {}
        for relative, entry in unfinished.items():
            patching = self._match(relative, entry, by_file.get(entry.sha256))
            if patching is not None and patching.patch.size < missing[relative]:
                chosen[_PATCH_NAME.format(patching.patch.sha256)] = patching
        self._take_patches(chosen)

    def _match(self, relative: str, entry: FileEntry, patch: Patch | None) -> _PatchedFile | None:
        if patch is None or len(patch.chunks) != -(-patch.size // CHUNK_BYTES):
            return None
        installed = self._source.installed if self._source is not None else None
        base, base_bytes = None, 0
        if patch.base:
            files = installed.manifest.files if installed is not None else {}
            found = next((name for name, old in files.items() if old.sha256 == patch.base), None)
            if found is None or installed is None:
                return None
            base, base_bytes = installed.path / found, files[found].size
        return _PatchedFile(relative, entry, patch, base) if deltas.fits(patch, entry.size, base_bytes) else None

    def _take_patches(self, chosen: Mapping[str, _PatchedFile]) -> None:
        entries = {
            name: FileEntry(size=item.patch.size, sha256=item.patch.sha256, chunks=item.patch.chunks)
            for name, item in chosen.items()
        }
        patches = Assembly(entries, self._folder)
        try:
            patches.prepare()
        except DiskFullError as error:
            for item in chosen.values():
                self._fall_back(item, f"no room for the patch beside it: {error.message}")
            return
        self._patches = patches
        self._patched_files = dict(chosen)
        self._apply_finished()

    def _apply_finished(self) -> None:
        """Applies each complete patch; after an error the chunks of its file are requested."""
        waiting = self._patches.unfinished
        whole = [name for name in self._patched_files if name not in waiting]
        if whole:
            self._patches.settle()
        for name in whole:
            item = self._patched_files.pop(name)
            path = self._folder / name
            try:
                blocks = deltas.apply(item.patch.format, item.base, path.read_bytes(), item.entry.size)
                self._files.rebuild(item.relative, blocks)
                self._patched += 1
                log.info("%s: made by a %s patch of %d bytes", item.relative, item.patch.format, item.patch.size)
            except (DeltaError, OSError) as error:
                self._fall_back(item, str(error))
                self._to_request.extend(self._files.missing_in(item.relative))
            path.unlink(missing_ok=True)
            self._report()

    def _fall_back(self, item: _PatchedFile, why: str) -> None:
        log.warning("%s comes whole instead of by a patch: %s", item.relative, why)
        self._fallbacks.append(f"{item.relative}: {why}")

    def _remove_patches(self) -> None:
        for path in self._folder.glob(".*.patch*"):
            path.unlink(missing_ok=True)

    def _take_part_in_multicast(self) -> None:
        """Takes part in a multicast if enough chunks are missing."""
        lacking = set(self._wanted())
        lacking_bytes = sum(self._patches.size_of(digest) or self._files.size_of(digest) for digest in lacking)
        if self._source is None or lacking_bytes < MULTICAST_MIN_BYTES or not self._repo.wants_multicast():
            return
        base = self._source.installed.digest if self._source.installed is not None else ""
        with self._repo.listen(self._source.target) as listener:
            sending = self._repo.join(self._source.sha256, base=base, should_stop=self._should_stop)
            if sending is None:
                return
            for digest, body in listener.chunks(sending, self._should_stop):
                self._take_multicast(digest, body)
                lacking.discard(digest)
                if not lacking:
                    return

    def _take_multicast(self, digest: str, body: bytes) -> None:
        if not self._patches.size_of(digest) and not self._files.size_of(digest):
            return
        if self._put(digest, body):
            self._multicast_bytes += len(body)
        else:  # requested with the other gaps
            self._note_mismatch(digest)

    def _wanted(self) -> list[str]:
        """Returns the chunks that must be fetched: of patches, and of files without a patch."""
        covered = {item.relative for item in self._patched_files.values()}
        plain = [self._files.missing_in(relative) for relative in self._files.unfinished if relative not in covered]
        return list(dict.fromkeys([*self._patches.missing, *(digest for gaps in plain for digest in gaps)]))

    def _pull(self) -> None:
        wanted: collections.deque[RequestedPiece] = collections.deque()
        self._refill(wanted)
        for piece, head, body in self._repo.pull(wanted, should_stop=self._should_stop):
            whole = self._joined(piece, head.parts, body)
            if whole is not None and not self._put(piece.path, whole):
                self._note_mismatch(piece.path)
                self._to_request.append(piece.path)
            self._refill(wanted)

    def _refill(self, wanted: collections.deque[RequestedPiece]) -> None:
        """Keeps a window of pieces ready, in the present size."""
        pace = self._repo.pace
        while self._to_request and len(wanted) < pace.window:
            digest = self._to_request.popleft()
            size = self._repo.piece_bytes
            # 0 for a chunk that has arrived meanwhile.
            pieces = -(-(self._patches.size_of(digest) or self._files.size_of(digest)) // size)
            damaged = digest in self._mismatches
            wanted.extend(RequestedPiece("chunk", digest, part, size, damaged=damaged) for part in range(pieces))

    def _joined(self, piece: RequestedPiece, parts: int, body: memoryview) -> bytes | memoryview | None:
        """Returns a chunk once its last piece has arrived."""
        if parts == 1:
            return body
        pieces = self._partial.setdefault(piece.path, {})
        pieces[piece.part] = body
        if len(pieces) < parts:
            return None
        del self._partial[piece.path]
        return b"".join(pieces[part] for part in sorted(pieces))

    def _put(self, digest: str, body: bytes | memoryview) -> bool:
        """Writes a chunk; false if it has another hash."""
        if self._patches.size_of(digest):
            right = self._patches.put(digest, body)
            self._apply_finished()
        else:
            right = self._files.put(digest, body)
        if right:
            self._report()
        return right

    def _note_mismatch(self, digest: str) -> None:
        self._mismatches[digest] += 1
        times = self._mismatches[digest]
        self._repo.count_mismatch()
        log.warning("chunk %s arrived with another hash, %d of %d times", digest, times, MISMATCHES_MAX + 1)
        if times > MISMATCHES_MAX:
            raise BundleIntegrityError(
                f"chunk {digest} arrived {times} times with another hash",
                action="The hub's store or the way to it is damaged: publish the bundle again and push it.",
            )


@functools.cache
def _keep_freed_memory() -> None:
    """Makes glibc keep freed memory of chunks, which the kernel would clear again for each chunk.

    Freeing a large block raises malloc's dynamic threshold (mallopt(3), ``M_MMAP_THRESHOLD``); the block itself is
    never touched. Once a process.
    """
    bytes(WINDOW_MAX * CHUNK_BYTES)
