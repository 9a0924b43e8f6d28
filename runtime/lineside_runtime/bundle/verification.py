"""Compare a bundle's files with its manifest while an engine makes its session, which takes 20 times as long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

from lineside_runtime.bundle.folder import Bundle, check_named, verify_file
from lineside_runtime.errors import LinesideError


class BundleVerification:
    """The comparison of one bundle, partly in a thread.

    Invariants:

    - An engine reads a file only after `begin` has compared it.
    - `finish` returns only if every file is as the manifest says, whatever became of the thread.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Lists the folder; no file is read yet.

        Raises:
            BundleFormatError: The folder holds a link, a special file, or a file that the manifest does not name.
        """
        check_named(bundle)
        self._bundle = bundle
        self._left = dict(bundle.manifest.files)
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
            verify_file(f"{self._bundle.path}/{name}", entry)
            self._left.pop(name, None)
