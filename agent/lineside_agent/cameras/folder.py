"""The image files of a folder, by name."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lineside_agent.cameras.base import Camera, EncodedFrame, LostFrame, RawShot, Shot, decoded
from lineside_models.image_file import SUFFIXES
from lineside_runtime.errors import CameraError
from lineside_runtime.files import is_disk_full

log = logging.getLogger("lineside.camera")


class FolderCamera(Camera):
    """Gives each image file below a folder once, in the order of its relative path, which is its ``part_id``.

    The number of each file is on disk before the first frame is given. Files that come later get the next numbers,
    wherever their names sort.

    Args:
        name: Name of the source in the records; empty for ``folder:<path>``.
        loop: Whether the first file follows the last.
        state: Folder of the numbers; ``None`` to keep none: a new file may then shift them.
    """

    def __init__(self, path: Path, *, name: str = "", loop: bool = False, state: Path | None = None) -> None:
        super().__init__(name or f"folder:{path}", finite=True)
        self._path = path
        self._loop = loop
        self._numbers = None if state is None else FileNumbers(state, self.source)

    def raw_frames(self, start_at: int = 0) -> Iterator[RawShot]:
        """As `frames`, not decoded."""
        return self._files(start_at)

    def _frames(self, start_at: int) -> Iterator[Shot]:
        return map(decoded, self._files(start_at))

    def _files(self, start_at: int) -> Iterator[RawShot]:
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

    def _read(self, sequence: int, name: str) -> RawShot:
        captured_at_ns = time.time_ns()
        try:
            data = np.fromfile(self._path / name, np.uint8)
        except OSError as error:
            return LostFrame(self.source, sequence, name, captured_at_ns, f"{name}: {error}")
        return EncodedFrame(data, self.source, sequence, name, captured_at_ns)


class FileNumbers:
    """Numbers of the files of one folder, on disk before any is used.

    The file has one name a line, as JSON, in the order of the numbers; lines are only appended. A line that a power cut
    has torn was never used, and is cut off. On a full disk the new files get numbers that are not on disk: that is
    logged, and the next start gives them the same numbers if no file was added meanwhile.
    """

    def __init__(self, state: Path, source: str) -> None:
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        self._path = state / "numbers" / f"{digest}.jsonl"

    def extended(self, names: Sequence[str]) -> list[str]:
        """Returns all names in the order of their numbers; new ones get the next numbers.

        Raises:
            OSError: It can't be read or written, other than for want of room.
        """
        known = self._read()
        have = set(known)
        new = [name for name in names if name not in have]
        if new:
            self._append(new)
        return [*known, *new]

    def _read(self) -> list[str]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        whole, cut, _ = data.rpartition(b"\n")
        if len(whole) + len(cut) < len(data):
            os.truncate(self._path, len(whole) + len(cut))
        try:
            return [str(json.loads(line)) for line in whole.splitlines()]
        except ValueError as error:
            raise OSError(f"{self._path} is damaged: {error}; delete it to number the folder anew") from error

    def _append(self, names: Sequence[str]) -> None:
        data = "".join(f"{json.dumps(name)}\n" for name in names).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if not is_disk_full(error):
                raise
            log.error("which file has which number can't be written down: %s", error)
