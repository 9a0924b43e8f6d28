"""Liveness checks for systemd, for the trial of a new agent, and for ``status.json``."""

from __future__ import annotations

import logging
import time

from lineside_agent.cameras.camera_group import CameraGroup
from lineside_agent.deployment.machine import RISKY, BundleMachine
from lineside_agent.health.liveness import LivenessMonitor, ProgressSample
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.pipeline import PipelineCounts
from lineside_agent.service.notify import Notifier
from lineside_agent.storage.records import RecordStore
from lineside_runtime.errors import LinesideError

log = logging.getLogger("lineside.agent")

FIRST_FRAME_WAIT_S = 2.0
"""How long READY waits for a first frame of the line, before the bundle's golden input takes its place."""


class Watchdog:
    """Checks the agent twice a second, in the main thread.

    Args:
        triggered: Whether the line triggers: a frame without a trigger is then no frame that waits.
    """

    def __init__(
        self,
        *,
        cameras: CameraGroup,
        counts: PipelineCounts,
        active: ActiveBundle,
        store: RecordStore,
        notifier: Notifier,
        triggered: bool = False,
    ) -> None:
        self._triggered = triggered
        self._cameras = cameras
        self._counts = counts
        self._active = active
        self._store = store
        self._notifier = notifier
        self._liveness = LivenessMonitor()
        self._loaded_at_s: float | None = None
        self.ready = False

    def check(self, machine: BundleMachine) -> None:
        """Feeds the watchdog while there is progress, and reports READY after the first real inference."""
        now_s = time.monotonic()
        was_stuck, sample = self._liveness.is_stuck, self._sample()
        if self._liveness.check(sample, now_s):
            self._notifier.alive()
        if self._liveness.is_stuck and not was_stuck:
            log.error("no frame comes through, and the watchdog is not fed: %s", sample)
        if not self.ready and self._has_inferred(machine, now_s):
            self.ready = True
            self._notifier.ready()
        if self._notifier.is_connected:
            bundle = machine.installed.identity if machine.installed else "waiting for a bundle"
            self._notifier.status(f"{machine.state}, {bundle}, {self._counts.inspected} frames inspected")

    def is_healthy(self, machine: BundleMachine) -> bool:
        """Whether frames are inspected, or could be."""
        runs = machine.installed is None or self._active.loaded is not None
        return self.ready and runs and not self._liveness.is_ill

    @staticmethod
    def is_quiet(machine: BundleMachine) -> bool:
        """Whether the process may end without cutting a bundle's deployment in a risky state."""
        return machine.state not in RISKY

    def _sample(self) -> ProgressSample:
        # The camera's count first: a frame that is inspected in between must not look as if it waited.
        given = self._counts.taken if self._triggered else self._cameras.counts.frames
        return ProgressSample(
            given=given,
            judged=self._counts.inspected,
            faults=self._counts.faults,
            loaded=self._active.loaded is not None,
            excused=self._store.problem is not None,
            camera_since_s=self._cameras.waiting_since_s,
        )

    def _has_inferred(self, machine: BundleMachine, now_s: float) -> bool:
        """Whether this start's engine has inspected something real, or there is nothing that it could inspect."""
        if self._counts.inspected > self._counts.faults:
            return True
        loaded = self._active.loaded
        if loaded is None:
            return machine.installed is None and machine.attempt > 0  # it has started, and waits for a bundle
        if self._loaded_at_s is None:
            self._loaded_at_s = now_s
        if now_s - self._loaded_at_s < FIRST_FRAME_WAIT_S:
            return False
        self._loaded_at_s = now_s  # if it fails, again after the same while
        if not loaded.has_golden:
            return True
        try:
            loaded.replay()
        except LinesideError as error:
            log.error("not ready: %s", error)
            return False
        return True
