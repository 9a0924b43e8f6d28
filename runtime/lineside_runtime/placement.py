"""`Placement`: which executables serve a bundle, and who takes over when one fails.

Invariants:

- A call is answered by one device, or raises: it is never dropped.
- A device that failed while another one answered is taken out, and tried again after a pause that doubles.
- If no device answers a call, none is taken out: then it is the call and not the devices.
- Each failure is logged, counted and kept with its reason; each answer says who was asked and who answered.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Literal

import msgspec

from lineside_runtime.backend import Executable
from lineside_runtime.bundle import Bundle
from lineside_runtime.candidates import Candidate, Choice
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    DeviceError,
    DeviceLostError,
    EngineCrashedError,
    LinesideError,
    NoDeviceError,
    UnsupportedModelError,
)
from lineside_runtime.shared import Retired, Shared
from lineside_runtime.tensors import Array

__all__ = ["Config", "Failures", "Fallback", "Placement", "Prediction"]

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 300.0
FAILURES_KEPT = 100

log = logging.getLogger("lineside.runtime")

_FALLS_BACK = (DeviceError, UnsupportedModelError)  # another engine may read what this one can't


class Prediction(msgspec.Struct, frozen=True, eq=False):
    """The answer to one call. Made on every call, so a msgspec struct: 0.1 µs, a frozen dataclass takes 2.

    Attributes:
        outputs: Array by output name.
        requested_device: Device that the configuration asks for, such as ``cpu:0``.
        used_device: Device that answered, such as ``ort/cpu:0``.
        fell_back: Whether an engine or device that comes first did not answer.
        inference_ms: Time in the engine that answered.
        bundle: ``name@version`` of the bundle that answered.
    """

    outputs: dict[str, Array]
    requested_device: str
    used_device: str
    fell_back: bool
    inference_ms: float
    bundle: str


@dataclasses.dataclass(frozen=True, slots=True)
class Fallback:
    """A device that could not do what it was asked for.

    Attributes:
        device: Such as ``ort/cpu:0``, or an engine's name if it can't be used at all.
        during: When it failed.
        code: Of the error.
        reason: The error's text.
        at_ns: Unix time in nanoseconds.
    """

    device: str
    during: Literal["probe", "load", "run"]
    code: int
    reason: str
    at_ns: int


class Failures:
    """What failed: all counted, the last `FAILURES_KEPT` kept with their reasons."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Fallback] = deque(maxlen=FAILURES_KEPT)
        self._count = 0

    def add(self, device: str, during: Literal["probe", "load", "run"], error: LinesideError) -> None:
        """Logs, counts and keeps a failure."""
        log.warning("%s failed during %s: %s", device, during, error)
        with self._lock:
            self._count += 1
            self._kept.append(Fallback(device, during, error.code, str(error), time.time_ns()))

    @property
    def count(self) -> int:
        """How many there were."""
        return self._count

    @property
    def kept(self) -> tuple[Fallback, ...]:
        """The last ones, oldest first."""
        with self._lock:
            return tuple(self._kept)


