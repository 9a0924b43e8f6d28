"""`Camera`: the plug point. A kind of camera writes ``_frames`` and nothing else."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator

import cv2

from lineside_models.frame import Frame
from lineside_runtime.errors import CameraError


@dataclasses.dataclass(frozen=True, slots=True)
class LostFrame:
    """A frame that can't be inspected, and still ends in a record.

    Attributes:
        source: As in `Frame`.
        sequence: As in `Frame`.
        part_id: As in `Frame`.
        captured_at_ns: As in `Frame`.
        reason: Why there is no image.
    """

    source: str
    sequence: int
    part_id: str
    captured_at_ns: int
    reason: str


Shot = Frame | LostFrame


class Camera(ABC):
    """Gives frames.

    Attributes:
        source: What the records call it; the agent goes on after its last record.
        finite: Whether it ends by itself and can wait: it then gives each frame once, whatever happens in between.
    """

    def __init__(self, source: str, *, finite: bool) -> None:
        self.source = source
        self.finite = finite

    def frames(self, start_at: int = 0) -> Iterator[Shot]:
        """Yields frames in order of their sequence.

        Args:
            start_at: Sequence of the first one.

        Raises:
            CameraError: It gives no frames, or none any more.
        """
        try:
            yield from self._frames(start_at)
        except (OSError, cv2.error, ValueError) as error:
            raise CameraError(f"{self.source}: {error}", action="Look at the camera; it is opened again.") from error

    @abstractmethod
    def _frames(self, start_at: int) -> Iterator[Shot]:
        """Yields frames from ``start_at`` on; may raise `CameraError`, `OSError`, `cv2.error` or `ValueError`."""
