"""Numbers of the files of a folder, written down before any is used.

One name a line, as JSON, in the order of the numbers; lines are only appended, and on disk before they count. A line
that was cut off by a power cut was never used, and is cut away. On a full disk the folder's files go on with numbers
that are not on disk yet: that is said, and the next start with room numbers them the same if none was added meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger("lineside.camera")


class Numbers:
    """Of one source.

    Args:
        state: The agent's state folder.
        source: As in the records.
    """

    def __init__(self, state: Path, source: str) -> None:
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        self._path = state / "numbers" / f"{digest}.jsonl"

    def extended(self, names: Sequence[str]) -> list[str]:
        """Returns all names in the order of their numbers; those that are new have the next ones.

        Args:
            names: That are there now, sorted.

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
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.error("which file has which number can't be written down: %s", error)
