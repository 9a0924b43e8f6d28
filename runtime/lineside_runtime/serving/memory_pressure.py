"""Free memory that is not needed now when an allocation fails.

A cache, or a standby, registers a callback that frees its memory. After an `OutOfDeviceMemoryError` all callbacks are
called and the allocation is tried once more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from lineside_runtime.logs import log

_lock = threading.Lock()
_releases: dict[object, Callable[[], int]] = {}


def on_memory_pressure(release: Callable[[], int]) -> Callable[[], None]:
    """Registers a callback that frees memory.

    Args:
        release: Called from any thread; returns how many bytes it has freed, or an estimate. It must not raise.

    Returns:
        A function that ends the registration; calling it twice changes nothing.
    """
    key = object()
    with _lock:
        _releases[key] = release

    def end() -> None:
        with _lock:
            _releases.pop(key, None)

    return end


def relieve() -> int:
    """Calls all registered callbacks, and returns how many bytes they freed."""
    with _lock:
        releases = list(_releases.values())
    freed = sum(release() for release in releases)
    log.warning("a device has no room: %d bytes were freed elsewhere", freed)
    return freed
