"""Which devices serve a bundle, and who takes over when one fails.

Invariants:

- A call is answered by one device, or raises: it is never dropped.
- Each answer says who was asked and who answered.

What happens to a device that fails is decided in `device_pool`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lineside_runtime.backend import Fetch
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.serving.candidates import CandidateChoice, PlacementCandidate
from lineside_runtime.serving.device_pool import DevicePool
from lineside_runtime.serving.health import Failures
from lineside_runtime.serving.shared import Retired
from lineside_runtime.serving.types import DeviceShare, Prediction, SlotFailure
from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    from lineside_runtime.serving.standby import Standby
    from lineside_runtime.serving.submit import Dispatcher, SubmitCounters


class Placement:
    """Serves one bundle.

    Attributes:
        requested: The first candidate.
        requested_device: The device that was asked for, such as ``cpu:0``.
    """

    def __init__(
        self,
        bundle: Bundle,
        choice: CandidateChoice,
        config: Config,
        failures: Failures,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Loads the first candidate that can be loaded; the others are loaded when they are needed.

        Args:
            clock_s: Seconds of a clock that never goes back.
            on_close: Called after everything is closed.

        Raises:
            ConfigError: `Config.replica_cores` doesn't fit the devices.
            LinesideError: No candidate can be loaded; the first one's error.
        """
        self.bundle = bundle
        self.pool = DevicePool(bundle, choice, config, failures, clock_s)
        self.requested = self.pool.slots[0].candidate
        self.requested_device = self.pool.requested_device
        self._config = config
        self._on_close = on_close
        self._requested_only = (self.requested,)
        self._starting = threading.Lock()
        self._dispatcher: Dispatcher | None = None
        self._standby: Standby | None = None
        try:
            self.pool.load_first()
            for slot in self.pool.replicas:
                self.pool.prepare_or_take_out(slot)
            if config.standby:
                from lineside_runtime.serving.standby import Standby  # only who wants one pays for it

                self._standby = Standby(self.pool)
        except BaseException:
            self._give_back()
            raise

    @property
    def leader(self) -> PlacementCandidate:
        """The first candidate that is loaded and not taken out, or else the first one."""
        return self.pool.leader.candidate

    @property
    def candidates(self) -> tuple[PlacementCandidate, ...]:
        """Candidates that were needed so far, in the order in which they are tried."""
        return tuple(slot.candidate for slot in self.pool.slots)

    @property
    def firsts(self) -> tuple[PlacementCandidate, ...]:
        """Candidates that may get a call first: the leader, and those that share the calls with it.

        The same object as long as nothing changes, so that the cache knows its keys again.
        """
        if not (self.pool.ailing or self.pool.replicas):
            return self._requested_only
        leader = self.leader
        others = (slot.candidate for slot in self.pool.replicas if slot.in_use)
        return (leader, *(candidate for candidate in others if candidate is not leader))

    def run(self, inputs: Mapping[str, Array]) -> Prediction:
        """Runs one call, on another device if the first ones fail.

        Raises:
            BadInputFormatError: The engine refuses the inputs.
            DeviceError: Every device failed; the first one's error.
        """
        pool, failed = self.pool, list[SlotFailure]()
        plan = pool.plan()
        try:
            for slot in pool.healthy_first(plan.order):
                at_once = pool.given(plan, slot)
                answer = pool.attempt(slot, inputs, plan.asked, may_restart=not failed)
                if isinstance(answer, SlotFailure):
                    failed.append(answer)
                    continue
                if failed or slot.failures:
                    pool.settle(slot, failed)
                if pool.replicas:
                    pool.measured(slot, answer.inference_ms / at_once)
                return answer
        finally:
            pool.ended(plan)
        pool.give_up(failed)
        raise failed[0].error if failed else pool.all_hang()

    def keep(self, device: str, outputs: Mapping[str, Array]) -> Fetch | None:
        """Copies outputs into the memory of the device that computed them; see `Executable.keep`.

        Args:
            device: As `Prediction.used_device` names it.
            outputs: Array by output name.
        """
        for slot in self.pool.slots:
            used = slot.executable
            if slot.engine_and_device == device and used is not None:
                with contextlib.suppress(Retired), used.use() as executable:
                    return executable.keep(outputs)
        return None

    def dispatcher(self, counters: SubmitCounters, on_answer: Callable[[Prediction], None]) -> Dispatcher:
        """Returns the dispatcher of submitted calls, made at the first one; it looks for all candidates in a thread."""
        if self._dispatcher is None:
            from lineside_runtime.serving.submit import Dispatcher  # only who submits pays for it

            with self._starting:
                if self._dispatcher is None:
                    made = Dispatcher(
                        self.pool,
                        counters,
                        workers=self._config.submit_workers,
                        queue_size=self._config.submit_queue,
                        on_answer=on_answer,
                    )
                    made.open([slot for slot in self.pool.slots if slot.in_use])
                    made.search_devices()
                    self._dispatcher = made
        return self._dispatcher

    @property
    def shares(self) -> tuple[DeviceShare, ...]:
        """Share of each searched device, in the order of preference."""
        dispatcher, leader = self._dispatcher, next((slot for slot in self.pool.slots if slot.in_use), None)
        shares = []
        for slot in self.pool.slots:
            share, waiting = slot.load.share, slot.load.waiting
            if not self.pool.replicas:
                share = float(slot is leader)
                waiting = dispatcher.waiting(slot) if dispatcher is not None else 0
            shares.append(DeviceShare(slot.engine_and_device, share, slot.load.service_ms, waiting, slot.in_use))
        return tuple(shares)

    @property
    def standby_device(self) -> str | None:
        """The engine and device that is loaded and waits to take over; ``None`` without `Config.standby`."""
        slot = self.pool.standby if self._standby is not None else None
        return None if slot is None else slot.engine_and_device

    def close(self) -> None:
        """Gives the devices back."""
        self._give_back()
        if self._on_close is not None:
            self._on_close()

    def _give_back(self) -> None:
        if self._standby is not None:
            self._standby.close()
        if self._dispatcher is not None:
            self._dispatcher.close()
        self.pool.close()
