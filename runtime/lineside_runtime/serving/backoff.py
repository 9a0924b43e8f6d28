"""Pauses before something that failed is tried again."""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Pauses that double from ``first_s`` up to ``most_s``."""

    first_s: float = 1.0
    most_s: float = 300.0

    def after(self, failures: int) -> float:
        """Returns the pause after so many failures in a row, in seconds."""
        return min(self.first_s * float(2 ** min(failures - 1, 30)), self.most_s)
