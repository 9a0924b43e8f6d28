"""Make patches between bundles, one pair after the other, each in a process of its own, and keep them.

The first request of a pair starts it and is answered "ask again"; the device decides how long it waits. bsdiff needs 17
bytes of memory a byte and zstd's level 19 seconds of a core, hence the separate process (this module as ``__main__``).
Patches are chunks like any other; the list of a pair, a `lineside_link.messages.Deltas`, is written last as
``deltas/<wanted>-<installed>.json``.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from lineside_hub.repository.chunks import ChunkStore
from lineside_hub.repository.layout import RepositoryLayout
from lineside_hub.repository.repository import Repository
from lineside_link.messages import Deltas, Patch, PatchFormat, encode
from lineside_link.transfer import deltas
from lineside_runtime.bundle import CHUNK_BYTES, FileEntry, Manifest, describe_bytes, parse_manifest
from lineside_runtime.errors import InputNotFoundError
from lineside_runtime.files import write_atomic

_log = logging.getLogger("lineside.hub.deltas")

FOLDER = "deltas"

TIMEOUT_S = 900.0
"""The process of a pair is ended after this time; no pair within the bounds of the patches takes nearly as long."""

WAITING_MAX = 100

DIGEST = re.compile(r"[0-9a-f]{64}")
_NOTHING = encode(Deltas())


def list_path(folder: Path, wanted: str, base: str) -> Path:
    """Returns the path of the list of patches.

    Args:
        wanted: sha256 of the wanted bundle's manifest.
        base: sha256 of the installed bundle's manifest.
    """
    return folder / FOLDER / f"{wanted}-{base}.json"


def make_patches(folder: Path, wanted: str, base: str) -> Deltas:
    """Makes the smallest patch for each file that differs, and writes all of them into the store."""
    new, old = _manifest(folder, wanted), _manifest(folder, base)
    store = Repository.open(folder).chunks
    patches = []
    for relative, entry in new.files.items():
        if entry.size < deltas.FILE_MIN_BYTES or any(entry.sha256 == known.sha256 for known in old.files.values()):
            continue
        patch = _smallest(store, entry, _counterpart(relative, entry, old))
        if patch is not None:
            patches.append(patch)
    made = Deltas(patches=tuple(patches))
    (folder / FOLDER).mkdir(exist_ok=True)
    write_atomic(list_path(folder, wanted, base), encode(made))
    return made


def _manifest(folder: Path, sha256: str) -> Manifest:
    path = RepositoryLayout(folder).find_manifest(sha256)
    if path is None:
        raise InputNotFoundError(f"no bundle {sha256} is published here")
    return parse_manifest(path.read_bytes())


def _counterpart(relative: str, entry: FileEntry, old: Manifest) -> FileEntry | None:
    """Returns the file of the same path; else the one of the same suffix with the nearest size."""
    if relative in old.files:
        return old.files[relative]
    alike = [known for name, known in old.files.items() if Path(name).suffix == Path(relative).suffix]
    return min(alike, key=lambda known: abs(known.size - entry.size), default=None)


def _smallest(store: ChunkStore, entry: FileEntry, base: FileEntry | None) -> Patch | None:
    if entry.size > deltas.ZSTD_MAX_BYTES:
        return None
    new = b"".join(store.pieces(entry, "the wanted bundle"))
    made: list[tuple[PatchFormat, str, bytes]] = [("zstd", "", deltas.make("zstd", b"", new))]
    if base is not None and base.size <= deltas.ZSTD_MAX_BYTES:
        old = b"".join(store.pieces(base, "the installed bundle"))
        made.append(("zstd", base.sha256, deltas.make("zstd", old, new)))
        if max(len(old), len(new)) <= deltas.BSDIFF_MAX_BYTES:
            made.append(("bsdiff4", base.sha256, deltas.make("bsdiff4", old, new)))
    kind, start, data = min(made, key=lambda one: len(one[2]))
    if len(data) >= entry.size:
        return None
    described = describe_bytes(data)
    for offset in range(0, len(data), CHUNK_BYTES):
        store.put(data[offset : offset + CHUNK_BYTES])
    return Patch(
        file=entry.sha256,
        base=start,
        format=kind,
        size=described.size,
        sha256=described.sha256,
        chunks=described.chunks,
    )


class DeltaMaker(threading.Thread):
    """Queue of the pairs, and the thread that runs their processes.

    Attributes:
        made: Pairs of bundles that patches were made for since the start.
        failed: Pairs that failed; they are not tried again before the next start.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(name="hub-deltas", daemon=True)
        self.made = 0
        self.failed: set[tuple[str, str]] = set()
        self._folder = folder
        self._lock = threading.Lock()
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._pending: set[tuple[str, str]] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()

    def close(self) -> None:
        """Ends the thread and its process; the next request starts the pair again."""
        self._closing.set()
        self._waiting.put(None)
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        if self.ident is not None:
            self.join(5.0)

    def get(self, wanted: str, base: str) -> tuple[int, bytes]:
        """Returns the answer to a device: 200 and the list, 202 while it is being made, or 404.

        Args:
            base: sha256 of the installed bundle's manifest; empty for none.
        """
        if not DIGEST.fullmatch(wanted) or (base and not DIGEST.fullmatch(base)):
            return 404, b""
        if not base or (wanted, base) in self.failed:
            return 200, _NOTHING
        try:
            return 200, list_path(self._folder, wanted, base).read_bytes()
        except FileNotFoundError:
            return (202, b"") if self._begin(wanted, base) else (200, _NOTHING)

    def _begin(self, wanted: str, base: str) -> bool:
        """Queues a pair; false if one of the bundles was never published, or too many pairs wait."""
        if any(RepositoryLayout(self._folder).find_manifest(each) is None for each in (wanted, base)):
            return False
        with self._lock:
            if (wanted, base) in self._pending:
                return True
            if len(self._pending) >= WAITING_MAX:
                return False
            self._pending.add((wanted, base))
        self._waiting.put((wanted, base))
        return True

    def run(self) -> None:
        """Works until it is closed."""
        while (pair := self._waiting.get()) is not None and not self._closing.is_set():
            began = time.monotonic()
            problem = self._make(*pair)
            with self._lock:
                self._pending.discard(pair)
                if problem and not self._closing.is_set():
                    self.failed.add(pair)
            if not problem:
                self.made += 1
                _log.info("patches from %.12s to %.12s made in %.1f s", pair[1], pair[0], time.monotonic() - began)
            elif not self._closing.is_set():
                _log.error("no patches from %.12s to %.12s, devices fetch whole files: %s", pair[1], pair[0], problem)

    def _make(self, wanted: str, base: str) -> str:
        """Runs the process of a pair; returns the error, empty if there is none."""
        command = [sys.executable, "-m", "lineside_hub.repository.deltas", str(self._folder), wanted, base]
        with self._lock:
            if self._closing.is_set():
                return "the hub ends"
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, said = self._process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return f"it took longer than {TIMEOUT_S:g} s"
        if self._process.returncode == 0:
            return ""
        lines = said.decode(errors="replace").strip().splitlines()
        return f"exit {self._process.returncode}: {lines[-1] if lines else ''}"


def main(arguments: list[str]) -> int:
    """Makes patches; arguments: the hub's folder, wanted and installed manifest."""
    os.nice(10)  # devices that ask come first
    folder, wanted, base = arguments
    make_patches(Path(folder), wanted, base)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
