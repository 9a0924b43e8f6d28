"""Thumbnails of frames for lists, made at their first use and kept in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from lineside_hub.results.frames.image import check_head
from lineside_runtime.errors import FrameError

SIDE_MAX = 160
"""Of the longer side, in pixels."""

QUALITY = 80

CACHE_MAX_BYTES = 8 << 20
"""More than a thousand thumbnails."""


class ThumbnailCache:
    """The thumbnails that were used last.

    Nothing is written to a disk: a frame that retention deletes leaves no picture behind. Who may see a frame, and
    whether it still is here, is checked by the caller.
    """

    def __init__(self, max_bytes: int = CACHE_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, sha256: str) -> bytes | None:
        """Returns the JPEG of a frame; ``None`` if it is not kept."""
        with self._lock:
            if sha256 in self._kept:
                self._kept.move_to_end(sha256)
            return self._kept.get(sha256)

    def add(self, sha256: str, frame: bytes) -> bytes:
        """Makes the JPEG of a frame, keeps and returns it.

        Raises:
            FrameError: It is no image.
        """
        made = make_thumbnail(frame)
        with self._lock:
            self._bytes += len(made) - len(self._kept.pop(sha256, b""))
            self._kept[sha256] = made
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made


def make_thumbnail(frame: bytes) -> bytes:
    """Returns a PNG as a small JPEG; errors as `ThumbnailCache.add`."""
    check_head(frame, width=0, height=0)
    import cv2  # 20 MB that a hub without frames doesn't need
    import numpy as np

    from lineside_models.image_file import encode_jpeg

    image = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise FrameError("a frame can't be decoded")
    return encode_jpeg(np.asarray(image, np.uint8), QUALITY, side_max=SIDE_MAX)
