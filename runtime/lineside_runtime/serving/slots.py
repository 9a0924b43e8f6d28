"""`Slot`: one candidate of a placement, its executable once it is loaded, and its health."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from lineside_runtime.backend import Executable
from lineside_runtime.errors import LinesideError
from lineside_runtime.serving.backoff import Backoff
from lineside_runtime.serving.balancer import ReplicaLoad
from lineside_runtime.serving.candidates import Candidate
from lineside_runtime.serving.restarts import Restarts
from lineside_runtime.serving.shared import Shared

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 300.0


class Slot:
    """A candidate, its executable once it is loaded, its health and its load.

    Attributes:
        candidate: What it is.
        device: Such as ``cpu:0``.
        engine_and_device: Such as ``ort/cpu:0``.
        executable: ``None`` while it isn't loaded.
        failures: How often in a row it was taken out; 0 if it is in use.
        retry_at_s: When it may be tried again.
        hung: Whether it was taken out because it didn't answer: then nothing but a trial of our own is given to it.
        load: What the balancer knows of it.
        cores: The processor cores that its calls may use; ``None`` for all.
        loading: Held by the thread that loads it.
        restarts: How often its engine's process was started again.
    """

    def __init__(self, candidate: Candidate, load: ReplicaLoad, cores: tuple[int, ...] | None = None) -> None:
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


class LoadFailure(msgspec.Struct, frozen=True):
    """A candidate that failed a call.

    Attributes:
        slot: The candidate.
        executable: What it ran on; ``None`` if it could not be loaded.
        error: Why.
        failures: The slot's ``failures`` at that time, so that a failure that several calls see takes it out once.
    """

    slot: Slot
    executable: Shared[Executable] | None
    error: LinesideError
    failures: int = 0


class PlacementPlan(msgspec.Struct):
    """Where a call goes.

    Attributes:
        asked: The slot that the configuration or the balancer puts first.
        order: The slots in the order in which they are tried.
        given: Which of the balancer's replicas counts it as waiting; ``None`` if there is no balancer.
    """

    asked: Slot
    order: Sequence[Slot]
    given: int | None = None


def pause_s(failures: int) -> float:
    """Returns how long a device that failed so often is left alone."""
    return Backoff(RETRY_FIRST_S, RETRY_MAX_S).after(failures)
