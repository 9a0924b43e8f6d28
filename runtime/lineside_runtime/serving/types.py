"""What the modules of this package hand to each other, and what a caller gets back."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal

import msgspec

from lineside_runtime.backend import Executable
from lineside_runtime.errors import LinesideError
from lineside_runtime.serving.balancer import ReplicaLoad
from lineside_runtime.serving.candidates import PlacementCandidate
from lineside_runtime.serving.health import Restarts
from lineside_runtime.serving.shared import Shared
from lineside_runtime.tensors import Array


class Prediction(msgspec.Struct, frozen=True, eq=False):
    """The answer to one call.

    Attributes:
        outputs: Array by output name.
        requested_device: Device that the configuration asks for, such as ``cpu:0``.
        used_device: Engine and device that answered, such as ``ort/cpu:0``.
        fell_back: Whether an engine or device that comes first did not answer.
        inference_ms: Time in the engine that answered.
        bundle: ``name@version`` of the bundle that answered.
        cached: Level of the result cache that answered; ``None`` if a device did. ``used_device`` is then the one that
            computed the cached answer, and ``inference_ms`` is 0.
    """

    outputs: dict[str, Array]
    requested_device: str
    used_device: str
    fell_back: bool
    inference_ms: float
    bundle: str
    cached: Literal["device", "memory", "sqlite", "redis"] | None = None


class DeviceShare(msgspec.Struct, frozen=True):
    """How much of the work a device does.

    Attributes:
        device: Such as ``ort/cpu:0``.
        share: Moving mean of its share of the last calls; 0 for a device in reserve.
        service_ms: Moving mean of the time of one call in the engine; 0 where it was not measured.
        waiting: Calls that wait or run there.
        in_use: Whether it is loaded and not taken out.
    """

    device: str
    share: float
    service_ms: float
    waiting: int
    in_use: bool


class Slot:
    """A candidate with its executable, health and load.

    Attributes:
        candidate: Engine, device and variant.
        device: Such as ``cpu:0``.
        engine_and_device: Such as ``ort/cpu:0``.
        executable: ``None`` while it is not loaded.
        failures: How often in a row it was taken out; 0 if it is in use.
        retry_at_s: When it may be tried again.
        hung: Whether it was taken out because it did not answer: then it gets only trial calls.
        load: What the balancer knows of it.
        cores: Processor cores that its calls may use; ``None`` for all.
        loading: Held by the thread that loads it.
        restarts: How often its engine's process was started again.
    """

    def __init__(self, candidate: PlacementCandidate, load: ReplicaLoad, cores: tuple[int, ...] | None = None) -> None:
        self.candidate = candidate
        self.device = str(candidate.device)
        self.engine_and_device = str(candidate)
        self.executable: Shared[Executable] | None = None
        self.failures = 0
        self.retry_at_s = 0.0
        self.hung = False
        self.load = load
        self.cores = cores
        self.loading = threading.Lock()
        self.restarts = Restarts()

    @property
    def in_use(self) -> bool:
        """Whether it is loaded and not taken out."""
        return self.executable is not None and not self.failures


class SlotFailure(msgspec.Struct, frozen=True):
    """A slot that failed to load, or failed a call.

    Attributes:
        executable: What the call ran on; ``None`` if it could not be loaded.
        failures: The slot's ``failures`` at that time, so that a failure that several calls see takes it out once.
    """

    slot: Slot
    executable: Shared[Executable] | None
    error: LinesideError
    failures: int = 0


class CallPlan(msgspec.Struct):
    """Where a call goes.

    Attributes:
        asked: The slot that the configuration or the balancer puts first.
        order: The slots in the order in which they are tried.
        given: Index of the replica that counts the call as waiting; ``None`` without a balancer.
    """

    asked: Slot
    order: Sequence[Slot]
    given: int | None = None
