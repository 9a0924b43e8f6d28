"""Select the faster variant for frames that would miss the deadline.

What a frame will take is told from those before it: a mean and a mean deviation that follow the last dozen. After an
outlier the guess comes down again with each frame that was judged in haste, so that the better variant gets its turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from lineside_agent.inspection.faster_variant import FasterVariant
from lineside_agent.inspection.loaded_bundle import LoadedBundle
from lineside_models.frame import Frame

WEIGHT = 1 / 12
"""Of the newest frame in mean and deviation."""

DEVIATIONS = 3.0
"""A frame is taken to need the mean and so many mean deviations."""

FORGET = 0.98


class DeadlinePolicy:
    """Chooses for each frame; from any thread.

    Attributes:
        always: Whether every frame is judged by the faster variant.
        hurried: Frames that would have been late, and were judged by it.

    Args:
        left_s: How long a frame's part still has until its deadline, by the frame's number; ``None`` without one.
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
        """What the better variant is taken to need for a frame; 0 before the first."""
        return self._mean_s + DEVIATIONS * self._deviation_s

    def chooses_fast(self, loaded: LoadedBundle, frame: Frame, frames_left: int = 1) -> bool:
        """Returns whether the faster variant is to judge a frame.

        Args:
            loaded: What judges; without a faster variant there is nothing to choose.
            frame: With its trigger's number.
            frames_left: How many must be judged one after the other until its part's verdict, this one among them; more
                than one where several cameras see the part.
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
        """Learns from a frame that was judged."""
        if fast:
            return
        with self._lock:
            if not self._mean_s:
                self._mean_s = seconds
                return
            self._deviation_s += WEIGHT * (abs(seconds - self._mean_s) - self._deviation_s)
            self._mean_s += WEIGHT * (seconds - self._mean_s)
