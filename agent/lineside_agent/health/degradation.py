"""Reduce the service while the board is throttled or the line is late, and restore it.

Each step is logged, shown in ``status.json`` (and so in ``/metrics``), reported to the hub, and taken back by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lineside_agent.config import AgentConfig, DegradeConfig
from lineside_agent.health.degradation_policy import DegradationLimits, DegradationPolicy, LoadSample, Step
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.deadline_policy import DeadlinePolicy
from lineside_agent.inspection.frame_sources import LatestFrame
from lineside_agent.storage.images import ImageArchive
from lineside_boards import profile
from lineside_boards.detect import detect
from lineside_boards.machine_state import temperature_c, throttling
from lineside_link.messages import DegradationReport

log = logging.getLogger("lineside.degradation")

HOT_C = 80.0
"""For a board without a known throttling temperature."""

BELOW_THROTTLING_C = 5.0

ROOT = Path("/")


class LatenessCounts(NamedTuple):
    """Parts or frames since the start.

    Attributes:
        late: Those that were late, nearly late or dropped.
    """

    total: int
    late: int


class DegradationRunner:
    """Measures heat and lateness again and again, and applies the steps of `DegradationPolicy`; in the main thread.

    Args:
        archive: Keeps fewer images with the step ``images``.
        active: Has the faster variant of the step ``variant``, if there is one.
        frames: Gives fewer frames with the step ``rate``; ``None`` where that is not possible.
        lateness: Returns how late the line is.
    """

    def __init__(
        self,
        config: DegradeConfig,
        *,
        archive: ImageArchive,
        active: ActiveBundle,
        deadline_policy: DeadlinePolicy,
        frames: LatestFrame | None,
        lateness: Callable[[], LatenessCounts],
        report: Callable[[DegradationReport], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._archive = archive
        self._active = active
        self._deadline_policy = deadline_policy
        self._frames = frames
        self._lateness = lateness
        self._report = report
        self._policy = DegradationPolicy(config.steps, limits_of(config))
        self._load = LoadSample()
        self._lock = threading.Lock()
        self._seen = LatenessCounts(0, 0)
        self._checked_at_s: float | None = None
        self._steps_taken = 0

    def check(self) -> None:
        """Measures and applies the policy, if it is time."""
        now_s = time.monotonic()
        if self._checked_at_s is not None and now_s - self._checked_at_s < self._config.look_every_s:
            return
        self._checked_at_s = now_s
        root = self._config.system or ROOT
        load = LoadSample(temperature_c(root), throttling(root) or (), self._late_share())
        before = self._policy.steps
        with self._lock:
            self._load = load
            changed = self._policy.check(load, self._available(), now_s)
        if changed:
            self._log_change(before)
            self._apply()
            self._report(self.report())

    def _late_share(self) -> float | None:
        """Share of late parts since the last check; ``None`` if there were none."""
        before, self._seen = self._seen, self._lateness()
        total = self._seen.total - before.total
        return min(1.0, (self._seen.late - before.late) / total) if total > 0 else None

    def _available(self) -> tuple[Step, ...]:
        loaded = self._active.loaded
        available: list[Step] = ["images"] if self._archive.keeps_passes else []
        if loaded is not None and loaded.fast is not None:
            available.append("variant")
        if self._frames is not None:
            available.append("rate")
        return tuple(available)

    def _log_change(self, before: tuple[Step, ...]) -> None:
        after = self._policy.steps
        self._steps_taken += len(after) > len(before)
        if len(after) > len(before):
            log.warning("degraded to step %d (%s): %s", len(after), ", ".join(after), self._policy.why)
        else:
            log.warning("back to step %d (%s)", len(after), ", ".join(after) or "full service")

    def _apply(self) -> None:
        steps = self._policy.steps
        self._archive.keep_no_passes("images" in steps)
        self._deadline_policy.always = "variant" in steps
        if self._frames is not None:
            self._frames.least_period_s = 1.0 / self._config.rate_hz if "rate" in steps else 0.0

    def report(self) -> DegradationReport:
        """Returns the report for the hub."""
        with self._lock:
            return DegradationReport(steps=tuple(self._policy.steps), reason=self._policy.why)

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of the degradation."""
        with self._lock:
            load, policy = self._load, self._policy
            return {
                "step": len(policy.steps),
                "steps": list(policy.steps),
                "reason": policy.why or None,
                "steps_ever": self._steps_taken,
                "hurried": self._deadline_policy.hurried,
                "temperature_c": load.temperature_c,
                "throttling": list(load.throttling),
                "late_share": None if load.late_share is None else round(load.late_share, 4),
            }


def limits_of(config: DegradeConfig) -> DegradationLimits:
    """Returns the limits in effect; an unset temperature is a little below that of the board's throttling."""
    hot_c = config.hot_c if config.hot_c is not None else _hot_c(config)
    return DegradationLimits(hot_c, hot_c - config.cool_by_c, config.late_share, config.hold_s, config.relief_s)


def _hot_c(config: DegradeConfig) -> float:
    names = set(detect(config.system or ROOT).compatible)
    known = (
        found.thermal.throttle_c for found in map(profile.load, profile.names()) if names & set(found.board.compatible)
    )
    throttle_c = next((bar for bar in known if bar is not None), None)
    return HOT_C if throttle_c is None else throttle_c - BELOW_THROTTLING_C


def lateness_of(
    config: AgentConfig, counts: Callable[[], LatenessCounts], dropped: Callable[[], LatenessCounts]
) -> Callable[[], LatenessCounts]:
    """Returns the measure of lateness: late parts on a line that triggers, else dropped frames."""
    if config.trigger is None:
        return dropped
    # In watch mode frames are dropped on purpose.
    return counts if config.trigger.mode == "inspect" else lambda: LatenessCounts(0, 0)
