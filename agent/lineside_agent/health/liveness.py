"""Whether the agent makes progress: input of systemd's watchdog and of an update's health check. Pure.

The watchdog is fed by frames that come through, and by nothing else as long as there are any. Where there are rightly
none (no bundle yet, no part on the line, a source at its end, a disk so full that a finite source waits), the main
loop feeds it. So an engine that hangs within a frame, a line output that never returns and a camera whose driver never
comes back all end in a restart, and an idle line doesn't.
"""

from __future__ import annotations

from typing import NamedTuple

CAMERA_PATIENCE_S = 60.0
"""How long one call of a camera may take. Each kind has its own, shorter time-out; this is for a driver that hangs."""

FAULTS_MAX = 20
"""Faults in a row, with no verdict between them, after which an agent counts as ill."""


STUCK_S = 10.0
"""How long a frame may be under way before that is said, and an agent on trial counts as ill."""


class ProgressSample(NamedTuple):
    """What the main loop sees of the others.

    Attributes:
        given: Frames that the camera gave.
        judged: Frames that ended in a record.
        faults: Of those, without a verdict.
        loaded: Whether a bundle runs.
        excused: Whether something outside holds the line up, such as a full disk.
        camera_since_s: Since when the camera is asked for the next frame; ``None`` while it isn't.
    """

    given: int
    judged: int
    faults: int
    loaded: bool
    excused: bool = False
    camera_since_s: float | None = None


class LivenessMonitor:
    """Looks at the agent again and again.

    Attributes:
        is_stuck: Whether the watchdog has not been fed for `STUCK_S`.
    """

    def __init__(self) -> None:
        self._last = ProgressSample(0, 0, 0, False)
        self._faults_in_a_row = 0
        self._fed_at_s: float | None = None
        self.is_stuck = False

    def check(self, sample: ProgressSample, now_s: float) -> bool:
        """Returns whether the watchdog is to be fed. That it isn't once, while a frame is under way, means nothing."""
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
        """Whether there was no verdict for a while: nothing but faults, or nothing at all where there should be."""
        return self.is_stuck or self._faults_in_a_row >= FAULTS_MAX
