"""`ProgressMeter`: how far long work is, on a terminal as a bar, elsewhere as nothing."""

from __future__ import annotations

import sys
import time
from types import TracebackType

EVERY_S = 0.2


class ProgressMeter:
    """Shows bytes done; use it in a ``with``.

    Args:
        what: Is going on.
        total: Bytes in all; 0 if that isn't known.
    """

    def __init__(self, what: str, total: int = 0) -> None:
        self._what = what
        self._total = total
        self._shown_at = 0.0
        self._begun = time.monotonic()
        self._live = sys.stderr.isatty()

    def __enter__(self) -> ProgressMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and self._shown_at:
            sys.stderr.write("\n")

    def of_total(self, done: int, total: int) -> None:
        """Shows it as a share of a total that is known only now.

        Args:
            done: Bytes.
            total: Bytes in all.
        """
        self._total = total
        self.progress(done)

    def progress(self, done: int, what: str = "") -> None:
        """Shows it, a few times a second.

        Args:
            done: Bytes.
            what: Is going on now, if something else than before.
        """
        now = time.monotonic()
        if not self._live or now - self._shown_at < EVERY_S:
            return
        self._shown_at = now
        speed = done / 1e6 / max(now - self._begun, 1e-3)
        share = f"{100 * done / self._total:3.0f} %, " if self._total else ""
        sys.stderr.write(f"\r{what or self._what}: {share}{done / 1e6:.0f} MB, {speed:.0f} MB/s   ")
        sys.stderr.flush()
