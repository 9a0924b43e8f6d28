"""Fetch, time and delete a bundle that the hub wants timed, while the active one keeps running.

As with recipes (ADR 0017) a command is said again until it is done, and carried out once; each time it is said, the
device tells how far it is. One command at a time.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_agent.config import InspectConfig
from lineside_agent.deployment.artifacts.bundle import Bring
from lineside_agent.deployment.runner import FOREIGN, ShouldStop, as_problem
from lineside_agent.inspection.variant_timing import time_in_child
from lineside_link.messages import TimeAnswer, TimeCommand, decode, encode
from lineside_link.transfer.pull_window import FetchStopped
from lineside_runtime.errors import DeviceBusyError, LinesideError, TimingError

FOLDER = "trial"
ROUNDS_MAX = 100
_LOOK_S = 0.2

log = logging.getLogger("lineside.agent")


class TimeCommands:
    """Answers from any thread; works in the one that calls `run`.

    Args:
        folder: The agent's; a folder in it holds the bundle meanwhile.
        allowed: Whether ``agent.toml`` lets the hub do that.
        board: What this device is, for people.
        inspect: The ``[inspect]`` table, under which a bundle would run here.
        bring: Fetches a bundle, as `lineside_agent.deployment.fetch.Fetcher.bring_trial`.
        publish: Sends an answer; what gets lost is asked for again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allowed: bool,
        board: str,
        inspect: InspectConfig,
        bring: Bring,
        publish: Callable[[bytes], object],
    ) -> None:
        self._place = folder / FOLDER
        self._allowed, self._board, self._inspect = allowed, board, inspect
        self._bring, self._publish = bring, publish
        self._asked: queue.Queue[TimeCommand] = queue.Queue()
        self._lock = threading.Lock()
        self._answer = TimeAnswer(id="", state="done")

    def received(self, _topic: str, payload: bytes) -> None:
        """Takes a command, and answers.

        Args:
            payload: A `TimeCommand`.

        Raises:
            BadInputFormatError: It is none.
        """
        asked = decode(payload, TimeCommand)
        with self._lock:
            answer = self._answer if asked.id == self._answer.id else self._first(asked)
        self._publish(encode(answer))

    def run(self, stop: threading.Event, inspected: Callable[[], int]) -> None:
        """Carries commands out until stopped.

        Args:
            stop: Ends it, also within a command.
            inspected: Returns how many frames were judged since the start.
        """
        self._tidy()  # what a kill has left
        while not stop.is_set():
            try:
                asked = self._asked.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            try:
                self._carry_out(asked, stop.is_set, inspected)
            except FetchStopped:
                return
            except (LinesideError, *FOREIGN) as error:
                log.error("timing for the hub: %s", error)
                self._tell(state="failed", error=as_problem(error))
            finally:
                self._tidy()

    def _first(self, asked: TimeCommand) -> TimeAnswer:
        """The answer to a command that wasn't heard before; one that is taken becomes the answer from now on."""
        answer = TimeAnswer(id=asked.id, state="ready", board=self._board)
        if not self._allowed:
            error: LinesideError = TimingError(
                "the hub may not have bundles timed on this device",
                action="Set time_for_hub = true in its agent.toml: a board on a bench, or a line with cores to spare.",
            )
        elif self._answer.state in ("fetching", "timing"):
            error = DeviceBusyError("another bundle is being timed here", action="Ask again in a few minutes.")
        elif asked.bundle is None:
            return answer
        else:
            self._answer = msgspec.structs.replace(answer, state="fetching")
            self._asked.put(asked)
            return self._answer
        log.warning("the hub's request to time a bundle is refused: %s", error.message)
        return msgspec.structs.replace(answer, state="failed", error=as_problem(error))

    def _carry_out(self, asked: TimeCommand, should_stop: ShouldStop, inspected: Callable[[], int]) -> None:
        if asked.bundle is None:
            return
        log.info("timing %s for the hub", asked.bundle.identity)
        before, rounds = inspected(), min(max(asked.rounds, 1), ROUNDS_MAX)
        self._place.mkdir()
        self._bring(asked.bundle, self._place, self._note_progress, should_stop)
        self._tell(state="timing", progress=1.0)
        times = time_in_child(self._place, self._inspect, rounds, asked.shapes, should_stop)
        self._tell(state="done", variants=times, inspected=inspected() - before)

    def _note_progress(self, done: int, total: int) -> None:
        with self._lock:
            self._answer = msgspec.structs.replace(self._answer, progress=done / total if total else 1.0)

    def _tell(self, **changes: object) -> None:
        with self._lock:
            self._answer = answer = msgspec.structs.replace(self._answer, **changes)
        self._publish(encode(answer))

    def _tidy(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
