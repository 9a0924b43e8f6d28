"""Compare a bundle's files with its manifest while an engine makes its session, which takes 20 times as long."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from lineside_runtime.bundle.manifest import CHUNK_BYTES, FileEntry
from lineside_runtime.errors import BundleIntegrityError, LinesideError


def verify_file(path: Path | str, entry: FileEntry) -> None:
    """Compares a file with its entry, reading at most one byte more than the entry's size.

    Raises:
        BundleIntegrityError: It is missing, or its size or hash is another.
    """
    digest = hashlib.sha256()
    try:
        size = os.stat(path).st_size  # noqa: PTH116  see `_files_in`
        if size == entry.size:
            block = memoryview(bytearray(CHUNK_BYTES * 2))  # one buffer that stays in the processor's cache
            with io.FileIO(path) as file:
                while count := file.readinto(block):
                    digest.update(block[:count])
    except (FileNotFoundError, IsADirectoryError) as error:
        raise BundleIntegrityError(f"{path} is missing", expected=f"{entry.size} bytes") from error
    if size != entry.size:
        raise BundleIntegrityError(f"{path} has another size", expected=f"{entry.size} bytes", actual=f"{size} bytes")
    if digest.hexdigest() != entry.sha256:
        raise BundleIntegrityError(
            f"{path} has another hash", expected=f"sha256 {entry.sha256}", actual=digest.hexdigest()
        )


class BundleVerification:
    """The comparison of one bundle, partly in a thread.

    Invariants:

    - An engine reads a file only after `begin` has compared it.
    - `finish` returns only if every file is as the manifest says, whatever became of the thread.
    """

    def __init__(self, folder: Path, files: Mapping[str, FileEntry]) -> None:
        self._folder = folder
        self._left = dict(files)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, names: Iterable[str]) -> None:
        """Compares the files that an engine is about to read, and starts a thread for the others.

        Raises:
            BundleIntegrityError: One of these is missing or differs.
        """
        for name in names:
            self._verify(name)
        with self._lock:
            if self._thread is None and self._left:
                self._thread = threading.Thread(target=self._verify_others, name="lineside-verify", daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Waits for the thread, and compares what is left.

        Raises:
            BundleIntegrityError: A file is missing or differs.
        """
        if self._thread is not None:
            self._thread.join()
        for name in tuple(self._left):
            self._verify(name)

    def _verify_others(self) -> None:
        with contextlib.suppress(LinesideError, OSError):  # `finish` meets it again, in the caller's thread
            for name in tuple(self._left):
                self._verify(name)

    def _verify(self, name: str) -> None:
        entry = self._left.get(name)
        if entry is not None:
            verify_file(f"{self._folder}/{name}", entry)
            self._left.pop(name, None)
