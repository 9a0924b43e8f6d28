"""The image archive: which frames are kept, and where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import cv2

from lineside_models.frame import Frame
from lineside_runtime.errors import StoreError
from lineside_runtime.files import write_atomic

Keep = Literal["none", "bad", "all"]


class Archive:
    """Keeps frames as PNG under ``<folder>/images/<source>/<sequence>.png``."""

    def __init__(self, folder: Path, keep: Keep) -> None:
        self._folder = folder / "images"
        self._keep = keep

    def use(self, keep: Keep) -> None:
        """Takes another choice of frames, from the next one on."""
        self._keep = keep

    def path(self, source: str, sequence: int) -> Path:
        """Returns where the image of a frame is, or would be.

        Args:
            source: As in the record.
            sequence: As in the record.
        """
        return self._folder / re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-.") / f"{sequence:08d}.png"

    def save(self, frame: Frame, verdict: str) -> Path | None:
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
            write_atomic(path, png.tobytes())
        except OSError as error:
            raise StoreError(f"{path}: {error}") from error
        return path
