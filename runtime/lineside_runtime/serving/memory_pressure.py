"""Which caches can free device memory when an allocation fails.

A cache, or a model that is loaded for a rainy day, registers what frees it; a placement that meets
`OutOfDeviceMemoryError` calls all of them and tries once more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from lineside_runtime.logs import log

_lock = threading.Lock()
_releases: dict[object, Callable[[], int]] = {}


def on_memory_pressure(release: Callable[[], int]) -> Callable[[], None]:
    """Registers what frees memory that is not needed now.

    Args:
        release: Called from any thread; returns how many bytes it has freed, 0 for none. It must not raise, and an
            estimate will do where the size isn't known: what counts is whether another try has a chance.

    Returns:
        What ends the registration; done twice it changes nothing.
    """
    key = object()
    with _lock:
        _releases[key] = release

    def end() -> None:
        with _lock:
            _releases.pop(key, None)

    return end


def relieve() -> int:
    """Frees all that is registered, and returns how many bytes that were."""
    with _lock:
        releases = list(_releases.values())
    freed = sum(release() for release in releases)
    log.warning("a device has no room: %d bytes were freed elsewhere", freed)
    return freed
