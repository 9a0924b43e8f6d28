"""Keep the device loaded and warm that would take over, so that a failure costs one inference."""

from __future__ import annotations

import threading

from lineside_runtime.serving.device_pool import DevicePool
from lineside_runtime.serving.memory_pressure import on_memory_pressure
from lineside_runtime.serving.types import Slot


class Standby:
    """Loads the first device after the leader that can be loaded; unloads it where memory runs short."""

    def __init__(self, pool: DevicePool) -> None:
        self._pool = pool
        self._closed = False
        self._loading = threading.Lock()
        self._due = False
        self._load()
        self._unregister = on_memory_pressure(self._release)
        pool.on_taken_out(self._load_soon)

    def close(self) -> None:
        """Loads no more."""
        self._closed = True
        self._unregister()

    def _load(self) -> None:
        with self._loading:
            self._due = False  # from here on a failure that this look might miss starts another one
            for slot in self._pool.all_slots():
                if self._closed or self._pool.standby is not None:
                    return
                self._pool.prepare_or_take_out(slot)

    def _load_soon(self, _: Slot) -> None:
        """Loads one in a thread, since the thread that met the failure has a call to answer."""
        if not (self._closed or self._due):
            self._due = True
            threading.Thread(target=self._load, name="lineside-standby", daemon=True).start()

    def _release(self) -> int:
        slot = self._pool.standby
        if slot is None or slot in self._pool.replicas:  # it answers calls, and would be loaded again at once
            return 0
        return self._pool.unload(slot)
