"""Size and number of requests for the measured link. Pure.

A piece is repeated from its start after a broken connection, so pieces must be small on short or slow connections; and
enough requests must be open to fill the link for a round trip. A link of 2 Mbit/s that broke every 2 s had 0.92 Mbit/s
with pieces of 16 KiB and 0.75 with 64 KiB.
"""

from __future__ import annotations

from lineside_runtime.bundle import CHUNK_BYTES

PIECE_MIN_BYTES = 4096
PIECE_S = 0.25
"""Time of a piece on a slow link."""

PIECES_A_LIFE = 64
"""Pieces within the usual life of a connection, so that a break costs less than 2 %."""

WINDOW_MIN = 4
WINDOW_MAX = 64
AHEAD_S = 1.0
"""Time for the open requests at the measured rate: several round trips."""

_SPAN_S = 0.5
_SPAN_BYTES = 1 << 20
"""The rate is measured over this time or so many bytes: on a fast link a bundle takes less than half a second."""


class RequestPace:
    """Measures a link.

    Attributes:
        rate_bytes_s: Received bytes a second while requests are open; ``None`` before it is known.
        piece_bytes: Size of the next pieces: a power of two from `PIECE_MIN_BYTES` to a chunk.
        window: Number of pieces that may be requested at a time.

    Args:
        window: The same before the rate is known.
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
        """Starts a measurement at the begin of a pull.

        Args:
            now_s: Of a monotonic clock.
        """
        self._span_began_s, self._span_bytes = now_s, 0

    def arrived(self, count: int, now_s: float) -> None:
        """Counts received bytes."""
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
        """Notes that the connection broke; it is measured only if something was received."""
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
