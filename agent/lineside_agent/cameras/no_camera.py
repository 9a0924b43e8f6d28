"""No camera, on a device that recommends and inspects nothing."""

from __future__ import annotations

from collections.abc import Iterator

from lineside_agent.cameras.base import Camera, Shot


class NoCamera(Camera):
    """Gives no frame until it is to end."""

    def __init__(self, *, name: str = "") -> None:
        super().__init__(name or "none", finite=False)

    def _frames(self, start_at: int) -> Iterator[Shot]:
        del start_at
        self.shows.set()
        self.ending.wait()
        yield from ()
