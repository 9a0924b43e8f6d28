"""Whether the agent makes progress: for systemd's watchdog, the trial of a new agent, and ``status.json``.

The watchdog is fed by frames that are completed, and by nothing else while there are any. Where there are none for a
good reason (no bundle yet, no part on the line, a source at its end, a full disk that a finite source waits for) the
main loop feeds it. So an engine that hangs within a frame, a line output that never returns and a camera whose driver
never returns all end in a restart, and an idle line does not.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from lineside_agent.cameras.camera_group import CameraGroup
from lineside_agent.deployment.machine import RISKY, BundleMachine
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.pipeline import PipelineCounts
from lineside_agent.service.notify import Notifier
from lineside_agent.storage.records import RecordStore
from lineside_runtime.errors import LinesideError

log = logging.getLogger("lineside.agent")

FIRST_FRAME_WAIT_S = 2.0
"""How long READY waits for a first frame of the line, before the bundle's golden input takes its place."""

CAMERA_PATIENCE_S = 60.0
"""Longest call of a camera. Each kind has a shorter time-out of its own; this one is for a driver that hangs."""

FAULTS_MAX = 20
"""Faults in a row, without a verdict in between, after which the agent is ill."""

STUCK_S = 10.0
"""Time without progress after which that is logged, and an agent on trial is ill."""


class ProgressSample(NamedTuple):
    """What the main loop observes.

    Attributes:
        given: Frames that the camera gave.
        judged: Frames that have a record.
        faults: Those without a verdict.
        loaded: Whether a bundle is active.
        excused: Whether something outside holds the line up, such as a full disk.
        camera_since_s: When the camera's current call began; ``None`` between two calls.
    """

    given: int
    judged: int
    faults: int
    loaded: bool
    excused: bool = False
    camera_since_s: float | None = None


class LivenessMonitor:
    """Compares successive samples. Pure.

    Attributes:
        is_stuck: Whether the watchdog was not fed for `STUCK_S`.
    """

    def __init__(self) -> None:
        self._last = ProgressSample(0, 0, 0, False)
        self._faults_in_a_row = 0
        self._fed_at_s: float | None = None
        self.is_stuck = False

    def check(self, sample: ProgressSample, now_s: float) -> bool:
        """Returns whether to feed the watchdog; a single false while a frame is under way means nothing."""
        before, self._last = self._last, sample
        good = (sample.judged - sample.faults) - (before.judged - before.faults)
        self._faults_in_a_row = 0 if good > 0 else self._faults_in_a_row + sample.faults - before.faults
        fed = self._is_fed(sample, before, now_s)
        if fed or self._fed_at_s is None:
            self._fed_at_s = now_s
        self.is_stuck = now_s - self._fed_at_s > STUCK_S
        return fed

    @staticmethod
    def _is_fed(sample: ProgressSample, before: ProgressSample, now_s: float) -> bool:
        if sample.judged != before.judged:
            return True
        if sample.camera_since_s is not None and now_s - sample.camera_since_s > CAMERA_PATIENCE_S:
            return False
        return sample.given <= sample.judged or not sample.loaded or sample.excused

    @property
    def is_ill(self) -> bool:
        """Whether there was no verdict for a while: only faults, or no progress."""
        return self.is_stuck or self._faults_in_a_row >= FAULTS_MAX


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
