"""`ScreenState`: what the operator screen knows."""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from lineside_agent.config import AgentConfig, ScreenConfig
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.screen.actions import ActionLog
from lineside_agent.screen.alarms import COMPONENTS, AlarmList, conditions
from lineside_agent.screen.feed import REJECTS_MAX, PartFeed
from lineside_agent.screen.good_parts import RecentGoodParts
from lineside_agent.screen.marks import kind_of
from lineside_agent.screen.people import Sessions
from lineside_agent.screen.shift import ShiftCounters
from lineside_agent.screen.viewers import Viewers
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.record_queries import RecordQuery, rows
from lineside_agent.storage.verdict_marks import read_marks
from lineside_boards.machine_state import temperature_c
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame, UInt8Array
from lineside_runtime.errors import InputNotFoundError, LinesideError

log = logging.getLogger("lineside.screen")

SILENT_S = 3.0
"""Least time without a frame after which a camera that runs freely is silent."""

START_NS = 15 * 10**9
"""Time after the start in which model and hub may be missing."""

BOARD_LOOK_S = 5.0
"""Time between two looks at temperature and disk."""

OLDER_ROWS_MAX = 300_000
"""Records of the running shift that are counted after a restart: eight hours at ten parts a second."""

OLDER_BATCH, OLDER_PAUSE_S = 200, 0.002
"""Records that are read at once, and the pause after them, in which the line has the processor."""


