"""Examine each frame for drift, after the line has its verdict.

The references and the alarms are in ``drift.json``, so that a restart ends no alarm. After the lens was cleaned a
person requests ``clear``; after a change of lamp, camera or product ``relearn`` (see `request`). On a line with recipes
each recipe has its own references, which are used again when its product comes back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from lineside_agent.config import DriftConfig
from lineside_agent.health.drift.descriptors import Descriptors, describe
from lineside_agent.health.drift.detector import DriftDetector, DriftSettings, DriftState
from lineside_agent.health.drift.reference import DriftVerdict
from lineside_agent.inspection.views import Capture, Views
from lineside_agent.storage.state_file import read_state, write_state
from lineside_link.messages import DriftAlarm, DriftReport, ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import InputNotFoundError, LinesideError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.drift")

NAME = "drift.json"
REQUEST = "drift.request"
Request = Literal["clear", "relearn"]

SAVE_EVERY_S = 60.0
"""While it learns; a restart goes on from there."""

REQUEST_TIMEOUT_S = 10.0


class DriftMonitor:
    """Runs the drift detection of one line.

    Args:
        types: Returns all defect types of the active bundle.
        report: Takes the report whenever an alarm begins or ends, and when everything is learned.
    """

    def __init__(
        self,
        folder: Path,
        config: DriftConfig,
        *,
        types: Callable[[], Sequence[str]],
        report: Callable[[DriftReport], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._recipe = ""
        self._path = folder / NAME
        self._request = folder / REQUEST
        self._config = config
        self._types = types
        self._report = report
        self._rules = DriftSettings(
            reference_frames=config.reference_frames,
            false_alarm_frames=config.false_alarm_frames,
            odds_ratio=config.odds_ratio,
            bad_share=config.bad_share,
        )
        self._lock = threading.Lock()
        self._detector = DriftDetector(self._rules, read_state(self._path, DriftState))
        self._since_ns: dict[str, int] = {}
        self._alarm_count = 0
        self._problem = ""
        self._saved_at_s = time.monotonic()
        self._changed(set(self._detector.alarms()))
        self._saved = self._changes()
        self._reported: DriftReport | None = None

    def observe(self, row: ResultRow, capture: Capture | None) -> None:
        """Takes a record and its images; in the pipeline's thread, after the line was told.

        A fault says nothing about the part. Of several cameras, the first one's frames are examined.
        """
        frame = capture.shots[0] if isinstance(capture, Views) else capture
        described = describe(frame.image) if isinstance(frame, Frame) else None
        if row.recipe != self._recipe:
            self._switch_recipe(row.recipe)
        with self._lock:
            if described is not None:
                self._detector.add_frame(described)
            if row.verdict != "fault" and row.bundle_sha256:
                self._detector.add_verdict(_verdict_of(row), self._types())
            alarms = set(self._detector.alarms())
            if alarms != self._since_ns.keys():
                self._changed(alarms)

    def _switch_recipe(self, recipe: str) -> None:
        """Saves the references of one product and loads those of the next."""
        if self._recipe:
            self.save(now=True)
        path = self._folder / f"drift-{quote(recipe, safe='')}.json" if recipe else self._folder / NAME
        detector = DriftDetector(self._rules, read_state(path, DriftState))
        with self._lock:
            self._recipe, self._path, self._detector = recipe, path, detector
            self._changed(set(detector.alarms()))
            self._saved = self._changes()

    def _changed(self, alarms: set[str]) -> None:
        for name in self._since_ns.keys() - alarms:
            log.warning("drift is over: %s", name)
            del self._since_ns[name]
        for name in sorted(alarms - self._since_ns.keys()):
            self._since_ns[name] = self._detector.learned.alarms.get(name) or time.time_ns()
            self._alarm_count += 1
            log.error("drift: %s", self._text(name))
        self._problem = f"drift: {', '.join(sorted(alarms))}" if alarms and self._config.stops_line else ""

    def _text(self, name: str) -> str:
        """Describes an alarm: the current and the learned value."""
        learned, recent = self._detector.learned, self._detector.recent
        what = name.rpartition("-")[0]
        if what in (*Descriptors._fields, "bad") and what not in recent:
            return f"{name}: in alarm since before the agent was started; no part has come since"
        if what in Descriptors._fields and learned.frames is not None:
            median = learned.frames.median[Descriptors._fields.index(what)]
            return f"{name}: {what} is {recent[what]:.3g}, learned was {median:.3g}"
        if what == "bad" and learned.verdicts is not None:
            well = self._config.bad_share or learned.verdicts.bad / learned.verdicts.frames
            return f"{name}: {recent['bad']:.0%} of the parts are rejected, usual are {well:.1%}"
        if name.startswith("type:"):
            return f"{name}: many more parts than learned show {name.removeprefix('type:')}"
        return f"{name}: many more frames than learned are beyond its end"

    def check(self) -> None:
        """Carries out a person's request, saves the references, reports changes; in the main thread."""
        request = _take_request(self._request)
        with self._lock:
            if request == "clear":
                self._detector.clear()
            elif request == "relearn":
                self._detector = DriftDetector(self._rules)
            if request:
                log.warning("drift: a person requested to %s", request)
                self._changed(set(self._detector.alarms()))
        self.save()
        report = self.report()
        if report != self._reported:
            self._reported = report
            self._report(report)

    def save(self, *, now: bool = False) -> None:
        """Writes the state: always with ``now``, otherwise when a reference or the alarms change, or it is time."""
        with self._lock:
            changes = self._changes()
            due = now or changes != self._saved or time.monotonic() - self._saved_at_s > SAVE_EVERY_S
            growing = bool(self._detector.learned.samples or self._detector.learned.judged)
            if not due or (changes == self._saved and not growing):
                return
            self._saved, self._saved_at_s = changes, time.monotonic()
            learned = self._detector.learned
            learned.alarms = dict(self._since_ns)
            kept = msgspec.structs.replace(learned, samples=list(learned.samples), judged=list(learned.judged))
            path = self._path
        try:  # outside of the lock: the line must not wait for the disk
            write_state(path, kept)
        except (LinesideError, OSError) as error:
            log.error("%s can't be written, what was learned is not kept over a restart: %s", path, error)

    def _learned(self) -> tuple[bool, str]:
        learned = self._detector.learned
        return learned.frames is not None, learned.verdicts.bundle if learned.verdicts is not None else ""

    def _changes(self) -> tuple[bool, str, frozenset[str]]:
        """Returns what is written at once when it changes."""
        return (*self._learned(), frozenset(self._since_ns))

    def report(self) -> DriftReport:
        """Returns the report for the hub."""
        with self._lock:
            alarms = tuple(
                DriftAlarm(name=name, since_ns=since, text=self._text(name)) for name, since in self._since_ns.items()
            )
            return DriftReport(learning=not all(self._learned()), alarms=_steady(alarms, self._reported))

    def problem(self) -> str:
        """Returns why the line must stop; empty if there is no alarm, or if alarms do not stop it."""
        return self._problem

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of it."""
        report = self.report()
        with self._lock:
            learned, recent = self._detector.learned, dict(self._detector.recent)
            tests = {name: test.value / test.limit for name, test in self._detector.tests()}
        return {
            "state": "learning" if report.learning else "watching",
            "alarm": bool(report.alarms),
            "alarms": [alarm.text for alarm in report.alarms],
            "alarms_ever": self._alarm_count,
            "nearest": max(tests, key=lambda name: tests[name]) if tests else None,
            "nearest_share": round(max(tests.values(), default=0.0), 3),
            "frames_learned": len(learned.samples) if learned.frames is None else learned.frames.frames,
            "verdicts_learned": len(learned.judged) if learned.verdicts is None else learned.verdicts.frames,
            **{f"recent_{name}": round(value, 4) for name, value in recent.items()},
        }


def _steady(alarms: tuple[DriftAlarm, ...], reported: DriftReport | None) -> tuple[DriftAlarm, ...]:
    """Keeps the figures with which an alarm was reported first, so that the hub is not told again with every frame."""
    learned_now = {(alarm.name, alarm.since_ns): alarm for alarm in (reported.alarms if reported is not None else ())}
    return tuple(learned_now.get((alarm.name, alarm.since_ns), alarm) for alarm in alarms)


def _verdict_of(row: ResultRow) -> DriftVerdict:
    return DriftVerdict(
        bundle=row.bundle_sha256,
        passed=row.verdict == "pass",
        unsure=row.unsure,
        types=tuple(sorted({found[0] for found in row.detections})),
        near_miss=row.near_miss,
    )


def _take_request(path: Path) -> str:
    """Reads and deletes a person's request; empty without one."""
    if not path.is_file():
        return ""
    try:
        request = path.read_text()
        path.unlink()
    except OSError as error:
        log.error("%s: %s", path, error)
        return ""
    return request.strip()


def request(folder: Path, what: Request, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
    """Sends a request to the agent with this state folder.

    Args:
        what: ``clear`` ends the alarms; ``relearn`` forgets the references and begins again.
        timeout_s: Longest wait until the agent has taken it.

    Raises:
        InputNotFoundError: No agent has taken it in time.
    """
    path = folder / REQUEST
    write_atomic(path, what.encode())
    until_s = time.monotonic() + timeout_s
    while path.exists():
        if time.monotonic() > until_s:
            path.unlink(missing_ok=True)
            action = "Start the agent with `lineside agent run`; its configuration needs a [drift] table."
            raise InputNotFoundError(f"no agent in {folder} hears", action=action)
        time.sleep(0.05)
