"""`SubmittedCall`: one submitted call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    from lineside_runtime.serving.placement import PlacementPlan, Prediction
    from lineside_runtime.serving.slots import LoadFailure, Slot
    from lineside_runtime.serving.submit.lane import Lane


class SubmittedCall(msgspec.Struct, eq=False, weakref=True):
    """One call. Only the dispatcher touches it, under its lock.

    ``turn`` is what makes an answer count once: it goes up whenever the call is given to a device and when it ends, and
    an answer is taken only from the device whose turn it is. Deadlines refer to it weakly: they must not keep answers.

    Attributes:
        inputs: Array by input name; empty when the job has ended.
        future: What the caller holds.
        plan: The devices in the order in which they are tried.
        deadline_at_s: When it must have ended, infinite for never.
        let_go: Gives up the hold on the bundle.
        lane: Where it waits or runs.
        turn: Whose answer counts.
        started: Whether it can no longer be cancelled.
        tried: Devices that failed it or were too late.
        failed: Their errors.
    """

    inputs: Mapping[str, Array]
    future: Future[Prediction]
    plan: PlacementPlan
    deadline_at_s: float
    let_go: Callable[[], None]
    lane: Lane | None = None
    turn: int = 0
    started: bool = False
    tried: list[Slot] = []
    failed: list[LoadFailure] = []
