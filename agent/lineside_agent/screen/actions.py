"""``actions.jsonl``: what people did at the screen, and who it was; one JSON object a line."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec

from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import StoreError

NAME = "actions.jsonl"

FILE_MAX_BYTES = 4 << 20
"""A longer file becomes ``actions.jsonl.1``, in place of the one before."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """An action.

    Attributes:
        at_ns: Unix time.
        by: Name of the person; ``local`` for somebody at the device where nobody has a PIN.
        action: Such as ``mark`` or ``acknowledge``.
        subject: Of what, such as a part.
        error: Why it failed; empty if it did not.
    """

    at_ns: int
    by: str
    action: str
    subject: str = ""
    detail: str = ""
    error: str = ""


class ActionLog:
    """Writes the file; each action is on disk when `add` returns."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._lock = threading.Lock()

    def add(self, by: str, action: str, subject: str = "", detail: str = "", error: str = "") -> None:
        """Appends an action.

        Raises:
            StoreError: It can't be written.
        """
        made = Action(at_ns=time.time_ns(), by=by, action=action, subject=subject, detail=detail, error=error)
        try:
            with self._lock:
                if self._path.exists() and self._path.stat().st_size > FILE_MAX_BYTES:
                    self._path.replace(self._path.with_name(f"{NAME}.1"))
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                try:
                    size = os.fstat(descriptor).st_size
                    is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # by a power cut or a full disk
                    os.write(descriptor, b"\n" * is_torn + msgspec.json.encode(made) + b"\n")
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error_:
            raise StoreError(f"{self._path} can't be written: {error_}") from error_

    def last(self, count: int) -> list[Action]:
        """Returns the last actions, newest first; a line that a power cut has torn is left out."""
        try:
            lines = self._path.read_bytes().splitlines()[-count:]
        except FileNotFoundError:
            return []
        return [action for action in map(_decoded, reversed(lines)) if action is not None]


def _decoded(line: bytes) -> Action | None:
    try:
        return decode_json(line, type=Action)
    except msgspec.DecodeError:
        return None
