"""Which step of reduced service applies to a temperature and a latency. Pure.

- One step more after every ``hold_s`` of load without a break, one less after every ``relief_s`` without any.
- Between the two limits nothing changes: what is taken back at ``hot_c`` would come again at once.
- What can't be given up here is no step: a bundle without a faster variant, a line that has no frame rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Step = Literal["images", "variant", "rate"]
"""``images``: only those of parts that were not passed are kept. ``variant``: the bundle's faster form judges.
``rate``: fewer frames are looked at, where nobody triggers."""

NOW = " now"
"""Ends what a board says of this moment, and not of all since it was started."""


class DegradationLimits(NamedTuple):
    """When it is too much, and when it is well again.

    Attributes:
        hot_c: From this temperature on it is too hot.
        cool_c: Up to here it is cool again.
        late_share: From this share of late parts on it is too slow; up to a half of it it is quick again.
        hold_s: Strain before each further step.
        relief_s: Without load before each step back.
    """

    hot_c: float
    cool_c: float
    late_share: float
    hold_s: float
    relief_s: float


class LoadSample(NamedTuple):
    """How it is now.

    Attributes:
        temperature_c: Of the hottest sensor; ``None`` where there is none.
        throttling: Why the board runs slower than it could, in `lineside_boards.state.throttling`'s words.
        late_share: Of the last parts, those that were late or would have been; ``None`` without any.
    """

    temperature_c: float | None = None
    throttling: Sequence[str] = ()
    late_share: float | None = None


class DegradationPolicy:
    """Climbs and comes down.

    Attributes:
        steps: What is given up now, in order.
        why: What was too much when the last step was taken; empty on the ground.

    Args:
        order: What is given up, the first first.
        limits: When.
    """

    def __init__(self, order: Sequence[Step], limits: DegradationLimits) -> None:
        self.steps: tuple[Step, ...] = ()
        self.why = ""
        self._order = tuple(order)
        self._limits = limits
        self._strained_since_s: float | None = None
        self._relieved_since_s: float | None = None

    def check(self, load: LoadSample, possible: Sequence[Step], now_s: float) -> bool:
        """Looks once.

        Returns:
            Whether `steps` has changed.
        """
        available = [step for step in self._order if step in possible]
        before, count = self.steps, len([step for step in self.steps if step in available])
        reasons = _reasons(load, self._limits)
        if reasons:
            self._relieved_since_s = None
            self._strained_since_s = now_s if self._strained_since_s is None else self._strained_since_s
            if now_s - self._strained_since_s >= self._limits.hold_s and count < len(available):
                count, self._strained_since_s, self.why = count + 1, now_s, "; ".join(reasons)
        elif _is_relieved(load, self._limits):
            self._strained_since_s = None
            self._relieved_since_s = now_s if self._relieved_since_s is None else self._relieved_since_s
            if now_s - self._relieved_since_s >= self._limits.relief_s and count:
                count, self._relieved_since_s = count - 1, now_s
        else:
            self._strained_since_s = self._relieved_since_s = None
        self.steps = tuple(available[:count])
        self.why = self.why if self.steps else ""
        return self.steps != before


def _reasons(load: LoadSample, limits: DegradationLimits) -> list[str]:
    reasons = [reason for reason in load.throttling if reason.endswith(NOW)]
    if load.temperature_c is not None and load.temperature_c >= limits.hot_c:
        reasons.append(f"{load.temperature_c:.0f} °C, hot from {limits.hot_c:.0f} °C on")
    if load.late_share is not None and load.late_share >= limits.late_share:
        reasons.append(f"{load.late_share:.0%} of the parts late or nearly")
    return reasons


def _is_relieved(load: LoadSample, limits: DegradationLimits) -> bool:
    cool = load.temperature_c is None or load.temperature_c <= limits.cool_c
    return cool and (load.late_share is None or load.late_share <= limits.late_share / 2)
