"""`LineOutput`: the plug point of line protocols. A protocol that only signals verdicts implements ``_open``, ``_send``
and ``_close``.

A protocol with inputs of its own, or with levels, overrides `LineOutput.listen`, `LineOutput.show` and
`LineOutput.beat` as well; they are called where ``agent.toml`` has a ``[trigger]`` table, and do nothing by default.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from lineside_agent.line_io.events import NO_DEFECTS, Code, DefectSummary, Event, LineState, SelectRecipe, Verdict

log = logging.getLogger("lineside.line_io")

PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 30.0

Post = Callable[[Event | SelectRecipe, float], None]
"""Takes an event of a line's input, and its time on the monotonic clock. From any thread; returns at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    """Result of one part, for the line.

    Attributes:
        sequence: Number of the frame at its source; of the trigger, where the line triggers.
        verdict: ``fault`` means that the line must reject: the part was not inspected.
        input: Name of the line that triggered; empty where none does.
        tag: Number that this line gave its trigger; 0 for none.
        took_ms: From trigger to answer.
        deadline_s: On the monotonic clock: a pass after it counts as a fault; ``None`` without a deadline.
    """

    sequence: int
    part_id: str
    verdict: Verdict
    code: Code = Code.NONE
    input: str = ""
    tag: int = 0
    took_ms: float = 0.0
    deadline_s: float | None = None
    defects: DefectSummary = NO_DEFECTS


def defect_fields(signal: Signal) -> dict[str, str | int | float]:
    """Returns the defects as fields of a JSON object; ``defect`` is empty without defects."""
    found = signal.defects
    return {
        "defect": found.type,
        "defect_number": found.number,
        "defects": found.count,
        "score": round(found.score, 4),
        "camera": found.camera,
    }


class LineOutput(ABC):
    """Signals verdicts to the line.

    A line that cannot be reached costs at most the protocol's time-out once a pause; pauses grow from `PAUSE_MIN_S` to
    `PAUSE_MAX_S`. Signals in between are counted as missed: no pass in time means reject.

    Attributes:
        name: For logs and status; unique within an agent.
        problem: Why the last attempt failed; empty if it succeeded.
        polled_at_s: Last poll of the other end, on the monotonic clock; ``None`` before the first.
        is_polled: Whether the other end polls.
        waits: Whether sending can take time. Such a line gets a thread of its own where the line triggers, so that it
            delays neither the other lines nor their deadlines.
    """

    waits = True
    is_polled = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.problem = ""
        self.polled_at_s: float | None = None
        self.sent = 0
        self.missed = 0
        self._is_open = False
        self._pause_s = PAUSE_MIN_S
        self._retry_at_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the line can be reached, as far as is known."""
        return self._is_open

    def signal(self, signal: Signal) -> bool:
        """Signals a result within the protocol's time-out; returns whether it was sent. Never raises."""
        done = self._try(signal)
        self.sent += done
        self.missed += not done
        return done

    def status(self) -> dict[str, Any]:
        """Returns what ``status.json`` says of it."""
        is_open = self.is_open
        status: dict[str, Any] = {"name": self.name, "open": is_open, "sent": self.sent, "missed": self.missed}
        status["problem"] = None if is_open else self.problem or None
        if self.is_polled:
            polled_at_s = self.polled_at_s
            status["polled_s_ago"] = None if polled_at_s is None else round(time.monotonic() - polled_at_s, 1)
        return status

    def show(self, state: LineState) -> None:  # noqa: B027  # may stay as it is, and so may the next two
        """Sets the levels of the handshake, where the protocol has levels; never raises."""

    def beat(self) -> None:  # noqa: B027
        """Called ten times a second while the handshake runs, for protocols with a heartbeat."""

    def listen(self, post: Post) -> None:  # noqa: B027
        """Reads the line's inputs, where the protocol has inputs, in a thread of its own until `close`."""

    def _try(self, signal: Signal) -> bool:
        if not self._is_open and time.monotonic() < self._retry_at_s:
            return False
        try:
            if not self._is_open:
                self._open()
                self._is_open = True
                log.info("%s is open", self.name)
            self._send(signal)
        except OSError as error:
            self._lost(error)
            return False
        self._pause_s = PAUSE_MIN_S
        self.problem = ""
        return True

    def _lost(self, error: OSError) -> None:
        log.error("%s: %s; tried again in %.1f s, the line must reject meanwhile", self.name, error, self._pause_s)
        self.problem = str(error)
        self._disconnect()
        self._retry_at_s = time.monotonic() + self._pause_s
        self._pause_s = min(PAUSE_MAX_S, 2 * self._pause_s)

    def _disconnect(self) -> None:
        if self._is_open:
            self._is_open = False
            self._close()

    def close(self) -> None:
        """Ends the connection; a second call changes nothing."""
        self._disconnect()

    @abstractmethod
    def _open(self) -> None:
        """Connects; raises `OSError`."""

    @abstractmethod
    def _send(self, signal: Signal) -> None:
        """Sends one signal within the protocol's time-out; raises `OSError`."""

    @abstractmethod
    def _close(self) -> None:
        """Ends the connection; doesn't raise."""


class LinePort(LineOutput):
    """A line with a thread of its own, which connects and reads inputs; a protocol implements ``_serve``.

    The thread is started by `listen`, or by the first signal.

    Attributes:
        connected: Whether there is a connection; set by ``_serve``.
    """

    waits = False

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.connected = False
        self._closing = threading.Event()
        self._post: Post | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        """As `LineOutput.is_open`."""
        return self.connected

    def listen(self, post: Post) -> None:
        """As `LineOutput.listen`."""
        self._post = post
        self._start()

    def signal(self, signal: Signal) -> bool:
        """As `LineOutput.signal`; without a connection the signal is missed."""
        self._start()
        self._send(signal)
        done = self.connected
        self.sent += done
        self.missed += not done
        return done

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        self._close()
        if self._thread is not None:
            self._thread.join(5.0)

    def _post_event(self, event: Event | SelectRecipe, at_s: float | None = None) -> None:
        if self._post is not None:
            self._post(event, time.monotonic() if at_s is None else at_s)

    def _start(self) -> None:
        if self._thread is None and not self._closing.is_set():
            self._thread = threading.Thread(target=self._serve_until_closed, name=self.name, daemon=True)
            self._thread.start()

    def _serve_until_closed(self) -> None:
        pause_s = PAUSE_MIN_S
        while not self._closing.is_set():
            started_s = time.monotonic()
            try:
                self._serve()
            except OSError as error:
                stood = time.monotonic() - started_s > PAUSE_MAX_S
                pause_s = PAUSE_MIN_S if stood else pause_s
                self.problem = str(error)
                log.error("%s: %s; tried again in %.1f s, the line must reject meanwhile", self.name, error, pause_s)
            finally:
                self.connected = False
            self._closing.wait(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)

    @abstractmethod
    def _serve(self) -> None:
        """Connects and reads until ``_closing``; raises `OSError`."""

    def _open(self) -> None:
        """Not used: ``_serve`` connects."""

    def _close(self) -> None:
        """Wakes ``_serve``, if it does not check ``_closing`` often enough by itself."""