class ScreenState:
    """What the operator screen of one agent knows, and the worker thread that encodes its images.

    Attributes:
        good_parts: Good parts of the last minutes, to compare others with.
        observers: Called with each record and its images, in the line's thread.
        alarms: What people must attend to.
        flush: Has all records written, and waits at most so many seconds.
        send_image: Has an image of a record sent to the hub, by epoch and number.

    Args:
        recent_s: Returns the latest times from trigger to result.
    """

    def __init__(
        self,
        agent: AgentConfig,
        config: ScreenConfig,
        *,
        active: ActiveBundle,
        archive: ImageArchive,
        flush: Callable[[float], bool],
        send_image: Callable[[str, int, Path], None],
        recent_s: Callable[[], list[float]],
    ) -> None:
        self.agent, self.config = agent, config
        self.active, self.archive = active, archive
        self.flush, self.send_image = flush, send_image
        self.feed = PartFeed(self.request_encoding)
        self.good_parts = RecentGoodParts(agent, archive)
        self.shift = ShiftCounters(config.shift_starts)
        self.observers: list[Callable[[ResultRow, Sequence[Frame]], None]] = []
        self.alarms = AlarmList()
        self.sessions = Sessions(agent.folder)
        self.actions = ActionLog(agent.folder)
        self.viewers = Viewers()
        self.worker = concurrent.futures.ThreadPoolExecutor(1, "screen image")
        self._recent_s = recent_s
        self._started_ns = time.time_ns()
        self._work_due = threading.Event()
        self._stop = threading.Event()
        self._board: dict[str, Any] = {}
        self._board_look_s = 0.0
        absent = {"hub": agent.link is None, "plc": not agent.line_io and agent.trigger is None}
        self._shown = [name for name in COMPONENTS if not absent.get(name)]
        self._seen: dict[str, tuple[Any, float]] = {}
        self.state: dict[str, Any] = {}

    def start(self) -> None:
        """Reads what was recorded before, in the worker thread."""
        self.worker.submit(self._read_older).add_done_callback(_log_failure)

    @property
    def is_ending(self) -> bool:
        """Whether streams are to end."""
        return self._stop.is_set()

    def end(self) -> None:
        """Ends the streams."""
        self._stop.set()
        self.viewers.notify()

    def close(self) -> None:
        """Ends the worker thread."""
        self.worker.shutdown(cancel_futures=True)

    # From the line's threads.

    def observe(self, row: ResultRow, frames: Sequence[Frame]) -> None:
        """Takes a record, after the line was told its verdict."""
        self.shift.add(row, now_ns=time.time_ns())
        self.good_parts.add(row, frames)
        self.feed.add(row, frames)
        for observer in self.observers:
            observer(row, frames)

    def update_status(self, status: Mapping[str, Any]) -> None:
        """Takes the agent's status, about twice a second; called in the agent's main thread."""
        now_s, now_ns = time.monotonic(), time.time_ns()
        if now_s - self._board_look_s >= BOARD_LOOK_S or not self._board:
            self._board_look_s = now_s
            disk = shutil.disk_usage(self.agent.folder)
            self._board = {"temperature_c": temperature_c(), "disk_free_bytes": disk.free, "disk_bytes": disk.total}
        silent_s, stuck_s = self._quiet_s(status, now_s)
        found = conditions(
            {**self._board, **status},
            has_hub=self.agent.link is not None,
            silent_s=silent_s,
            stuck_s=stuck_s,
            starting=now_ns - self._started_ns < START_NS,
        )
        self.alarms.update(found, now_ns)
        loaded = self.active.loaded
        worst = {one.component: one for one in reversed(found)}
        self.state = {
            "device": self.agent.device,
            "bundle": status.get("installed"),
            "recipe": status.get("recipe"),
            "recipes": status.get("recipes", []),
            "control": self.config.control,
            "learn": self.config.learn and len(self.agent.cameras) == 1,
            "has_heat": loaded is not None and loaded.has_heat_map,
            "triggers": self.agent.trigger is not None and self.agent.trigger.mode == "inspect",
            "components": [_component(name, worst) for name in self._shown],
            "facts": self._facts(status),
            "line": status.get("line"),
            "started_ns": self._started_ns,
        }
        self.viewers.notify()

    def _quiet_s(self, status: Mapping[str, Any], now_s: float) -> tuple[float | None, float | None]:
        """Time without a frame of cameras that run freely, and without a verdict; ``None`` if it is as usual.

        Where the line triggers, the handshake itself watches the cameras.
        """
        usual_s = max(SILENT_S, *(5 / (camera.rate_hz or 5) for camera in self.agent.cameras))
        for key in ("frames", "inspected"):
            if status.get(key) != self._seen.get(key, (None, 0.0))[0]:
                self._seen[key] = (status.get(key), now_s)
        if self.agent.trigger is not None or status.get("source_finished") or not status.get("inspected"):
            return None, None
        silent_s, stuck_s = (now_s - self._seen[key][1] for key in ("frames", "inspected"))
        if silent_s > usual_s:
            return silent_s, None
        return None, stuck_s if stuck_s > 2 * usual_s else None

    def _facts(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """The figures behind the state of each component."""
        return {
            "cameras": [one["source"] for one in status.get("cameras", [])],
            "lines": [one["name"] for one in status.get("line_io", []) if one["name"] != "local"],
            "used_device": status.get("used_device"),
            "requested_device": status.get("requested_device"),
            "connected": status.get("connected"),
            "outbox_pending": status.get("outbox_pending"),
            "agent_version": status.get("agent_version"),
            **self._board,
        }

    def snapshot(self) -> dict[str, Any]:
        """Returns the state that a page shows beside the parts."""
        times = sorted(self._recent_s())
        now_ns = time.time_ns()
        return {
            **self.state,
            "now_ns": now_ns,
            "shift": self.shift.status(now_ns),
            "latency": {
                "p95_ms": round(1000 * times[min(len(times) - 1, int(0.95 * len(times)))], 1) if times else None,
                "deadline_ms": self._deadline_ms(),
            },
            "alarms": self.alarms.status(),
            "rejects": self.feed.reject_count,
        }

    def _deadline_ms(self) -> float | None:
        """Returns that of the recipe that runs, else that of the line; ``None`` without triggers."""
        running = (one.trigger.deadline_ms for one in self.agent.recipe if one.name == self.state.get("recipe"))
        return next(running, None) or (None if self.agent.trigger is None else self.agent.trigger.deadline_ms)

    # The worker thread.

    def request_encoding(self) -> None:
        """Has the feed encoded by the worker, unless it is about to: for a new part, or a new viewer of the last."""
        if self._work_due.is_set() or self._stop.is_set():
            return
        self._work_due.set()
        try:
            self.worker.submit(self._encode).add_done_callback(_log_failure)
        except RuntimeError:  # it was closed between the two
            log.debug("a part that came at the end is not shown")

    def _encode(self) -> None:
        self._work_due.clear()
        self.feed.encode(has_viewers=self.viewers.count > 0)
        self.good_parts.encode()
        self.viewers.notify()

    def _read_older(self) -> None:
        """Counts the running shift and shows the last rejects, as after a restart."""
        try:
            self.feed.add_older(self._older_rejects())
        except InputNotFoundError:
            return
        except LinesideError as error:
            log.error("what was recorded before this start is not shown: %s", error)
        self.viewers.notify()

    def _older_rejects(self) -> Iterator[tuple[ResultRow, UInt8Array | None, str]]:
        marks = {(mark.epoch, mark.seq): kind_of(mark.note) for mark in read_marks(self.agent.folder) if mark.wrong}
        found = rows(self.agent, RecordQuery(limit=OLDER_ROWS_MAX))
        shown = 0
        for count, (epoch, row) in enumerate(itertools.islice(found, OLDER_ROWS_MAX)):
            if count % OLDER_BATCH == OLDER_BATCH - 1 and self._stop.wait(OLDER_PAUSE_S):
                return
            is_over = row.captured_at_ns < self.shift.start_ns
            if row.captured_at_ns >= self._started_ns:
                continue
            self.shift.add(row, now_ns=self._started_ns)
            if row.verdict != "pass" and shown < REJECTS_MAX:
                shown += 1
                path = self.archive.find(row)
                yield row, None if path is None else cv2.imread(str(path)), marks.get((epoch, row.seq), "")
            if is_over and (shown >= REJECTS_MAX or count > 10 * OLDER_BATCH):
                return


def _log_failure(done: concurrent.futures.Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.error("a part is not shown", exc_info=error)


def _component(name: str, worst: Mapping[str, Any]) -> dict[str, str]:
    found = worst.get(name)
    if found is None:
        return {"name": name, "signal": "", "key": "", "detail": ""}
    return {"name": name, "signal": found.signal, "key": found.key, "detail": found.detail}
