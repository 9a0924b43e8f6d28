"""On which devices the models run, and why not on the first one: for ``status.json`` and the hub.

Several devices that share the frames answer in turn, and not every model of a bundle runs for each part. Neither is a
change: what is reported changes with the bundle, its placement, or the reason of a fallback.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import LoadedBundle
from lineside_agent.inspection.pipeline import PipelineCounts
from lineside_link.messages import TEXT_MAX, PlacementReport
from lineside_runtime.session import Session


class _Seen(NamedTuple):
    """A session at the last check."""

    calls: int = 0
    rerouted: int = 0
    problem: str = ""
    at_ns: int = 0


class DeviceUseMonitor:
    """Watches which devices answer."""

    def __init__(
        self, active: ActiveBundle, counts: PipelineCounts, report: Callable[[PlacementReport], None] = lambda _: None
    ) -> None:
        self._active = active
        self._counts = counts
        self._report = report
        self._last = PlacementReport()
        self._loaded: LoadedBundle | None = None
        self._seen: dict[int, _Seen] = {}

    @property
    def problem(self) -> str:
        """Why a device that comes first does not run a model; empty if all do."""
        return self._last.problem

    def check(self) -> None:
        """Looks at the calls since the last check, and reports a change."""
        loaded = self._active.loaded
        if loaded is None:
            return
        is_same, sessions = loaded is self._loaded, loaded.sessions
        before = self._seen if is_same else {}
        self._loaded = loaded
        self._seen = {id(session): _look(session, before.get(id(session))) for session in sessions}
        problem = "; ".join(dict.fromkeys(seen.problem for seen in self._seen.values() if seen.problem))[:TEXT_MAX]
        if is_same and problem == self._last.problem:
            return
        last = self._last
        self._last = PlacementReport(
            requested_device=loaded.requested_device, used_device=loaded.used_device, problem=problem
        )
        if self._last != last:
            self._report(self._last)

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of devices and cache."""
        loaded, counts = self._active.loaded, self._counts
        sessions = () if loaded is None else loaded.sessions
        caches = [session.cache_stats for session in sessions]
        plans = dict.fromkeys(str(session.plan) for session in sessions if session.plan.kind != "configured")
        standby = dict.fromkeys(session.standby_device for session in sessions if session.standby_device)
        return {
            "engine_restarts": sum(session.engine_restarts for session in sessions),
            "fallbacks": sum(session.rerouted for session in sessions),
            "device_failures": sum(session.fallback_count for session in sessions),
            "device_problem": self.problem or None,
            "cache_hits": sum(cache.hits for cache in caches if cache is not None),
            "cache_misses": sum(cache.misses for cache in caches if cache is not None),
            "requested_device": counts.requested_device,
            "used_device": counts.used_device,
            "standby_device": "+".join(standby) or None,
            "placement_plan": "; ".join(plans) or None,
            "models": [] if loaded is None else loaded.models_status(),
        }


def _look(session: Session, before: _Seen | None) -> _Seen:
    """Returns a session's counts, and its problem: that of the latest calls, or of a missing engine."""
    calls, rerouted, now_ns = session.calls, session.rerouted, time.time_ns()
    last = before or _Seen()
    if before is not None and calls == last.calls:
        return before
    fell_back = rerouted > last.rerouted
    failures = [
        one
        for one in session.fallbacks
        # where a named engine is absent all calls fall back: what failed earlier and answers again is no reason
        if one.during == "probe" or (fell_back and (one.device != session.used_device or one.at_ns > last.at_ns))
    ]
    problem = "another device answered than the one that comes first" if fell_back else ""
    if failures:
        problem = f"{failures[-1].device} failed during {failures[-1].during}: {failures[-1].reason}"
    return _Seen(calls, rerouted, problem, now_ns)
