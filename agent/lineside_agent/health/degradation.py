"""Reduce the service while the board is throttled or the line is late, and restore it.

A step is said in the log, in ``status.json`` (and so in ``/metrics``) and to the hub, and is taken back by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lineside_agent.config import AgentConfig, DegradeConfig
from lineside_agent.health.degradation_policy import DegradationLimits, DegradationPolicy, Step, Strain
from lineside_agent.inspection.active_bundle import ActiveInspector
from lineside_agent.inspection.deadline_policy import DeadlinePolicy
from lineside_agent.inspection.frame_sources import LatestFrame
from lineside_agent.storage.images import ImageArchive
from lineside_boards import profile
from lineside_boards.detect import detect
from lineside_boards.machine_state import temperature_c, throttling
from lineside_link.messages import DegradationReport

log = logging.getLogger("lineside.degradation")

HOT_C = 80.0
"""Where nobody knows when the board slows down."""

BELOW_THROTTLING_C = 5.0

ROOT = Path("/")


class Pace(NamedTuple):
    """What became of parts since the start.

    Attributes:
        judged: Parts.
        late: Of those: late, nearly late or dropped.
    """

    judged: int
    late: int


class DegradationRunner:
    """Looks again and again, from the main thread.

    Args:
        config: The ``[degrade]`` table.
        archive: Gives up images.
        active: Knows whether there is a faster variant.
        deadline_policy: Judges by it.
        frames: Where the frame rate can be lowered; ``None`` elsewhere.
        pace: Says how late the line is.
        report: Told of each change.
    """

    def __init__(
        self,
        config: DegradeConfig,
        *,
        archive: ImageArchive,
        active: ActiveInspector,
        deadline_policy: DeadlinePolicy,
        frames: LatestFrame | None,
        pace: Callable[[], Pace],
        report: Callable[[DegradationReport], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._archive = archive
        self._active = active
        self._deadline_policy = deadline_policy
        self._frames = frames
        self._pace = pace
        self._report = report
        self._policy = DegradationPolicy(config.steps, bars(config))
        self._strain = Strain()
        self._lock = threading.Lock()
        self._seen = Pace(0, 0)
        self._looked_at_s: float | None = None
        self._ever = 0

    def look(self) -> None:
        """Looks, if it is time."""
        now_s = time.monotonic()
        if self._looked_at_s is not None and now_s - self._looked_at_s < self._config.look_every_s:
            return
        self._looked_at_s = now_s
        root = self._config.system or ROOT
        strain = Strain(temperature_c(root), throttling(root) or (), self._late_share())
        before = self._policy.steps
        with self._lock:
            self._strain = strain
            changed = self._policy.look(strain, self._possible(), now_s)
        if changed:
            self._say(before)
            self._apply()
            self._report(self.report())

    def _late_share(self) -> float | None:
        """Of the parts since the last look; ``None`` if there were none."""
        before, self._seen = self._seen, self._pace()
        judged = self._seen.judged - before.judged
        return min(1.0, (self._seen.late - before.late) / judged) if judged > 0 else None

    def _possible(self) -> tuple[Step, ...]:
        loaded = self._active.loaded
        possible: list[Step] = ["images"] if self._archive.keeps_passes else []
        if loaded is not None and loaded.fast is not None:
            possible.append("variant")
        if self._frames is not None:
            possible.append("rate")
        return tuple(possible)

    def _say(self, before: tuple[Step, ...]) -> None:
        after = self._policy.steps
        self._ever += len(after) > len(before)
        if len(after) > len(before):
            log.warning("degraded to step %d (%s): %s", len(after), ", ".join(after), self._policy.why)
        else:
            log.warning("back to step %d (%s)", len(after), ", ".join(after) or "full service")

    def _apply(self) -> None:
        steps = self._policy.steps
        self._archive.restrain("images" in steps)
        self._deadline_policy.always = "variant" in steps
        if self._frames is not None:
            self._frames.least_period_s = 1.0 / self._config.rate_hz if "rate" in steps else 0.0

    def report(self) -> DegradationReport:
        """Returns what the hub is told."""
        with self._lock:
            return DegradationReport(steps=tuple(self._policy.steps), reason=self._policy.why)

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of it."""
        with self._lock:
            strain, policy = self._strain, self._policy
            return {
                "step": len(policy.steps),
                "steps": list(policy.steps),
                "reason": policy.why or None,
                "steps_ever": self._ever,
                "hurried": self._deadline_policy.hurried,
                "temperature_c": strain.temperature_c,
                "throttling": list(strain.throttling),
                "late_share": None if strain.late_share is None else round(strain.late_share, 4),
            }


def bars(config: DegradeConfig) -> DegradationLimits:
    """Returns when it is too much here: where the table doesn't say, a little before this kind of board slows down.

    Args:
        config: The ``[degrade]`` table.
    """
    hot_c = config.hot_c if config.hot_c is not None else _hot_c(config)
    return DegradationLimits(hot_c, hot_c - config.cool_by_c, config.late_share, config.hold_s, config.relief_s)


def _hot_c(config: DegradeConfig) -> float:
    names = set(detect(config.system or ROOT).compatible)
    known = (
        found.thermal.throttle_c for found in map(profile.load, profile.names()) if names & set(found.board.compatible)
    )
    throttle_c = next((bar for bar in known if bar is not None), None)
    return HOT_C if throttle_c is None else throttle_c - BELOW_THROTTLING_C


def pace_of(config: AgentConfig, counts: Callable[[], Pace], dropped: Callable[[], Pace]) -> Callable[[], Pace]:
    """Returns what tells how late this line is: late parts where it triggers, dropped frames where it doesn't wait.

    Args:
        config: Of the agent.
        counts: Of the handshake.
        dropped: Of the camera.
    """
    if config.trigger is None:
        return dropped
    return counts if config.trigger.mode == "inspect" else lambda: Pace(0, 0)  # in watch mode frames are meant to go
