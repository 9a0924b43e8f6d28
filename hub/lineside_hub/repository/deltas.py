"""Make deltas between bundles, one pair after the other, and list which exist.

The first device that asks has it started and is told to ask again; it decides itself how long it waits. What was made
stays on disk, so the next devices, and the hub after a restart, have it at once.
"""

from __future__ import annotations

import logging
import queue
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from lineside_hub.repository.delta_process import find_manifest, list_path
from lineside_link.messages import Deltas, encode

_log = logging.getLogger("lineside.hub.deltas")

TIMEOUT_S = 900.0
"""No pair within the bounds of `lineside_link.transfer.deltas` takes nearly as long; beyond it the maker is ended."""

WAITING_MAX = 100

DIGEST = re.compile(r"[0-9a-f]{64}")
_NOTHING = encode(Deltas())


class DeltaMaker:
    """Makes patches in a process of its own.

    Args:
        folder: The hub's folder.

    Attributes:
        made: Pairs of bundles that patches were made for since the start.
        failed: Pairs for which that went wrong; they are not tried again before the next start.
    """

    def __init__(self, folder: Path) -> None:
        self.made = 0
        self.failed: set[tuple[str, str]] = set()
        self._folder = folder
        self._lock = threading.Lock()
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._pending: set[tuple[str, str]] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hub-deltas", daemon=True)

    def start(self) -> None:
        """Starts the thread that has them made."""
        self._thread.start()

    def close(self) -> None:
        """Ends what is being made; it is made again when it is asked for again."""
        self._closing.set()
        self._waiting.put(None)
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def get(self, wanted: str, base: str) -> tuple[int, bytes]:
        """Returns what a device is answered: 200 and the list, 202 while it is being made, or 404.

        Args:
            wanted: sha256 of the wanted bundle's manifest.
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
        """Has a pair made, if it can be; false if one of the two was never published, or too many wait."""
        if find_manifest(self._folder, wanted) is None or find_manifest(self._folder, base) is None:
            return False
        with self._lock:
            if (wanted, base) in self._pending:
                return True
            if len(self._pending) >= WAITING_MAX:
                return False
            self._pending.add((wanted, base))
        self._waiting.put((wanted, base))
        return True

    def _run(self) -> None:
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
        """Runs the maker; returns why it failed, or nothing."""
        command = [sys.executable, "-m", "lineside_hub.repository.delta_process", str(self._folder), wanted, base]
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
