"""The image files of a folder, by name."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lineside_agent.cameras.base import Camera, EncodedFrame, Given, LostFrame, Shot, opened
from lineside_agent.cameras.numbering import Numbers
from lineside_runtime.errors import CameraError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


class FolderCamera(Camera):
    """Gives each image file below a folder once, in the order of its relative path, which is its ``part_id``.

    Which file has which number is written down before the first is given, and files that come later have the numbers
    after it, wherever their names sort.

    Args:
        path: The folder.
        name: What the records call the source; empty for ``folder:<path>``.
        loop: Whether the first follows the last.
        state: Where the numbers are written down; ``None`` for nowhere: a new file may then shift them.
    """

    def __init__(self, path: Path, *, name: str = "", loop: bool = False, state: Path | None = None) -> None:
        super().__init__(name or f"folder:{path}", finite=True)
        self._path = path
        self._loop = loop
        self._numbers = None if state is None else Numbers(state, self.source)

    def given(self, start_at: int = 0) -> Iterator[Given]:
        """As `frames`, not decoded."""
        return self._files(start_at)

    def _frames(self, start_at: int) -> Iterator[Shot]:
        return map(opened, self._files(start_at))

    def _files(self, start_at: int) -> Iterator[Given]:
        if not self._path.is_dir():
            raise CameraError(f"{self._path} is not a folder", action="Correct $.camera.path.")
        names = sorted(
            path.relative_to(self._path).as_posix()
            for path in self._path.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        if not names:
            raise CameraError(f"{self._path} holds no image", expected=", ".join(sorted(SUFFIXES)))
        if self._numbers is not None:
            names = self._numbers.extended(names)
        for sequence in itertools.count(start_at):
            if sequence >= len(names) and not self._loop:
                return
            yield self._read(sequence, names[sequence % len(names)])

    def _read(self, sequence: int, name: str) -> Given:
        captured_at_ns = time.time_ns()
        try:
            data = np.fromfile(self._path / name, np.uint8)
        except OSError as error:
            return LostFrame(self.source, sequence, name, captured_at_ns, f"{name}: {error}")
        return EncodedFrame(data, self.source, sequence, name, captured_at_ns)
