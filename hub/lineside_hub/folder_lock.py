"""Locks across processes: one writer at a time in a folder of the hub, and one hub that runs on it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from lineside_runtime.errors import ConfigError
from lineside_runtime.files import file_lock

LOCK_NAME = "write.lock"
RUNNING_NAME = "running.lock"


def folder_lock(folder: Path) -> AbstractContextManager[None]:
    """Returns the lock of ``folder``; see `file_lock`."""
    return file_lock(folder / LOCK_NAME)


def running_lock(folder: Path) -> AbstractContextManager[None]:
    """Returns the lock that the process of a hub holds; `ConfigError` on entry if another hub runs on the folder.

    Two hubs with one name push each other off the broker, and both step the same rollouts.
    """
    refusal = ConfigError(f"another hub runs on {folder}", action="End it first.")
    return file_lock(folder / RUNNING_NAME, refusal=refusal)
