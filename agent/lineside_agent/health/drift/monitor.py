"""Examine each frame for drift after the line has its verdict.

What was learned lies in ``drift.json``. A person who has cleaned the lens says ``clear``; one who has changed the lamp,
the camera or the product says ``relearn`` (`ask`). Where the line changes between recipes each has its own, and goes on
with it when its product comes back.
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
from lineside_agent.health.drift.reference import DriftJudgement
from lineside_agent.health.drift.watch import DriftRules, Learned, Watch
from lineside_agent.inspection.views import Seen, Views
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
"""While it learns; a start within goes on from there."""

ASKED_S = 10.0


class DriftMonitor:
    """Watches a line.

    Args:
        folder: The agent's state folder.
        config: The ``[drift]`` table.
        types: All types that the bundle that runs knows.
        report: Told whenever an alarm begins or ends, and when everything is learned.
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
        self._rules = DriftRules(
            reference_frames=config.reference_frames,
            false_alarm_frames=config.false_alarm_frames,
            odds_ratio=config.odds_ratio,
            bad_share=config.bad_share,
        )
        self._lock = threading.Lock()
        self._watch = Watch(self._rules, read_state(self._path, Learned))
        self._since_ns: dict[str, int] = {}
        self._ever = 0
        self._problem = ""
        self._saved_at_s = time.monotonic()
        self._saved = self._known()
        self._told: DriftReport | None = None

    def observe(self, row: ResultRow, seen: Seen | None) -> None:
        """Takes what became of a frame; in the pipeline's thread, after the line was told.

        Args:
            row: Its record. A fault says nothing of the parts.
            seen: Its image, if there is one; of several cameras the first one's is watched.
        """
        frame = seen.shots[0] if isinstance(seen, Views) else seen
        described = describe(frame.image) if isinstance(frame, Frame) else None
        if row.recipe != self._recipe:
            self._go_on_with(row.recipe)
        with self._lock:
            if described is not None:
                self._watch.see(described)
            if row.verdict != "fault" and row.bundle_sha256:
                self._watch.hear(_judgement(row), self._types())
            alarms = set(self._watch.alarms())
            if alarms != self._since_ns.keys():
                self._changed(alarms)

    def _go_on_with(self, recipe: str) -> None:
        """Puts away what was learned of one product, and takes what is known of the next."""
        if self._recipe:
            self.save(now=True)
        path = self._folder / f"drift-{quote(recipe, safe='')}.json" if recipe else self._folder / NAME
        watch = Watch(self._rules, read_state(path, Learned))
        with self._lock:
            self._recipe, self._path, self._watch = recipe, path, watch
            self._saved = self._known()
            self._changed(set(watch.alarms()))

    def _changed(self, alarms: set[str]) -> None:
        for name in self._since_ns.keys() - alarms:
            log.warning("drift is over: %s", name)
            del self._since_ns[name]
        for name in sorted(alarms - self._since_ns.keys()):
            self._since_ns[name] = time.time_ns()
            self._ever += 1
            log.error("drift: %s", self._text(name))
        self._problem = f"drift: {', '.join(sorted(alarms))}" if alarms and self._config.stops_line else ""

    def _text(self, name: str) -> str:
        """What a person should know of an alarm: what is seen now, and what was learned."""
        learned, recent = self._watch.learned, self._watch.recent
        what = name.rpartition("-")[0]
        if what in Descriptors._fields and learned.frames is not None:
            median = learned.frames.median[Descriptors._fields.index(what)]
            return f"{name}: {what} is {recent[what]:.3g}, learned was {median:.3g}"
        if what == "bad" and learned.verdicts is not None:
            well = self._config.bad_share or learned.verdicts.bad / learned.verdicts.frames
            return f"{name}: {recent['bad']:.0%} of the parts are rejected, usual are {well:.1%}"
        if name.startswith("type:"):
            return f"{name}: many more parts than learned show {name.removeprefix('type:')}"
        return f"{name}: many more frames than learned are beyond its end"

    def look(self) -> None:
        """Does what people ask for, saves what was learned, tells of changes; in the main thread, again and again."""
        asked = _taken(self._request)
        with self._lock:
            if asked == "clear":
                self._watch.clear()
            elif asked == "relearn":
                self._watch = Watch(self._rules)
            if asked:
                log.warning("drift: a person asked to %s", asked)
                self._changed(set(self._watch.alarms()))
        self.save()
        report = self.report()
        if report != self._told:
            self._told = report
            self._report(report)

    def save(self, *, now: bool = False) -> None:
        """Writes what was learned.

        Args:
            now: Whatever there is; otherwise only if something is learned to its end, or it is time.
        """
        with self._lock:
            known = self._known()
            due = now or known != self._saved or time.monotonic() - self._saved_at_s > SAVE_EVERY_S
            growing = bool(self._watch.learned.samples or self._watch.learned.judged)
            if not due or (known == self._saved and not growing):
                return
            self._saved, self._saved_at_s = known, time.monotonic()
            learned = self._watch.learned
            kept = msgspec.structs.replace(learned, samples=list(learned.samples), judged=list(learned.judged))
            path = self._path
        try:  # outside of the lock: the line must not wait for the disk
            write_state(path, kept)
        except (LinesideError, OSError) as error:
            log.error("%s can't be written, what was learned is not kept over a restart: %s", path, error)

    def _known(self) -> tuple[bool, str]:
        learned = self._watch.learned
        return learned.frames is not None, learned.verdicts.bundle if learned.verdicts is not None else ""

    def report(self) -> DriftReport:
        """Returns what the hub is told."""
        with self._lock:
            alarms = tuple(
                DriftAlarm(name=name, since_ns=since, text=self._text(name)) for name, since in self._since_ns.items()
            )
            return DriftReport(learning=not all(self._known()), alarms=_steady(alarms, self._told))

    def problem(self) -> str:
        """Returns why the line must not go on; empty if it may, or if alarms don't stop it."""
        return self._problem

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of it."""
        report = self.report()
        with self._lock:
            learned, recent = self._watch.learned, dict(self._watch.recent)
            tests = {name: test.value / test.limit for name, test in self._watch.tests()}
        return {
            "state": "learning" if report.learning else "watching",
            "alarm": bool(report.alarms),
            "alarms": [alarm.text for alarm in report.alarms],
            "alarms_ever": self._ever,
            "nearest": max(tests, key=lambda name: tests[name]) if tests else None,
            "nearest_share": round(max(tests.values(), default=0.0), 3),
            "frames_learned": len(learned.samples) if learned.frames is None else learned.frames.frames,
            "verdicts_learned": len(learned.judged) if learned.verdicts is None else learned.verdicts.frames,
            **{f"recent_{name}": round(value, 4) for name, value in recent.items()},
        }


def _steady(alarms: tuple[DriftAlarm, ...], told: DriftReport | None) -> tuple[DriftAlarm, ...]:
    """An alarm keeps the figures with which it was told: the hub isn't told again with every frame."""
    known = {(alarm.name, alarm.since_ns): alarm for alarm in (told.alarms if told is not None else ())}
    return tuple(known.get((alarm.name, alarm.since_ns), alarm) for alarm in alarms)


def _judgement(row: ResultRow) -> DriftJudgement:
    return DriftJudgement(
        bundle=row.bundle_sha256,
        passed=row.verdict == "pass",
        unsure=row.unsure,
        types=tuple(sorted({found[0] for found in row.detections})),
        near_miss=row.near_miss,
    )


def _taken(path: Path) -> str:
    """Returns what a person asked for, once."""
    if not path.is_file():
        return ""
    try:
        asked = path.read_text()
        path.unlink()
    except OSError as error:
        log.error("%s: %s", path, error)
        return ""
    return asked.strip()


def ask(folder: Path, what: Request, *, timeout_s: float = ASKED_S) -> None:
    """Asks the agent whose state is in this folder: the other end of the request.

    Args:
        folder: The agent's state folder.
        what: ``clear`` ends the alarms; ``relearn`` forgets what was learned, and begins again.
        timeout_s: The longest wait until it was heard.

    Raises:
        InputNotFoundError: No agent heard it in time.
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
