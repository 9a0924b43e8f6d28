"""Which steps of reduced service apply to a temperature and a lateness. Pure.

- One more step after every ``hold_s`` of strain without a break, one less after every ``relief_s`` without strain.
- Between the two limits nothing changes: a step that is taken back at ``hot_c`` would come again at once.
- A step that this device cannot take is skipped: no faster variant in the bundle, or no frame rate to lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Step = Literal["images", "variant", "rate"]
"""``images``: images of passed parts are not kept. ``variant``: the bundle's faster variant inspects. ``rate``: fewer
frames are inspected, where the line does not trigger."""

NOW = " now"
"""Suffix of a board's state at this moment, in contrast to its state since the start."""


class DegradationLimits(NamedTuple):
    """When a step is taken, and when it is taken back.

    Attributes:
        hot_c: Temperature from which on the board is too hot.
        cool_c: Temperature up to which it is cool again.
        late_share: Share of late parts from which on the line is too slow; from half of it on down it is fast again.
        hold_s: Strain before each further step.
        relief_s: Time without strain before each step back.
    """

    hot_c: float
    cool_c: float
    late_share: float
    hold_s: float
    relief_s: float


class LoadSample(NamedTuple):
    """One measurement.

    Attributes:
        temperature_c: Of the hottest sensor; ``None`` without a sensor.
        throttling: Why the board runs slower than it could, in `lineside_boards.machine_state.throttling`'s words.
        late_share: Share of the last parts that were late or would have been; ``None`` without parts.
    """

    temperature_c: float | None = None
    throttling: Sequence[str] = ()
    late_share: float | None = None


class DegradationPolicy:
    """The steps that are taken now.

    Attributes:
        why: Reason of the last step; empty without steps.
    """

    def __init__(self, order: Sequence[Step], limits: DegradationLimits) -> None:
        self.steps: tuple[Step, ...] = ()
        self.why = ""
        self._order = tuple(order)
        self._limits = limits
        self._strained_since_s: float | None = None
        self._relieved_since_s: float | None = None

    def check(self, load: LoadSample, possible: Sequence[Step], now_s: float) -> bool:
        """Takes a measurement at ``now_s`` of the monotonic clock; returns whether `steps` has changed."""
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
