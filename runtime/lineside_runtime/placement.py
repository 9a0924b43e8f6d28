"""`Placement`: which executables serve a bundle, and who takes over when one fails.

Invariants:

- A call is answered by one device, or raises: it is never dropped.
- A device that failed while another one answered is taken out, and tried again after a pause that doubles.
- If no device answers a call, none is taken out: then it is the call and not the devices.
- Each failure is logged, counted and kept with its reason; each answer says who was asked and who answered.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.bundle import Bundle
from lineside_runtime.candidates import Candidate, Choice
from lineside_runtime.config import Config
from lineside_runtime.devices import DeviceKind
from lineside_runtime.errors import (
    DeviceError,
    DeviceLostError,
    EngineCrashedError,
    LinesideError,
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


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one call.

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
        candidates = choice.candidates[:1] if config.fallback_strategy == "error" else choice.candidates
        self._slots = [_Slot(candidate) for candidate in candidates]
        self.requested = candidates[0]
        self._second = _index_of_kind(candidates, "cpu") if candidates[0].device.kind == "gpu" else None
        self._gpu_credit = 0.0
        self._lock = threading.Lock()
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
        order = self._order()
        failed: list[_Failed] = []
        for slot in self._healthy_first(order):
            answer = self._attempt(slot, inputs, order[0])
            if isinstance(answer, _Failed):
                failed.append(answer)
                continue
            if failed or slot.failures:
                self._settle(slot, failed)
            return answer
        for failure in failed:
            if isinstance(failure.error, (DeviceLostError, EngineCrashedError)):
                self._drop(failure)  # so that the next call loads it again
        raise failed[0].error

    def _attempt(self, slot: _Slot, inputs: Mapping[str, Array], asked: _Slot) -> Prediction | _Failed:
        used: Shared[Executable] | None = None
        while True:
            try:
                used = self._executable(slot)
                with used.use() as executable:
                    started_ns = time.perf_counter_ns()
                    outputs = executable.run(inputs)
                    elapsed_ms = (time.perf_counter_ns() - started_ns) / 1e6
            except Retired:  # another thread has just taken it out
                used = None
                continue
            except _FALLS_BACK as error:
                self._failures.add(str(slot.candidate), "run" if used else "load", error)
                return _Failed(slot, used, error)
            return Prediction(
                outputs, asked.device, slot.engine_and_device, slot is not asked, elapsed_ms, self._identity
            )

    def close(self) -> None:
        """Gives the devices back."""
        for slot in self._slots:
            if slot.executable is not None:
                slot.executable.retire()
                slot.executable = None
        if self._on_close is not None:
            self._on_close()

    def _load_first(self) -> None:
        failed: list[_Failed] = []
        for slot in self._slots:
            try:
                self._executable(slot)
            except _FALLS_BACK as error:
                self._failures.add(str(slot.candidate), "load", error)
                failed.append(_Failed(slot, None, error))
                continue
            self._settle(slot, failed)
            return
        raise failed[0].error

    def _order(self) -> list[_Slot]:
        """Returns the slots in the order of preference of this call: `Config.gpu_ratio` of them begin on the GPU."""
        if self._second is None:
            return self._slots
        with self._lock:
            self._gpu_credit += self._config.gpu_ratio
            on_gpu = self._gpu_credit >= 1 - 1e-9
            self._gpu_credit -= on_gpu
        if on_gpu:
            return self._slots
        return [self._slots[self._second], *(slot for i, slot in enumerate(self._slots) if i != self._second)]

    def _healthy_first(self, order: list[_Slot]) -> list[_Slot]:
        if not any(slot.retry_at_s for slot in order):
            return order
        now = self._clock_s()
        with self._lock:
            ready = [slot for slot in order if slot.retry_at_s <= now]
            for slot in ready:
                if slot.failures:
                    slot.retry_at_s = now + _pause_s(slot.failures)  # one caller tries, the others go on elsewhere
        return ready + sorted((slot for slot in order if slot not in ready), key=lambda slot: slot.retry_at_s)

    def _executable(self, slot: _Slot) -> Shared[Executable]:
        if slot.executable is not None:
            return slot.executable
        with slot.loading:
            if slot.executable is None:
                candidate = slot.candidate
                options = LoadOptions(
                    self._config.threads,
                    candidate.variant.precision,
                    inputs=self.bundle.manifest.inputs,
                    outputs=self.bundle.manifest.outputs,
                )
                model = self.bundle.file(candidate.variant.file)
                slot.executable = Shared(candidate.backend.load(model, candidate.device, options))
                log.info("%s: loaded %s on %s", self.bundle.manifest.identity, candidate.variant.name, candidate)
            return slot.executable

    def _settle(self, answered: _Slot, failed: list[_Failed]) -> None:
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


def _index_of_kind(candidates: tuple[Candidate, ...], kind: DeviceKind) -> int | None:
    return next((i for i, candidate in enumerate(candidates) if candidate.device.kind == kind), None)
