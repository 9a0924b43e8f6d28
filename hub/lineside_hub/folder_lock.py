"""A lock across processes: one writer at a time in a folder of the hub."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from lineside_runtime.files import file_lock

LOCK_NAME = "write.lock"


def folder_lock(folder: Path) -> AbstractContextManager[None]:
    """Returns the lock of ``folder``; see `file_lock`."""
    return file_lock(folder / LOCK_NAME)
