"""`LineOutput`: the plug point. A protocol writes ``_open``, ``_send`` and ``_close``."""

from __future__ import annotations

import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from typing import Literal

log = logging.getLogger("lineside.line_io")

PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    """What the line is told about one part.

    Attributes:
        sequence: Number of the frame at its source.
        part_id: The inspected part.
        verdict: ``fault`` means that the line must reject: nobody has judged the part.
    """

    sequence: int
    part_id: str
    verdict: Literal["pass", "reject", "fault"]


class LineOutput(ABC):
    """Signals verdicts to the line.

    A line that can't be reached costs at most the protocol's time-out once a pause, and pauses grow from
    `PAUSE_MIN_S` to `PAUSE_MAX_S`. Signals in between are counted as missed: no pass in time means reject.

    Attributes:
        name: For logs and status.
        sent: Signals that went out.
        missed: Signals that did not.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent = 0
        self.missed = 0
        self._is_open = False
        self._pause_s = PAUSE_MIN_S
        self._retry_at_s = 0.0

    def signal(self, signal: Signal) -> bool:
        """Tells the line; never raises and never waits longer than the protocol's time-out.

        Args:
            signal: What to tell.

        Returns:
            Whether it went out.
        """
        done = self._try(signal)
        self.sent += done
        self.missed += not done
        return done

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
        return True

    def _lost(self, error: OSError) -> None:
        log.error("%s: %s; tried again in %.1f s, the line must reject meanwhile", self.name, error, self._pause_s)
        self.close()
        self._retry_at_s = time.monotonic() + self._pause_s
        self._pause_s = min(PAUSE_MAX_S, 2 * self._pause_s)

    def close(self) -> None:
        """Ends the connection; done twice it changes nothing."""
        if self._is_open:
            self._is_open = False
            self._close()

    @abstractmethod
    def _open(self) -> None:
        """Connects; raises `OSError`."""

    @abstractmethod
    def _send(self, signal: Signal) -> None:
        """Sends one signal within the protocol's time-out; raises `OSError`."""

    @abstractmethod
    def _close(self) -> None:
        """Ends the connection; doesn't raise."""
