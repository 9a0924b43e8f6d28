"""The image archive: which frames are kept, and where.

Verdicts go first: where less than ``keep_free_bytes`` is left on the disk, no image is written.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Literal

import cv2

from lineside_agent.config import StoreConfig
from lineside_agent.kept import SavedImage
from lineside_models.frame import Frame
from lineside_runtime.errors import DiskFullError, StoreError
from lineside_runtime.files import write_atomic

Keep = Literal["none", "bad", "all"]


class Archive:
    """Keeps frames as PNG under ``<folder>/images/<source>/<sequence>.png``.

    Args:
        folder: The agent's state folder.
        keep: Which frames.
        keep_free_bytes: Room on the disk that images leave to everything else.

    Attributes:
        folder: Where the images lie.
    """

    def __init__(self, folder: Path, keep: Keep, *, keep_free_bytes: int = 0) -> None:
        self.folder = folder / "images"
        self._keep = keep
        self._keep_free_bytes = keep_free_bytes

    def use(self, store: StoreConfig) -> None:
        """Takes another choice of frames, from the next one on."""
        self._keep = store.keep_images
        self._keep_free_bytes = store.keep_free_bytes

    def path(self, source: str, sequence: int) -> Path:
        """Returns where the image of a frame is, or would be.

        Args:
            source: As in the record.
            sequence: As in the record.
        """
        return self.folder / re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-.") / f"{sequence:08d}.png"

    def save(self, frame: Frame, verdict: str) -> SavedImage | None:
        """Keeps a frame, if frames with this verdict are kept.

        Args:
            frame: Any.
            verdict: ``pass``, ``reject`` or ``fault``.

        Returns:
            The file, or ``None`` if it is not kept.

        Raises:
            DiskFullError: There is no room.
            StoreError: The file could not be written.
        """
        if self._keep == "none" or (self._keep == "bad" and verdict == "pass"):
            return None
        path = self.path(frame.source, frame.sequence)
        done, png = cv2.imencode(".png", frame.image)
        if not done:
            raise StoreError(f"frame {frame.sequence} of {frame.source} can't be written as PNG")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._keep_free_bytes and (free := shutil.disk_usage(self.folder).free) < self._keep_free_bytes:
                raise DiskFullError(f"{free} bytes are left, which are for the records")
            write_atomic(path, png.tobytes())
        except OSError as error:
            raise StoreError(f"{path}: {error}") from error
        return SavedImage(str(path.relative_to(self.folder)), len(png), time.time_ns())
