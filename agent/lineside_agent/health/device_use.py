"""On which devices the model runs, and why not on the first one: for ``status.json`` and the hub.

Several devices that share the frames answer in turn, which is no change: without a failure the first one that answered
is reported until the bundle or its placement changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import LoadedBundle
from lineside_agent.inspection.pipeline import PipelineCounts
from lineside_link.messages import TEXT_MAX, PlacementReport
from lineside_runtime.session import Session


class DeviceUseMonitor:
    """Watches which devices answer.

    Args:
        counts: Of the pipeline.
        report: Takes each change.
    """

    def __init__(
        self, active: ActiveBundle, counts: PipelineCounts, report: Callable[[PlacementReport], None] = lambda _: None
    ) -> None:
        self._active = active
        self._counts = counts
        self._report = report
        self._last = PlacementReport()
        self._loaded: LoadedBundle | None = None
        self._seen = (0, 0)

    @property
    def problem(self) -> str:
        """Why a device that comes first does not run the model; empty if it does."""
        return self._last.problem

    def check(self) -> None:
        """Looks at the calls since the last check, and reports a change."""
        counts, loaded, before = self._counts, self._active.loaded, self._last
        inspected, rerouted = counts.inspected, counts.fallbacks
        if loaded is None or (inspected == self._seen[0] and loaded is self._loaded):
            return
        fell_back = rerouted > self._seen[1]
        self._seen = (inspected, rerouted)
        problem = _problem(loaded.sessions, fell_back=fell_back)
        keeps = loaded is self._loaded and (problem, counts.requested_device) == (
            before.problem,
            before.requested_device,
        )
        if keeps and not problem:
            return
        self._loaded = loaded
        self._last = PlacementReport(
            requested_device=counts.requested_device, used_device=counts.used_device, problem=problem
        )
        if self._last != before:
            self._report(self._last)

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of devices and cache."""
        loaded, counts = self._active.loaded, self._counts
        sessions = () if loaded is None else loaded.sessions
        caches = [session.cache_stats for session in sessions]
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
        }


def _problem(sessions: Iterable[Session], *, fell_back: bool) -> str:
    """Returns the last failure of each session that counts now: of a call that fell back, or of a missing engine."""
    found = []
    for session in sessions:
        failures = [one for one in session.fallbacks if fell_back or one.during == "probe"]
        if failures:
            last = failures[-1]
            found.append(f"{last.device} failed during {last.during}: {last.reason}")
    if fell_back and not found:
        return "another device answered than the one that comes first"
    return "; ".join(dict.fromkeys(found))[:TEXT_MAX]