class _Slot:
    """A candidate, its executable once it is loaded, and its health."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.device = str(candidate.device)
        self.engine_and_device = str(candidate)
        self.executable: Shared[Executable] | None = None
        self.failures = 0
        self.retry_at_s = 0.0
        self.loading = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class _Failed:
    """One candidate that failed one call; ``executable`` is ``None`` if it could not be loaded."""

    slot: _Slot
    executable: Shared[Executable] | None
    error: LinesideError


class Placement:
    """Serves one bundle.

    Attributes:
        bundle: The bundle.
        requested: The first candidate.
    """

    def __init__(
        self,
        bundle: Bundle,
        choice: Choice,
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
        self._slots: tuple[_Slot, ...] = ()
        self._ailing = False
        self._gpu_credit = 0.0
        self._lock = threading.Lock()
        self._growing = threading.Lock()
        first = self._slot(0)
        if first is None:
            raise NoDeviceError(f"nothing here runs {self._identity}")
        self.requested = first.candidate
        self._second = self._find_second(config.gpu_ratio)
        self._load_first()

    @property
    def leader(self) -> Candidate:
        """The first candidate that is loaded and not taken out, or else the first one."""
        now = self._clock_s()
        loaded = (slot.candidate for slot in self._slots if slot.executable is not None and slot.retry_at_s <= now)
        return next(loaded, self.requested)

    def run(self, inputs: Mapping[str, Array]) -> Prediction:
        """Runs one call, on another device if the first ones fail.

        Raises:
            BadInputFormatError: The engine refuses the inputs.
            DeviceError: Every device failed; the first one's error.
        """
        order = self._slots if self._second is None else self._order()
        asked = order[0]
        if self._ailing:
            return self._run_in_turn(self._healthy_first(order), inputs, asked, [])
        answer = self._attempt(asked, inputs, asked)
        if isinstance(answer, Prediction):
            return answer
        return self._run_in_turn(itertools.chain(order[1:], self._new_slots(len(order))), inputs, asked, [answer])

    def _run_in_turn(
        self, order: Iterable[_Slot], inputs: Mapping[str, Array], asked: _Slot, failed: list[_Failed]
    ) -> Prediction:
        for slot in order:
            answer = self._attempt(slot, inputs, asked)
            if isinstance(answer, _Failed):
                failed.append(answer)
                continue
            self._settle(slot, failed)
            return answer
        for failure in failed:
            if isinstance(failure.error, (DeviceLostError, EngineCrashedError)):
                self._drop(failure)  # so that the next call loads it again
        raise failed[0].error

    def _attempt(self, slot: _Slot, inputs: Mapping[str, Array], asked: _Slot) -> Prediction | _Failed:
        while True:
            used = slot.executable
            try:
                if used is None:
                    used = self._load(slot)
                executable = used.enter()
            except Retired:  # another thread has just taken it out
                continue
            except _FALLS_BACK as error:
                return self._failed(slot, None, error)
            try:
                started_s = perf_counter()
                outputs = executable.run(inputs)
                elapsed_ms = (perf_counter() - started_s) * 1e3
            except _FALLS_BACK as error:
                return self._failed(slot, used, error)
            finally:
                used.leave()
            return Prediction(
                outputs, asked.device, slot.engine_and_device, slot is not asked, elapsed_ms, self._identity
            )

    def _failed(self, slot: _Slot, used: Shared[Executable] | None, error: LinesideError) -> _Failed:
        self._failures.add(slot.engine_and_device, "run" if used else "load", error)
        return _Failed(slot, used, error)

    def close(self) -> None:
        """Gives the devices back."""
        for slot in self._slots:
            if slot.executable is not None:
                slot.executable.retire()
                slot.executable = None
        if self._on_close is not None:
            self._on_close()

    def _slot(self, index: int) -> _Slot | None:
        """Returns a slot; finds the candidate, and so imports its engine, if nobody needed it before."""
        if index < len(self._slots):
            return self._slots[index]
        with self._growing:
            while len(self._slots) <= index:
                candidate = None if len(self._slots) == self._limit else self._choice.at(len(self._slots))
                if candidate is None:
                    return None
                self._slots = (*self._slots, _Slot(candidate))
            return self._slots[index]

    def _new_slots(self, index: int) -> Iterator[_Slot]:
        """Goes through the slots from this one on, those included that nobody needed before."""
        while (slot := self._slot(index)) is not None:
            yield slot
            index += 1

    def _find_second(self, gpu_ratio: float) -> _Slot | None:
        """Returns the CPU that shares the calls with a leading GPU."""
        if self.requested.device.kind != "gpu" or gpu_ratio == 1:
            return None
        return next((slot for slot in self._new_slots(1) if slot.candidate.device.kind == "cpu"), None)

    def _load_first(self) -> None:
        failed: list[_Failed] = []
        for slot in self._new_slots(0):
            try:
                self._load(slot)
            except _FALLS_BACK as error:
                failed.append(self._failed(slot, None, error))
                continue
            self._settle(slot, failed)
            return
        raise failed[0].error

    def _order(self) -> tuple[_Slot, ...]:
        """Returns the slots in the order of preference of this call: `Config.gpu_ratio` of them begin on the GPU."""
        second = self._second
        if second is None:
            return self._slots
        with self._lock:
            self._gpu_credit += self._config.gpu_ratio
            on_gpu = self._gpu_credit >= 1 - 1e-9
            self._gpu_credit -= on_gpu
        if on_gpu:
            return self._slots
        return (second, *(slot for slot in self._slots if slot is not second))

    def _healthy_first(self, order: tuple[_Slot, ...]) -> Iterator[_Slot]:
        """Goes through those that are in use or due again, then those that nobody needed before, then the others."""
        now = self._clock_s()
        with self._lock:
            ready = [slot for slot in order if slot.retry_at_s <= now]
            for slot in ready:
                if slot.failures:
                    slot.retry_at_s = now + _pause_s(slot.failures)  # one caller tries, the others go on elsewhere
        yield from ready
        yield from self._new_slots(len(order))
        yield from sorted((slot for slot in order if slot not in ready), key=lambda slot: slot.retry_at_s)

    def _load(self, slot: _Slot) -> Shared[Executable]:
        with slot.loading:
            if slot.executable is None:
                candidate = slot.candidate
                slot.executable = Shared(candidate.load(self.bundle, self._config))
                log.info("%s: loaded %s on %s", self._identity, candidate.variant.name, candidate)
            return slot.executable

    def _settle(self, answered: _Slot, failed: list[_Failed]) -> None:
        """Takes those out that failed a call that another one answered, and that one back in."""
        if answered.failures:
            log.warning("%s answers again", answered.candidate)
            with self._lock:
                answered.failures, answered.retry_at_s = 0, 0.0
        for failure in failed:
            if self._drop(failure):
                slot = failure.slot
                with self._lock:
                    slot.failures += 1
                    pause_s = _pause_s(slot.failures)
                    slot.retry_at_s = self._clock_s() + pause_s
                log.warning("%s is taken out and tried again in %.0f s", slot.candidate, pause_s)
        with self._lock:
            self._ailing = any(slot.failures for slot in self._slots)

    def _drop(self, failure: _Failed) -> bool:
        """Gives up the executable that failed; says no if another thread has done so already."""
        with self._lock:
            if failure.executable is not failure.slot.executable:
                return False
            failure.slot.executable = None
        if failure.executable is not None:
            failure.executable.retire()
        return True


def _pause_s(failures: int) -> float:
    return float(min(RETRY_FIRST_S * 2 ** min(failures - 1, 30), RETRY_MAX_S))
