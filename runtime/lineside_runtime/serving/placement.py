"""`Placement`: which executables serve a bundle, and who takes over when one fails.

Invariants:

- A call is answered by one device, or raises: it is never dropped.
- A device that failed while another one answered is taken out, and tried again after a pause that doubles.
- If no device answers a call, none is taken out: then it is the call and not the devices.
- Each failure is logged, counted and kept with its reason; each answer says who was asked and who answered.
- An engine's process that ended is started again for the call that it was at, unless another device is loaded for that
  or it ends too often (`restarts`); what had to take over meanwhile is unloaded a while after it is back.
- Where a device has no room, what can be freed is freed and the call is tried there once more.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from lineside_runtime.backend import Executable, Fetch
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import (
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
from lineside_runtime.inputs import sample_inputs
from lineside_runtime.logs import log
from lineside_runtime.prediction import DeviceShare, Prediction
from lineside_runtime.serving import memory_pressure
from lineside_runtime.serving.balancer import ReplicaLoad
from lineside_runtime.serving.candidates import Candidate, CandidateChoice
from lineside_runtime.serving.failures import Failures, Fallback
from lineside_runtime.serving.replicas import Replicas
from lineside_runtime.serving.shared import Retired, Shared
from lineside_runtime.serving.slots import RETRY_MAX_S, LoadFailure, PlacementPlan, Slot, pause_s
from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    from lineside_runtime.serving.standby import Standby
    from lineside_runtime.serving.submit import Dispatcher, SubmitCounters

__all__ = ["Config", "DeviceShare", "Failures", "Fallback", "Placement", "PlacementPlan", "Prediction"]


_FALLS_BACK = (DeviceError, UnsupportedModelError)  # another engine may read what this one can't

TAKER_KEPT_S = 60.0
"""So long a device that took over stays loaded when the one before it is back: it may be needed again soon."""


class Placement:
    """Serves one bundle.

    Attributes:
        bundle: The bundle.
        requested: The first candidate.
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
            bundle: The bundle.
            choice: Its candidates.
            config: The user's.
            failures: Where failures are noted.
            clock_s: Seconds of a clock that never goes back.
            on_close: Called after everything is closed.

        Raises:
            ConfigError: `Config.replica_cores` doesn't fit the devices.
            LinesideError: No candidate can be loaded; the first one's error.
        """
        self.bundle = bundle
        self._identity = bundle.manifest.identity
        self._config = config
        self._failures = failures
        self._clock_s = clock_s
        self._on_close = on_close
        self._choice = choice
        self._limit = 1 if config.fallback_strategy == "error" else None
        self._slots: tuple[Slot, ...] = ()
        self._ailing = False
        self._takers_until_s = 0.0
        self._closed = False
        self._zeros_work = True
        self._lock = threading.Lock()
        self._growing = threading.Lock()
        self._dispatcher: Dispatcher | None = None
        self._standby: Standby | None = None
        self._only_plan: PlacementPlan | None = None
        first = self._slot(0)
        if first is None:
            raise NoDeviceError(f"nothing here runs {self._identity}")
        self.requested = first.candidate
        self._alone = (first.candidate,)
        replicas = self._find_replicas(config)
        self._replicas = Replicas(replicas, config.gpu_ratio) if len(replicas) > 1 else None
        try:
            self._load_first()
            self._load_replicas()
            if config.standby:
                from lineside_runtime.serving.standby import Standby  # only who wants one pays for it

                self._standby = Standby(self)
        except BaseException:
            self._give_back()
            raise

    @property
    def leader(self) -> Candidate:
        """The first candidate that is loaded and not taken out, or else the first one."""
        now = self._clock_s()
        loaded = (slot.candidate for slot in self._slots if slot.executable is not None and slot.retry_at_s <= now)
        return next(loaded, self.requested)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those that were needed so far, in the order in which they are tried."""
        return tuple(slot.candidate for slot in self._slots)

    @property
    def firsts(self) -> tuple[Candidate, ...]:
        """Those that a call may be given first as things are: the leader, and what shares the calls with it."""
        if not (self._ailing or self._replicas):
            return self._alone
        leader = self.leader
        others = (slot.candidate for slot in self.replicas if self.in_use(slot))
        return (leader, *(candidate for candidate in others if candidate is not leader))

    def run(self, inputs: Mapping[str, Array]) -> Prediction:
        """Runs one call, on another device if the first ones fail.

        Raises:
            BadInputFormatError: The engine refuses the inputs.
            DeviceError: Every device failed; the first one's error.
        """
        if self._replicas is not None:
            return self._run_balanced(inputs)
        order = self._slots
        asked = order[0]
        if self._ailing:
            return self._run_in_turn(self._healthy_first(order), inputs, asked, [])
        answer = self.attempt(asked, inputs, asked, may_restart=True)
        if isinstance(answer, Prediction):
            return answer
        return self._run_in_turn(itertools.chain(order[1:], self._new_slots(len(order))), inputs, asked, [answer])

    def _run_balanced(self, inputs: Mapping[str, Array]) -> Prediction:
        plan = self.plan()
        try:
            return self._run_in_turn(self._healthy_first(plan.order), inputs, plan.asked, [], plan)
        finally:
            self.ended(plan)

    def _run_in_turn(
        self,
        order: Iterable[Slot],
        inputs: Mapping[str, Array],
        asked: Slot,
        failed: list[LoadFailure],
        plan: PlacementPlan | None = None,
    ) -> Prediction:
        for slot in order:
            beside = self.given(plan, slot) if plan is not None else 1
            answer = self.attempt(slot, inputs, asked, may_restart=not failed)
            if isinstance(answer, LoadFailure):
                failed.append(answer)
                continue
            if failed or slot.failures:
                self.settle(slot, failed)
            if plan is not None:
                self.measured(slot, answer.inference_ms / beside)
            return answer
        self.give_up(failed)
        raise failed[0].error if failed else self.all_hang()

    def all_hang(self) -> DeviceLostError:
        """Returns the error for a call that nobody can be asked to answer."""
        return DeviceLostError(
            f"every device hangs: {', '.join(slot.engine_and_device for slot in self._slots)}",
            action="They are tried again after a pause; the log says when.",
        )

    def attempt(
        self, slot: Slot, inputs: Mapping[str, Array], asked: Slot, *, may_restart: bool = False
    ) -> Prediction | LoadFailure:
        """Runs a call on one device; a failure is noted, and what it means is for the caller to say.

        Args:
            slot: The device.
            inputs: Array by input name.
            asked: The device that was asked for.
            may_restart: Whether there is time to start an engine's process again, should it end.

        Raises:
            InputError: The engine refuses the inputs.
        """
        failures, relieved, restarted = slot.failures, False, False
        while True:
            used = slot.executable
            if used is None:
                try:
                    used = self._load(slot)
                except _FALLS_BACK as error:
                    if not relieved and _relieved(error):
                        relieved = True
                        continue
                    return self._failed(slot, None, error, failures)
            used.users.append(None)  # `Shared.enter`, written out
            if used.retired:  # another thread has just taken it out
                used.leave()
                continue
            executable = used.value
            try:
                started_s = perf_counter()
                outputs = executable.run(inputs)
                elapsed_ms = (perf_counter() - started_s) * 1e3
            except _FALLS_BACK as error:
                if not relieved and _relieved(error):
                    relieved = True
                    continue
                if may_restart and not restarted and self._restart(slot, used, error):
                    restarted = True
                    continue
                return self._failed(slot, used, error, failures)
            finally:
                used.users.pop()  # `Shared.leave`
                if used.retired:
                    used.close_if_unused()
            if restarted:
                log.warning("%s answers again, in a new process", slot.candidate)
            return Prediction(
                outputs, asked.device, slot.engine_and_device, slot is not asked, elapsed_ms, self._identity
            )

    def _restart(self, slot: Slot, used: Shared[Executable], error: LinesideError) -> bool:
        """Lets go of an engine's process that ended, so that it is loaded anew; false if another device is to answer.

        A call that hung is not given a second time: it would hang the line twice as long.
        """
        if not isinstance(error, EngineCrashedError) or isinstance(error.__cause__, TimeoutError):
            return False
        with self._lock:
            if slot.failures or self._closed or (self._standby is not None and self._standby.slot is not None):
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

    def _failed(self, slot: Slot, used: Shared[Executable] | None, error: LinesideError, failures: int) -> LoadFailure:
        self._failures.add(slot.engine_and_device, "run" if used else "load", error)
        return LoadFailure(slot, used, error, failures)

    def keep(self, device: str, outputs: Mapping[str, Array]) -> Fetch | None:
        """Copies outputs into the memory of the device that computed them; see `Executable.keep`.

        Args:
            device: As `Prediction.used_device` names it.
            outputs: Array by output name.
        """
        for slot in self._slots:
            used = slot.executable
            if slot.engine_and_device == device and used is not None:
                with contextlib.suppress(Retired), used.use() as executable:
                    return executable.keep(outputs)
        return None

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
        with self._lock:
            self._closed = True
            loaded = [slot.executable for slot in self._slots if slot.executable is not None]
            for slot in self._slots:
                slot.executable = None
        self._choice.end()
        for executable in loaded:
            executable.retire()

    # What submitted calls need.

    def dispatcher(self, tally: SubmitCounters, on_answer: Callable[[Prediction], None]) -> Dispatcher:
        """Returns what serves submitted calls, made with the first one; only then are all candidates looked for."""
        if self._dispatcher is None:
            from lineside_runtime.serving.submit import Dispatcher  # only who submits pays for it

            slots = self.all_slots()
            with self._growing:
                if self._dispatcher is None:
                    made = Dispatcher(
                        self,
                        tally,
                        workers=self._config.submit_workers,
                        queue_size=self._config.submit_queue,
                        on_answer=on_answer,
                    )
                    made.open([slot for slot in slots if slot.executable is not None and not slot.failures])
                    self._dispatcher = made
        return self._dispatcher

    def plan(self) -> PlacementPlan:
        """Decides who is asked to answer a call; to be followed by `ended`."""
        if self._replicas is not None:
            return self._replicas.plan(self._slots)
        if self._only_plan is None or self._only_plan.order is not self._slots:
            self._only_plan = PlacementPlan(self._slots[0], self._slots)
        return self._only_plan

    def given(self, plan: PlacementPlan, slot: Slot) -> int:
        """Notes which device has the call now, and returns how many it has."""
        return 1 if self._replicas is None else self._replicas.given(plan, slot)

    def ended(self, plan: PlacementPlan) -> None:
        """Notes that a call has ended."""
        if self._replicas is not None:
            self._replicas.ended(plan)

    def measured(self, slot: Slot, service_ms: float) -> None:
        """Takes in how long a call was in the engine."""
        with self._lock:
            slot.load.measure(service_ms)

    @property
    def shares(self) -> tuple[DeviceShare, ...]:
        """What each device that was looked for does, in the order of preference."""
        dispatcher, leader = self._dispatcher, next((slot for slot in self._slots if self.in_use(slot)), None)
        found = []
        for slot in self._slots:
            share, waiting = slot.load.share, slot.load.waiting
            if self._replicas is None:
                share = float(slot is leader)
                waiting = dispatcher.waiting(slot) if dispatcher is not None else 0
            found.append(DeviceShare(slot.engine_and_device, share, slot.load.service_ms, waiting, self.in_use(slot)))
        return tuple(found)

    @property
    def replicas(self) -> tuple[Slot, ...]:
        """The devices that share the calls; empty where one has them all."""
        return () if self._replicas is None else self._replicas.slots

    @property
    def standby(self) -> Slot | None:
        """The device that is loaded and waits to take over."""
        return self._standby.slot if self._standby is not None else None

    def in_use(self, slot: Slot) -> bool:
        """Whether a device is loaded and not taken out."""
        return slot.executable is not None and not slot.failures

    # The candidates.

    def all_slots(self) -> tuple[Slot, ...]:
        """Looks for every candidate, and so imports their engines."""
        for _ in self._new_slots(len(self._slots)):
            pass
        return self._slots

    def _slot(self, index: int) -> Slot | None:
        """Returns a slot; finds the candidate, and so imports its engine, if nobody needed it before."""
        if index < len(self._slots):
            return self._slots[index]
        with self._growing:
            while len(self._slots) <= index:
                candidate = None if len(self._slots) == self._limit else self._choice.at(len(self._slots))
                if candidate is None:
                    return None
                self._slots = (*self._slots, self._new_slot(candidate))
            return self._slots[index]

    def _new_slots(self, index: int) -> Iterator[Slot]:
        """Goes through the slots from this one on, those included that nobody needed before."""
        while (slot := self._slot(index)) is not None:
            yield slot
            index += 1

    def _new_slot(self, candidate: Candidate) -> Slot:
        cores, index = self._config.replica_cores, len(self._slots)
        mine = cores[index] if cores is not None and index < len(cores) else None
        return Slot(candidate, ReplicaLoad(workers=self._config.submit_workers), mine)

    def _find_replicas(self, config: Config) -> tuple[Slot, ...]:
        """Returns the devices that share the calls: all with `Config.balance`, else a leading GPU and a CPU."""
        if config.balance:
            slots, cores = self.all_slots(), config.replica_cores
            if cores is not None and len(cores) != len(slots):
                names = ", ".join(slot.engine_and_device for slot in slots)
                raise ConfigError("replica_cores", expected=f"cores for each of {names}", actual=cores)
            return slots
        if self.requested.device.kind != "gpu" or config.gpu_ratio == 1:
            return ()
        cpu = next((slot for slot in self._new_slots(1) if slot.candidate.device.kind == "cpu"), None)
        return (self._slots[0], cpu) if cpu else ()

    def _load_first(self) -> None:
        failed: list[LoadFailure] = []
        for slot in self._new_slots(0):
            try:
                try:
                    self._load(slot)
                except OutOfDeviceMemoryError as error:
                    if not _relieved(error):
                        raise
                    self._load(slot)
            except _FALLS_BACK as error:
                failed.append(self._failed(slot, None, error, slot.failures))
                continue
            self.settle(slot, failed)
            return
        raise failed[0].error

    def _load_replicas(self) -> None:
        for slot in self.replicas:
            if slot.executable is None and not slot.failures:
                failed = self.prepare(slot)
                if failed is not None:
                    self.take_out(failed)()

    def _healthy_first(self, order: Iterable[Slot]) -> Iterator[Slot]:
        """Goes through those that are in use or due again, then those that nobody needed before, then the others.

        A device that hung is not among them: it is tried by a thread of its own.
        """
        order = tuple(order)
        if not self._ailing:
            yield from order
            yield from self._new_slots(len(order))
            return
        now = self._clock_s()
        if now >= self._takers_until_s:
            self._let_go_of_takers()
        due = [slot for slot in order if slot.hung and slot.retry_at_s <= now]
        with self._lock:
            ready = [slot for slot in order if slot.retry_at_s <= now and not slot.hung]
            for slot in ready:
                if slot.failures:
                    slot.retry_at_s = now + pause_s(slot.failures)  # one caller tries, the others go on elsewhere
        for slot in due:
            if self.may_try(slot):
                threading.Thread(target=self._trial, args=(slot,), name="lineside-trial", daemon=True).start()
        yield from ready
        yield from self._new_slots(len(order))
        rest = [slot for slot in order if slot not in ready and not slot.hung]
        yield from sorted(rest, key=lambda slot: slot.retry_at_s)

    # Loading, and health.

    def _load(self, slot: Slot) -> Shared[Executable]:
        loading = slot.loading
        with loading:
            if slot.executable is not None:
                return slot.executable
            candidate = slot.candidate
            loaded = self._load_on_cores(slot)
            if loaded.shortfall is not None:  # it serves, but not wholly where it was asked for
                self._failures.add(slot.engine_and_device, "load", loaded.shortfall)
            fresh = Shared(loaded)
            with self._lock:
                wanted = not self._closed and slot.loading is loading
                if wanted:
                    slot.executable = fresh
        if not wanted:  # it took so long that the device was taken out, or the session closed
            fresh.retire()
            raise DeviceLostError(f"{slot.engine_and_device} was given up while it was loaded")
        log.info("%s: loaded %s on %s", self._identity, candidate.variant.name, candidate)
        return fresh

    def _load_on_cores(self, slot: Slot) -> Executable:
        config = self._config if slot.cores is None else replace(self._config, cores=slot.cores)
        return slot.candidate.load(self.bundle, config)

    def prepare(self, slot: Slot, on_loaded: Callable[[], None] | None = None) -> LoadFailure | None:
        """Loads a device and runs it once with zeros, so that the first call isn't the slow one."""
        failures, used = slot.failures, None
        try:
            used = self._load(slot)
            if on_loaded is not None:
                on_loaded()
            if self._zeros_work and (failures or not slot.load.measured):
                self._run_zeros(slot, used)
        except Retired:  # another thread has taken it out, and has said so
            return None
        except (*_FALLS_BACK, InputError) as error:
            if isinstance(error, _FALLS_BACK) and (used is None or failures):
                return self._failed(slot, used, error, failures)
            if used is None:
                raise
            self._zeros_work = False  # not the device but a model that doesn't take zeros; the calls will tell
            log.info("%s: %s can't be warmed up: %s", self._identity, slot.candidate, error)
        return None

    def _run_zeros(self, slot: Slot, used: Shared[Executable]) -> None:
        inputs = sample_inputs(self.bundle.manifest)
        with used.use() as executable:
            started_s = perf_counter()
            executable.run(inputs)
            self.measured(slot, (perf_counter() - started_s) * 1e3)

    def _trial(self, slot: Slot) -> None:
        failed = self.prepare(slot)
        if failed is not None:
            self.take_out(failed, hung=True)()
        elif slot.executable is not None:
            self.revive(slot)
            log.warning("%s answers again", slot.candidate)

    def may_try(self, slot: Slot) -> bool:
        """Whether a device that was taken out is due to be tried; only the first who asks is told so."""
        now = self._clock_s()
        with self._lock:
            if slot.retry_at_s > now:
                return False
            slot.retry_at_s = now + (RETRY_MAX_S if slot.hung else pause_s(slot.failures))
            return True

    def settle(self, answered: Slot, failed: Iterable[LoadFailure]) -> None:
        """Takes those out that failed a call that another one answered, and that one back in."""
        if answered.failures:
            self.revive(answered)
            log.warning("%s answers again", answered.candidate)
        for failure in failed:
            with self._lock:
                known = failure.slot.failures != failure.failures or failure.slot.executable is not failure.executable
            if not known:
                self.take_out(failure)()

    def take_out(self, failed: LoadFailure, *, hung: bool = False, lane_closed: bool = False) -> Callable[[], None]:
        """Marks a device as taken out.

        Args:
            failed: Why. If it was taken out since that failure, nothing is done.
            hung: Whether it didn't answer: then only a trial of our own is given to it.
            lane_closed: Whether the dispatcher knows of it already.

        Returns:
            What belongs to it and must not be done under a lock.
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
                slot.loading = threading.Lock()  # whoever hangs may hold the old one
            self._ailing = True

        def finish() -> None:
            log.warning("%s is taken out and tried again in %.0f s", slot.candidate, slot.retry_at_s - self._clock_s())
            if used is not None:
                if hung:
                    _abandon(used)
                used.retire()
            if self._dispatcher is not None and not lane_closed:
                self._dispatcher.taken_out(slot)
            if self._standby is not None:
                self._standby.keep_soon()

        return finish

    def revive(self, slot: Slot) -> None:
        """Takes a device back in."""
        with self._lock:
            slot.failures, slot.retry_at_s, slot.hung = 0, 0.0, False
            self._takers_until_s = self._clock_s() + TAKER_KEPT_S
            self._ailing = any(one.failures for one in self._slots) or bool(self._takers())

    def _takers(self) -> list[Slot]:
        """The devices that are loaded only because another one was out, which is back."""
        if self._config.standby:
            return []
        loaded = [slot for slot in self._slots if self.in_use(slot)]
        return [slot for slot in loaded[1:] if slot not in self.replicas]

    def _let_go_of_takers(self) -> None:
        for slot in self._takers():
            log.info("%s is unloaded: %s answers", slot.candidate, self.leader)
            self.let_go(slot)
        with self._lock:
            self._ailing = any(one.failures for one in self._slots)

    def give_up(self, failed: Iterable[LoadFailure]) -> None:
        """Lets go of lost executables of a call that nobody answered, so that the next call loads them again."""
        for failure in failed:
            if isinstance(failure.error, (DeviceLostError, EngineCrashedError)) and failure.executable is not None:
                with self._lock:
                    if failure.slot.executable is failure.executable:
                        failure.slot.executable = None
                failure.executable.retire()

    def note(self, slot: Slot, error: LinesideError) -> None:
        """Notes that a device did not do what it was asked for, though it is not taken out."""
        self._failures.add(slot.engine_and_device, "run", error)

    def let_go(self, slot: Slot) -> int:
        """Unloads a device that is not needed now; returns about how many bytes that frees."""
        with self._lock:
            used, slot.executable = slot.executable, None
        if used is None:
            return 0
        used.retire()
        return self.bundle.file(slot.candidate.variant.file).stat().st_size


def _nothing() -> None:
    pass


def _relieved(error: LinesideError) -> bool:
    return isinstance(error, OutOfDeviceMemoryError) and memory_pressure.relieve() > 0


def _abandon(used: Shared[Executable]) -> None:
    with contextlib.suppress(Retired), used.use() as executable:
        executable.abandon()
