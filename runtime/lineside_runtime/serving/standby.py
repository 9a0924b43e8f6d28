"""`Standby`: keeps the device loaded and warm that would take over, so that a failure costs one inference."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lineside_runtime.serving.memory_pressure import on_memory_pressure

if TYPE_CHECKING:
    from lineside_runtime.serving.placement import Placement
    from lineside_runtime.serving.slots import Slot


class Standby:
    """The first device after the leader that can be loaded; given up where memory runs short."""

    def __init__(self, placement: Placement) -> None:
        """Loads it, and notes those that can't be loaded."""
        self._placement = placement
        self._closed = False
        self._keeping = threading.Lock()
        self._due = False
        self.keep()
        self._unregister = on_memory_pressure(self._release)

    @property
    def slot(self) -> Slot | None:
        """The device; ``None`` if none is loaded."""
        used = [slot for slot in self._placement.all_slots() if self._placement.in_use(slot)]
        return used[1] if len(used) > 1 else None

    def keep(self) -> None:
        """Loads a standby if there is none."""
        with self._keeping:
            self._due = False  # from here on a failure that this look might miss starts another one
            for slot in self._placement.all_slots():
                if self._closed or self.slot is not None:
                    return
                if slot.executable is None and not slot.failures:
                    failed = self._placement.prepare(slot)
                    if failed is not None:
                        self._placement.take_out(failed)()

    def keep_soon(self) -> None:
        """Does so in a thread: whoever has met the failure has a call to answer."""
        if not (self._closed or self._due):
            self._due = True
            threading.Thread(target=self.keep, name="lineside-standby", daemon=True).start()

    def close(self) -> None:
        """Loads no more."""
        self._closed = True
        self._unregister()

    def _release(self) -> int:
        slot = self.slot
        if slot is None or slot in self._placement.replicas:  # it answers calls, and would be loaded again at once
            return 0
        return self._placement.let_go(slot)
