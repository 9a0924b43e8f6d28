"""Fetch, time and delete a bundle for the hub, while the active one keeps running.

As with recipes (ADR 0017) the hub repeats a command until it is done, and the device carries it out once; each
repetition is answered with the progress. One command at a time.
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
from lineside_agent.deployment.artifacts.bundle import FetchBundle
from lineside_agent.deployment.runner import FOREIGN, ShouldStop, as_problem
from lineside_agent.inspection.variant_timing import time_in_child
from lineside_link.messages import TimeAnswer, TimeCommand, decode, encode
from lineside_link.transfer.pull_window import FetchStopped
from lineside_runtime.errors import DeviceBusyError, LinesideError, TimingError

FOLDER = "trial"
ROUNDS_MAX = 100
_POLL_S = 0.2

log = logging.getLogger("lineside.agent")


class TimeCommands:
    """Answers from any thread; works in the one that calls `run`.

    Args:
        folder: The agent's; a folder in it holds the bundle.
        allowed: Whether ``agent.toml`` allows it to the hub.
        board: Model of this device, for people.
        inspect: The ``[inspect]`` table, under which a bundle would run here.
        fetch: Fetches a bundle: `lineside_agent.deployment.fetch.Fetcher.fetch_trial`.
        publish: Sends an answer; the hub repeats the command if the answer is lost.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allowed: bool,
        board: str,
        inspect: InspectConfig,
        fetch: FetchBundle,
        publish: Callable[[bytes], object],
    ) -> None:
        self._folder = folder / FOLDER
        self._allowed, self._board, self._inspect = allowed, board, inspect
        self._fetch, self._publish = fetch, publish
        self._queue: queue.Queue[TimeCommand] = queue.Queue()
        self._lock = threading.Lock()
        self._answer = TimeAnswer(id="", state="done")

    def received(self, _topic: str, payload: bytes) -> None:
        """Takes a command, and answers."""
        command = decode(payload, TimeCommand)
        with self._lock:
            answer = self._answer if command.id == self._answer.id else self._first_answer(command)
        self._publish(encode(answer))

    def run(self, stop: threading.Event, inspected: Callable[[], int]) -> None:
        """Carries commands out until stopped; ``inspected`` returns the number of inspected frames."""
        self._delete_bundle()  # what a kill has left
        while not stop.is_set():
            try:
                command = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            try:
                self._carry_out(command, stop.is_set, inspected)
            except FetchStopped:
                return
            except (LinesideError, *FOREIGN) as error:
                log.error("timing for the hub: %s", error)
                self._update(state="failed", error=as_problem(error))
            finally:
                self._delete_bundle()

    def _first_answer(self, command: TimeCommand) -> TimeAnswer:
        """Returns the answer to a new command; one that is accepted becomes the current one."""
        answer = TimeAnswer(id=command.id, state="ready", board=self._board)
        if not self._allowed:
            error: LinesideError = TimingError(
                "the hub may not have bundles timed on this device",
                action="Set time_for_hub = true in its agent.toml: a board on a bench, or a line with cores to spare.",
            )
        elif self._answer.state in ("fetching", "timing"):
            error = DeviceBusyError("another bundle is being timed here", action="Ask again in a few minutes.")
        elif command.bundle is None:
            return answer
        else:
            self._answer = msgspec.structs.replace(answer, state="fetching")
            self._queue.put(command)
            return self._answer
        log.warning("the hub's request to time a bundle is refused: %s", error.message)
        return msgspec.structs.replace(answer, state="failed", error=as_problem(error))

    def _carry_out(self, command: TimeCommand, should_stop: ShouldStop, inspected: Callable[[], int]) -> None:
        if command.bundle is None:
            return
        log.info("timing %s for the hub", command.bundle.identity)
        before, rounds = inspected(), min(max(command.rounds, 1), ROUNDS_MAX)
        self._folder.mkdir()
        self._fetch(command.bundle, self._folder, self._note_progress, should_stop)
        self._update(state="timing", progress=1.0)
        times = time_in_child(self._folder, self._inspect, rounds, command.shapes, should_stop)
        self._update(state="done", variants=times, inspected=inspected() - before)

    def _note_progress(self, done: int, total: int) -> None:
        with self._lock:
            self._answer = msgspec.structs.replace(self._answer, progress=done / total if total else 1.0)

    def _update(self, **changes: object) -> None:
        with self._lock:
            self._answer = answer = msgspec.structs.replace(self._answer, **changes)
        self._publish(encode(answer))

    def _delete_bundle(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
