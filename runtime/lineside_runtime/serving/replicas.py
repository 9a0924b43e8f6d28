"""The devices that share the calls of a placement, and how many calls each has."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from lineside_runtime.serving.balancer import Balancer, start_shares
from lineside_runtime.serving.types import CallPlan, Slot


class Replicas:
    """A `Balancer` over slots, for any number of threads.

    Attributes:
        slots: The devices, in the order of preference.
    """

    def __init__(self, slots: tuple[Slot, ...], gpu_ratio: float) -> None:
        """Takes the devices."""
        self.slots = slots
        for slot, share in zip(
            slots, start_shares([slot.candidate.device.kind for slot in slots], gpu_ratio), strict=True
        ):
            slot.load.start_share = share
        self._balancer = Balancer([slot.load for slot in slots])
        self._lock = threading.Lock()

    def plan(self, all_slots: Sequence[Slot]) -> CallPlan:
        """Gives a call to one of them; the others follow in the order of preference."""
        with self._lock:
            wanted, given = self._balancer.give([i for i, slot in enumerate(self.slots) if slot.failures])
        asked, first = self.slots[wanted], self.slots[given]
        firsts = (asked,) if asked is first else (asked, first)
        return CallPlan(asked, (*firsts, *(slot for slot in all_slots if slot not in firsts)), given)

    def given(self, plan: CallPlan, slot: Slot) -> int:
        """Notes which device has the call now, and returns how many it has."""
        taker = self.slots.index(slot) if slot in self.slots else None
        with self._lock:
            if taker != plan.given:
                if plan.given is not None:
                    self._balancer.end(plan.given)
                if taker is not None:
                    self._balancer.take(taker)
                plan.given = taker
            return max(slot.load.waiting, 1)

    def ended(self, plan: CallPlan) -> None:
        """Notes that a call has ended."""
        with self._lock:
            if plan.given is not None:
                self._balancer.end(plan.given)
                plan.given = None
