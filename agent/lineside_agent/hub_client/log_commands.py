"""Send the newest lines of the agent's log to the hub, when a person there asks for them."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable

from lineside_link.messages import LogAnswer, LogCommand, Problem, decode, encode
from lineside_runtime.errors import RequestError

LINES_MAX = 500

LINE_MAX = 500
"""Characters of a line; with `LINES_MAX` an answer fits into one message."""

log = logging.getLogger("lineside.agent")


class RecentLog(logging.Handler):
    """Keeps the newest `LINES_MAX` lines of the process's log in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._lines: collections.deque[str] = collections.deque(maxlen=LINES_MAX)

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.Handler.emit`."""
        try:
            lines = self.format(record).splitlines()
        except (TypeError, ValueError):  # arguments that do not fit the message
            self.handleError(record)
            return
        self._lines.extend(line[:LINE_MAX] for line in lines)

    def newest(self, lines: int) -> str:
        """Returns so many lines, oldest first."""
        return "\n".join(list(self._lines)[-min(max(lines, 1), LINES_MAX) :])


class LogCommands:
    """Answers each command; from any thread.

    Args:
        allowed: Whether ``agent.toml`` allows it to the hub.
        publish: Sends an answer; the hub repeats the command if the answer is lost.
    """

    def __init__(self, recent: RecentLog, *, allowed: bool, publish: Callable[[bytes], object]) -> None:
        self._recent, self._allowed, self._publish = recent, allowed, publish

    def received(self, _topic: str, payload: bytes) -> None:
        """Takes a command, and answers."""
        command = decode(payload, LogCommand)
        if self._allowed:
            self._publish(encode(LogAnswer(id=command.id, text=self._recent.newest(command.lines))))
            return
        text = "the hub may not read this device's log: log_for_hub = false in its agent.toml"
        log.warning("%s", text)
        problem = Problem(code=RequestError.code, error="RequestError", message=text)
        self._publish(encode(LogAnswer(id=command.id, error=problem)))
