"""Whether the agent makes progress: input of systemd's watchdog and of a deployment's health check. Pure.

The watchdog is fed by frames that are completed, and by nothing else while there are any. Where there are none for a
good reason (no bundle yet, no part on the line, a source at its end, a full disk that a finite source waits for) the
main loop feeds it. So an engine that hangs within a frame, a line output that never returns and a camera whose driver
never returns all end in a restart, and an idle line does not.
"""

from __future__ import annotations

from typing import NamedTuple

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
    """Compares successive samples.

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
