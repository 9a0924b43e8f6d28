"""How much to request at a time, from the measured link. Pure.

A piece that is cut off by a broken connection comes again from its start, so it must be small where connections are
short or slow; and enough must be on its way to fill the link for a round trip. On a link of 2 Mbit/s that broke every
2 s, pieces of 16 KiB brought 0.92 Mbit/s and pieces of 64 KiB 0.75.
"""

from __future__ import annotations

from lineside_runtime.bundle import CHUNK_BYTES

PIECE_MIN_BYTES = 4096
PIECE_S = 0.25
"""A piece takes about this long on a slow link."""

PIECES_A_LIFE = 64
"""A connection lives for at least so many pieces, so that what a break costs is under a hundredth."""

WINDOW_MIN = 4
WINDOW_MAX = 64
AHEAD_S = 1.0
"""What is on its way lasts for so long at the rate that was seen: several round trips."""

_SPAN_S = 0.5
_SPAN_BYTES = 1 << 20
"""A rate is known after this time or so many bytes: on a fast link a whole bundle is here within half a second."""


class RequestPace:
    """Watches a link.

    Attributes:
        rate_bytes_s: What came, in bytes a second while something was asked for; ``None`` before it is known.
        piece_bytes: Size of the next pieces: a power of two from `PIECE_MIN_BYTES` to a whole chunk.
        window: How many pieces may be on their way.

    Args:
        window: How many pieces are on their way before anything is known.
    """

    def __init__(self, window: int = 8) -> None:
        self.rate_bytes_s: float | None = None
        self.piece_bytes = CHUNK_BYTES
        self.window = window
        self._first_window = window
        self._life_bytes: float | None = None
        self._since_connected = 0
        self._span_bytes = 0
        self._span_began_s: float | None = None

    def begin(self, now_s: float) -> None:
        """A pull begins: what came before it says nothing of the link's speed.

        Args:
            now_s: Any clock that does not go back.
        """
        self._span_began_s, self._span_bytes = now_s, 0

    def arrived(self, count: int, now_s: float) -> None:
        """Notes bytes that arrived.

        Args:
            now_s: As for `begin`.
        """
        self._since_connected += count
        self._span_bytes += count
        began_s = self._span_began_s if self._span_began_s is not None else now_s
        lasted_s = now_s - began_s
        if lasted_s <= 0 or (lasted_s < _SPAN_S and self._span_bytes < _SPAN_BYTES):
            return
        rate = self._span_bytes / lasted_s
        self.rate_bytes_s = rate if self.rate_bytes_s is None else (self.rate_bytes_s + rate) / 2
        self._span_began_s, self._span_bytes = now_s, 0
        self._adjust()

    def broke(self) -> None:
        """Notes that the connection broke; its length counts only if it brought something."""
        if self._since_connected:
            known = self._life_bytes
            self._life_bytes = self._since_connected if known is None else (known + self._since_connected) / 2
        self._since_connected = 0
        self._span_began_s = None
        self._adjust()

    def _adjust(self) -> None:
        self.piece_bytes = self._suitable_piece_bytes()
        if self.rate_bytes_s is None:
            self.window = self._first_window
        else:
            self.window = int(min(max(self.rate_bytes_s * AHEAD_S / self.piece_bytes, WINDOW_MIN), WINDOW_MAX))

    def _suitable_piece_bytes(self) -> int:
        wanted = float(CHUNK_BYTES)
        if self.rate_bytes_s is not None:
            wanted = min(wanted, self.rate_bytes_s * PIECE_S)
        if self._life_bytes is not None:
            wanted = min(wanted, self._life_bytes / PIECES_A_LIFE)
        size = CHUNK_BYTES
        while size > max(wanted, PIECE_MIN_BYTES):
            size //= 2
        return size
