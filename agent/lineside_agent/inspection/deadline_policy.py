"""Select the faster variant for frames that would miss the deadline.

The time of a frame is predicted from those before it, by a mean and a mean deviation that follow the last dozen. After
an outlier the prediction falls with each frame of the faster variant, so that the regular variant is tried again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from lineside_agent.inspection.faster_variant import FasterVariant
from lineside_agent.inspection.loaded_bundle import LoadedBundle
from lineside_models.frame import Frame

WEIGHT = 1 / 12
"""Weight of the newest frame in mean and deviation."""

DEVIATIONS = 3.0
"""The predicted time is the mean and so many mean deviations."""

FORGET = 0.98


class DeadlinePolicy:
    """Selects the variant of each frame; from any thread.

    Attributes:
        always: Whether the faster variant inspects every frame.
        hurried: Frames that the faster variant inspected since they would have been late.

    Args:
        left_s: Returns the time left until the deadline of a frame, by its number; ``None`` without a deadline.
    """

    def __init__(self, left_s: Callable[[int], float | None] = lambda _: None) -> None:
        self.always = False
        self.hurried = 0
        self._lock = threading.Lock()
        self._left_s = left_s
        self._bundle: LoadedBundle | None = None
        self._mean_s = 0.0
        self._deviation_s = 0.0

    @property
    def expected_s(self) -> float:
        """Predicted time of the regular variant; 0 before the first frame."""
        return self._mean_s + DEVIATIONS * self._deviation_s

    def chooses_fast(self, loaded: LoadedBundle, frame: Frame, frames_left: int = 1) -> bool:
        """Returns whether the faster variant inspects a frame.

        Args:
            loaded: The active bundle; false if it has no faster variant.
            frame: With its trigger's number.
            frames_left: Frames to inspect one after the other until the part's verdict, with this one; more than one
                where several cameras see the part.
        """
        if loaded.fast is None:
            return False
        with self._lock:
            return self._choose(loaded, loaded.fast, frame, frames_left)

    def _choose(self, loaded: LoadedBundle, faster: FasterVariant, frame: Frame, frames_left: int) -> bool:
        if loaded is not self._bundle:
            self._bundle, self._mean_s, self._deviation_s = loaded, faster.usual_ms / 1000, 0.0
        if self.always:
            return True
        left_s = self._left_s(frame.sequence)
        if left_s is None or left_s >= frames_left * self.expected_s:
            return False
        self.hurried += 1
        self._mean_s, self._deviation_s = FORGET * self._mean_s, FORGET * self._deviation_s
        return True

    def learn(self, seconds: float, *, fast: bool) -> None:
        """Learns the time of a frame; that of the faster variant says nothing about the regular one."""
        if fast:
            return
        with self._lock:
            if not self._mean_s:
                self._mean_s = seconds
                return
            self._deviation_s += WEIGHT * (abs(seconds - self._mean_s) - self._deviation_s)
            self._mean_s += WEIGHT * (seconds - self._mean_s)
