"""The devices of one bundle: loading, running a call on one of them, and taking out those that fail.

Invariants:

- A device that failed while another one answered is taken out, and tried again after a pause that doubles.
- If no device answers a call, none is taken out: then the call is to blame and not the devices.
- Each failure is logged, counted and kept with its reason.
- An engine's process that ended is started again for the call that it was at, unless another device is loaded for that
  or it ends too often (`Restarts`). What took over meanwhile is unloaded a while after it is back.
- Where a device has no memory left, what can be freed is freed and the call is tried there once more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from lineside_runtime.backend import Executable
from lineside_runtime.bundle import Bundle, sample_inputs
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    BundleIntegrityError,
    ConfigError,
    DeviceError,
    DeviceLostError,
    EngineCrashedError,
    InputError,
    LinesideError,
    NoDeviceError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.logs import log
from lineside_runtime.serving.balancer import ReplicaLoad
from lineside_runtime.serving.candidates import CandidateChoice, PlacementCandidate
from lineside_runtime.serving.health import RETRY_MAX_S, Failures, pause_s
from lineside_runtime.serving.shared import Retired, Shared
from lineside_runtime.serving.types import CallPlan, Prediction, Slot, SlotFailure
from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    from lineside_runtime.serving.replicas import Replicas

# Another engine may read what this one can't, or be loaded already when a file of the bundle is replaced.
_FALLBACK_ERRORS = (DeviceError, UnsupportedModelError, BundleIntegrityError)

SUBSTITUTE_KEPT_S = 60.0
"""How long a device that took over stays loaded when the one before it is back: it may be needed again soon."""

OnTakenOut = Callable[[Slot], None]


class DevicePool:
    """The slots of a bundle, found and loaded when they are needed.

    Attributes:
        slots: Candidates that were needed so far, in the order in which they are tried.
        requested_device: The device that was asked for, such as ``cpu:0``.
        ailing: Whether a device is taken out, or a substitute of one is still loaded.
    """

    def __init__(
        self,
        bundle: Bundle,
        choice: CandidateChoice,
        config: Config,
        failures: Failures,
        clock_s: Callable[[], float],
    ) -> None:
        """Finds the first candidate and the replicas, and loads nothing.

        Raises:
            ConfigError: `Config.replica_cores` doesn't fit the devices.
            NoDeviceError: There is no candidate.
        """
        self.bundle = bundle
        self.slots: tuple[Slot, ...] = ()
        self.ailing = False
        self._identity = bundle.manifest.identity
        self._config = config
        self._failures = failures
        self._clock_s = clock_s
        self._choice = choice
        self._limit = 1 if config.fallback_strategy == "error" else None
        self._substitutes_until_s = 0.0
        self._closed = False
        self._zeros_work = True
        self._lock = threading.Lock()
        self._growing = threading.Lock()
        self._listeners: list[OnTakenOut] = []
        first = self._slot(0)
        if first is None:
            raise NoDeviceError(f"nothing here runs {self._identity}")
        self.requested_device = str(choice.absent_device or first.candidate.device)
        replicas = self._find_replicas()
        self._replicas = _shared_by(replicas, config) if len(replicas) > 1 else None

    @property
    def replicas(self) -> tuple[Slot, ...]:
        """The devices that share the calls; empty where one has them all."""
        return () if self._replicas is None else self._replicas.slots

    @property
    def leader(self) -> Slot:
        """The first slot that is loaded and not taken out, or else the first one."""
        now = self._clock_s()
        loaded = (slot for slot in self.slots if slot.executable is not None and slot.retry_at_s <= now)
        return next(loaded, self.slots[0])

    @property
    def standby(self) -> Slot | None:
        """The second slot in use: the device that would take over."""
        in_use = [slot for slot in self.slots if slot.in_use]
        return in_use[1] if len(in_use) > 1 else None

    def on_taken_out(self, listener: OnTakenOut) -> None:
        """Registers a callback for each device that is taken out; it is called without the lock."""
        self._listeners.append(listener)

    def close(self) -> None:
        """Gives the devices back; one that is just being loaded is closed when it is."""
        with self._lock:
            self._closed = True
            self._listeners.clear()
            loaded = [slot.executable for slot in self.slots if slot.executable is not None]
            for slot in self.slots:
                slot.executable = None
        self._choice.end()
        for executable in loaded:
            executable.retire()

    # Finding devices.

    def all_slots(self) -> tuple[Slot, ...]:
        """Looks for every candidate but the last resort, and so imports their engines."""
        for index in range(len(self._choice.candidates)):
            self._slot(index)
        return self.slots

    def _slot(self, index: int) -> Slot | None:
        if index < len(self.slots):
            return self.slots[index]
        with self._growing:
            while len(self.slots) <= index:
                candidate = None if len(self.slots) == self._limit else self._choice.at(len(self.slots))
                if candidate is None:
                    return None
                self.slots = (*self.slots, self._new_slot(candidate))
            return self.slots[index]

    def _slots_from(self, index: int) -> Iterator[Slot]:
        """Yields the slots from this index on, and finds those that were not needed before."""
        while (slot := self._slot(index)) is not None:
            yield slot
            index += 1

    def _new_slot(self, candidate: PlacementCandidate) -> Slot:
        cores, index = self._config.replica_cores, len(self.slots)
        own = cores[index] if cores is not None and index < len(cores) else None
        return Slot(candidate, ReplicaLoad(workers=self._config.submit_workers), own)

    def _find_replicas(self) -> tuple[Slot, ...]:
        """Returns the devices that share the calls: all with `Config.balance`, else a leading GPU and a CPU.

        All run variants of one level: a verdict must not depend on whose turn it is. Other levels stand by.
        """
        level = self.slots[0].candidate.variant.level
        if self._config.balance:
            slots, cores = tuple(self._of_level(self.all_slots(), level)), self._config.replica_cores
            if cores is not None and len(cores) != len(slots):
                names = ", ".join(slot.engine_and_device for slot in slots)
                raise ConfigError("replica_cores", expected=f"cores for each of {names}", actual=cores)
            return slots
        if self.slots[0].candidate.device.kind != "gpu" or self._config.gpu_ratio == 1:
            return ()
        others = self._of_level(self._slots_from(1), level)
        cpu = next((slot for slot in others if slot.candidate.device.kind == "cpu"), None)
        return (self.slots[0], cpu) if cpu else ()

    @staticmethod
    def _of_level(slots: Iterable[Slot], level: int) -> Iterator[Slot]:
        return (slot for slot in slots if slot.candidate.variant.level == level)

    # Choosing a device for a call.

    def plan(self) -> CallPlan:
        """Chooses the devices for a call; to be followed by `ended`."""
        if self._replicas is not None:
            return self._replicas.plan(self.slots)
        return CallPlan(self.slots[0], self.slots)

    def given(self, plan: CallPlan, slot: Slot) -> int:
        """Notes which device has the call now, and returns how many it has."""
        return 1 if self._replicas is None else self._replicas.given(plan, slot)

    def ended(self, plan: CallPlan) -> None:
        """Notes that a call has ended."""
        if self._replicas is not None:
            self._replicas.ended(plan)

    def measured(self, slot: Slot, service_ms: float) -> None:
        """Records a call's time in the engine."""
        with self._lock:
            slot.load.measure(service_ms)

    def healthy_first(self, order: Sequence[Slot]) -> Iterator[Slot]:
        """Yields slots in use or due again, then those that were not needed before, then the others.

        What is due and must be loaded first is left out while another device serves: a thread loads it, which can take
        a second, and only then a call tries it. A device that hung is tried by that thread alone.
        """
        if not self.ailing:
            yield from order
            yield from self._slots_from(len(order))
            return
        now = self._clock_s()
        if now >= self._substitutes_until_s:
            self._unload_substitutes()
        ready, trials = self._due(order, now)
        for slot in trials:
            threading.Thread(target=self._trial, args=(slot,), name="lineside-trial", daemon=True).start()
        yield from ready
        yield from self._slots_from(len(order))
        rest = [slot for slot in order if slot not in ready and not slot.hung]
        yield from sorted(rest, key=lambda slot: slot.retry_at_s)

    def _due(self, order: Sequence[Slot], now: float) -> tuple[list[Slot], list[Slot]]:
        """Returns the slots that a call may try now, and those that a thread is to try; only the first caller gets
        one that was taken out.
        """
        ready: list[Slot] = []
        trials: list[Slot] = []
        with self._lock:
            another_serves = any(slot.in_use for slot in order)
            for slot in order:
                if slot.retry_at_s > now:
                    continue
                if slot.hung or (slot.failures and slot.executable is None and another_serves):
                    slot.retry_at_s = now + RETRY_MAX_S
                    trials.append(slot)
                    continue
                ready.append(slot)
                if slot.failures:
                    slot.retry_at_s = now + pause_s(slot.failures)  # one caller tries, the others go on elsewhere
        return ready, trials

    def may_try(self, slot: Slot) -> bool:
        """Whether a device that was taken out is due to be tried; true only for the first caller."""
        now = self._clock_s()
        with self._lock:
            if slot.retry_at_s > now:
                return False
            slot.retry_at_s = now + (RETRY_MAX_S if slot.hung else pause_s(slot.failures))
            return True

    def all_hang(self) -> DeviceLostError:
        """Returns the error for a call when every device hangs."""
        return DeviceLostError(
            f"every device hangs: {', '.join(slot.engine_and_device for slot in self.slots)}",
            action="They are tried again after a pause; the log says when.",
        )

    # Running a call.

    def attempt(
        self, slot: Slot, inputs: Mapping[str, Array], asked: Slot, *, may_restart: bool = False
    ) -> Prediction | SlotFailure:
        """Runs a call on one device; a failure is noted, and the caller decides what follows.

        Args:
            inputs: Array by input name.
            asked: The device that was asked for.
            may_restart: Whether there is time to start an engine's process again, should it end.

        Raises:
            InputError: The engine refuses the inputs.
        """
        failures, relieved, restarted = slot.failures, False, False
        while True:
            used: Shared[Executable] | None = None
            try:
                used = slot.executable or self.load(slot)
                executable = used.enter()
                try:
                    started_s = perf_counter()
                    outputs = executable.run(inputs)
                    elapsed_ms = (perf_counter() - started_s) * 1e3
                finally:
                    used.leave()
            except Retired:  # another thread has just taken it out
                continue
            except _FALLBACK_ERRORS as error:
                if not relieved and _memory_freed(error):
                    relieved = True
                    continue
                if used is not None and may_restart and not restarted and self._restart(slot, used, error):
                    restarted = True
                    continue
                return self._failed(slot, used, error, failures)
            if restarted:
                log.warning("%s answers again, in a new process", slot.candidate)
            requested = self.requested_device if asked is self.slots[0] else asked.device
            fell_back = slot is not asked or requested != asked.device
            return Prediction(outputs, requested, slot.engine_and_device, fell_back, elapsed_ms, self._identity)

    def _restart(self, slot: Slot, used: Shared[Executable], error: LinesideError) -> bool:
        """Drops an engine's process that ended, so that it is loaded anew; false if another device is to answer.

        A call that hung is not given a second time: it would hang the line twice as long.
        """
        if not isinstance(error, EngineCrashedError) or isinstance(error.__cause__, TimeoutError):
            return False
        with self._lock:
            if slot.failures or self._closed or (self._config.standby and self.standby is not None):
                return False
            first = slot.executable is used
            if first and not slot.restarts.crashed(self._clock_s()):
                return False
            if first:
                slot.executable = None
        if first:
            used.retire()
            self._failures.add(slot.engine_and_device, "run", error)
            self._failures.restarted()
            log.warning("%s is started again in a new process, crash %d", slot.candidate, slot.restarts.crashes)
        return True

    def _failed(self, slot: Slot, used: Shared[Executable] | None, error: LinesideError, failures: int) -> SlotFailure:
        if not self._closed:  # what is loaded while the session ends fails for that reason alone
            self._failures.add(slot.engine_and_device, "run" if used else "load", error)
        return SlotFailure(slot, used, error, failures)

    # Loading.

    def load_first(self) -> None:
        """Loads the first candidate that can be loaded, and takes those out that come before it.

        Raises:
            LinesideError: No candidate can be loaded; the first one's error.
        """
        failed: list[SlotFailure] = []
        for slot in self._slots_from(0):
            try:
                try:
                    self.load(slot)
                except OutOfDeviceMemoryError as error:
                    if not _memory_freed(error):
                        raise
                    self.load(slot)
            except _FALLBACK_ERRORS as error:
                failed.append(self._failed(slot, None, error, slot.failures))
                continue
            self.settle(slot, failed)
            return
        raise failed[0].error

    def load(self, slot: Slot) -> Shared[Executable]:
        """Loads a device, if no other thread has.

        Raises:
            DeviceError: It can't be loaded, or was taken out meanwhile.
            UnsupportedModelError: Its engine can't read the model.
        """
        loading = slot.loading
        with loading:
            if slot.executable is not None:
                return slot.executable
            candidate = slot.candidate
            config = self._config if slot.cores is None else replace(self._config, cores=slot.cores)
            loaded = candidate.load(self.bundle, config)
            if loaded.shortfall is not None:  # it serves, but not wholly where it was asked for
                self._failures.add(slot.engine_and_device, "load", loaded.shortfall)
            fresh = Shared(loaded)
            with self._lock:
                in_time = not self._closed and slot.loading is loading
                if in_time:
                    slot.executable = fresh
        if not in_time:  # it took so long that the device was taken out, or the session closed
            fresh.retire()
            raise DeviceLostError(f"{slot.engine_and_device} was given up while it was loaded")
        log.info("%s: loaded %s on %s", self._identity, candidate.variant.name, candidate)
        return fresh

    def prepare(self, slot: Slot, on_loaded: Callable[[], None] | None = None) -> SlotFailure | None:
        """Loads a device and runs it once with zeros, so that the first call isn't the slow one."""
        failures, used = slot.failures, None
        try:
            used = self.load(slot)
            if on_loaded is not None:
                on_loaded()
            if self._zeros_work and (failures or not slot.load.measured):
                self._run_zeros(slot, used)
        except Retired:  # another thread has taken it out, and has said so
            return None
        except (*_FALLBACK_ERRORS, InputError) as error:
            if isinstance(error, _FALLBACK_ERRORS) and (used is None or failures):
                return self._failed(slot, used, error, failures)
            if used is None:
                raise
            self._zeros_work = False  # not the device but a model that doesn't take zeros; the calls will tell
            log.info("%s: %s can't be warmed up: %s", self._identity, slot.candidate, error)
        return None

    def prepare_or_take_out(self, slot: Slot) -> None:
        """Prepares a device, unless it is in use or taken out; one that fails is taken out."""
        if slot.executable is None and not slot.failures:
            failed = self.prepare(slot)
            if failed is not None:
                self.take_out(failed)()

    def _run_zeros(self, slot: Slot, used: Shared[Executable]) -> None:
        inputs = sample_inputs(self.bundle.manifest)
        with used.use() as executable:
            started_s = perf_counter()
            executable.run(inputs)
            self.measured(slot, (perf_counter() - started_s) * 1e3)

    def unload(self, slot: Slot) -> int:
        """Unloads a device that is not needed now; returns about how many bytes that frees."""
        with self._lock:
            used, slot.executable = slot.executable, None
        if used is None:
            return 0
        used.retire()
        return self.bundle.manifest.files[slot.candidate.variant.file].size

    # Health.

    def settle(self, answered: Slot, failed: Iterable[SlotFailure]) -> None:
        """Takes out those that failed a call that another one answered, and takes that one back in."""
        if answered.failures:
            self.revive(answered)
            log.warning("%s answers again", answered.candidate)
        for failure in failed:
            with self._lock:
                known = failure.slot.failures != failure.failures or failure.slot.executable is not failure.executable
            if not known:
                self.take_out(failure)()

    def take_out(
        self, failed: SlotFailure, *, hung: bool = False, known_to: OnTakenOut | None = None
    ) -> Callable[[], None]:
        """Marks a device as taken out.

        Args:
            failed: Why. If it was taken out since that failure, nothing is done.
            hung: Whether it didn't answer: then it gets only trial calls.
            known_to: A listener that is not called.

        Returns:
            The rest of the work, which must not be done under a lock.
        """
        slot = failed.slot
        with self._lock:
            if slot.failures != failed.failures:
                return _nothing
            used, slot.executable = slot.executable, None
            slot.failures += 1
            slot.hung = hung
            slot.retry_at_s = max(self._clock_s() + pause_s(slot.failures), slot.restarts.next_at_s)
            if hung:
                slot.loading = threading.Lock()  # the hung thread may hold the old one
            self.ailing = True

        def finish() -> None:
            log.warning("%s is taken out and tried again in %.0f s", slot.candidate, slot.retry_at_s - self._clock_s())
            if used is not None:
                if hung:
                    _abandon(used)
                used.retire()
            for listener in tuple(self._listeners):
                if listener != known_to:
                    listener(slot)

        return finish

    def revive(self, slot: Slot) -> None:
        """Takes a device back in."""
        with self._lock:
            slot.failures, slot.retry_at_s, slot.hung = 0, 0.0, False
            self._substitutes_until_s = self._clock_s() + SUBSTITUTE_KEPT_S
            self.ailing = any(one.failures for one in self.slots) or bool(self._substitutes())

    def give_up(self, failed: Iterable[SlotFailure]) -> None:
        """Drops lost executables of a call that no device answered, so that the next call loads them again."""
        for failure in failed:
            if isinstance(failure.error, (DeviceLostError, EngineCrashedError)) and failure.executable is not None:
                with self._lock:
                    if failure.slot.executable is failure.executable:
                        failure.slot.executable = None
                failure.executable.retire()

    def note(self, slot: Slot, error: LinesideError) -> None:
        """Records a failure of a device that is not taken out."""
        self._failures.add(slot.engine_and_device, "run", error)

    def _trial(self, slot: Slot) -> None:
        hung, failed = slot.hung, self.prepare(slot)
        if failed is not None:
            self.take_out(failed, hung=hung)()
        elif slot.executable is not None and not hung:
            with self._lock:
                slot.retry_at_s = 0.0  # the next call tries it
        elif slot.executable is not None:
            self.revive(slot)
            log.warning("%s answers again", slot.candidate)

    def _substitutes(self) -> list[Slot]:
        """Returns the devices that are loaded only because another one was out, which is back."""
        if self._config.standby:
            return []
        loaded = [slot for slot in self.slots if slot.in_use]
        return [slot for slot in loaded[1:] if slot not in self.replicas]

    def _unload_substitutes(self) -> None:
        for slot in self._substitutes():
            log.info("%s is unloaded: %s answers", slot.candidate, self.leader.candidate)
            self.unload(slot)
        with self._lock:
            self.ailing = any(one.failures for one in self.slots)


def _nothing() -> None:
    pass


def _shared_by(slots: tuple[Slot, ...], config: Config) -> Replicas:
    from lineside_runtime.serving.replicas import Replicas  # only where several devices share the calls

    return Replicas(slots, config.gpu_ratio)


def _memory_freed(error: LinesideError) -> bool:
    if not isinstance(error, OutOfDeviceMemoryError):
        return False
    from lineside_runtime.serving.memory_pressure import relieve  # only who runs out of memory pays for it

    return relieve() > 0


def _abandon(used: Shared[Executable]) -> None:
    with contextlib.suppress(Retired), used.use() as executable:
        executable.abandon()
