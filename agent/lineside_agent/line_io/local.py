"""Triggers by a program on the same machine: a socket in the state folder, for ``lineside agent trigger`` and scripts.

One JSON object a line each way; a connection may bring many. The answer to a trigger is the part's verdict::

    {"do": "trigger", "part_id": "A-17"}  ->  {"number": 7, "part_id": "A-17", "verdict": "pass", "code": "PASS", ...}
    {"do": "reset"}, {"do": "challenge"}  ->  {"done": true}
    {"do": "recipe", "recipe": "B"}       ->  {"done": true} when it runs, or {"error": "…"}

On a line without triggers only a recipe can be asked for. Who may write to the socket may trigger: it is the agent's
user and group.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from lineside_agent.line_io.base import LinePort, Signal, defect_fields
from lineside_agent.line_io.events import ChallengeRequested, ResetPressed, SelectRecipe, Triggered
from lineside_agent.service.line_socket import LineServer, ask_line

log = logging.getLogger("lineside.line_io")

NAME = "line.sock"

LINE_MAX = 4096

ANSWER_S = 60.0
"""Longest wait for a verdict, which comes within the deadline unless the agent ends."""


class TriggerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request of a program.

    Attributes:
        part_id: Of the part in front of the camera.
        recipe: Of the product that follows.
    """

    do: Literal["trigger", "reset", "challenge", "recipe"]
    part_id: str = ""
    recipe: str = ""


class LocalPort(LinePort):
    """The socket.

    Args:
        path: Path of the socket; one that a killed agent has left is replaced.
        triggers: Whether the line triggers; otherwise only a recipe can be requested.
    """

    def __init__(self, path: Path, *, triggers: bool = True) -> None:
        super().__init__("local")
        self._triggers = triggers
        self._changed = threading.Condition()
        self._last_tag = 0
        self._answers: dict[int, Signal | None] = {}
        self._server = LineServer(path, TriggerRequest, self.ask, line_max=LINE_MAX)

    def signal(self, signal: Signal) -> bool:
        """Keeps the verdict for the program that triggered; no other program is told."""
        if signal.input == self.name:
            with self._changed:
                if signal.tag in self._answers:
                    self._answers[signal.tag] = signal
                    self.sent += 1
                    self._changed.notify_all()
        return True

    def ask(self, request: TriggerRequest) -> dict[str, Any]:
        """Carries out a request, and waits for the verdict."""
        if request.do == "recipe":
            return self._ask_for_recipe(request.recipe)
        if not self._triggers:
            return {"error": "this agent's configuration has no [trigger] table"}
        if request.do != "trigger":
            self._post_event(ResetPressed() if request.do == "reset" else ChallengeRequested())
            return {"done": True}
        with self._changed:
            self._last_tag += 1
            tag = self._last_tag
            self._answers[tag] = None
        self._post_event(Triggered(self.name, request.part_id, tag))
        with self._changed:
            self._changed.wait_for(lambda: self._answers[tag] is not None or self._closing.is_set(), ANSWER_S)
            signal = self._answers.pop(tag)
        return {"error": "no verdict: the agent ends"} if signal is None else _verdict(signal)

    def _ask_for_recipe(self, name: str) -> dict[str, Any]:
        errors: list[str] = []

        def answer(error: str) -> None:
            with self._changed:
                errors.append(error)
                self._changed.notify_all()

        self._post_event(SelectRecipe(name, self.name, answer))
        with self._changed:
            self._changed.wait_for(lambda: errors or self._closing.is_set(), ANSWER_S)
        if not errors:
            return {"error": "no answer: the agent ends, or its update takes long; `lineside agent status` says which"}
        return {"error": errors[0]} if errors[0] else {"done": True, "recipe": name}

    def _serve(self) -> None:
        self._server.run(self._opened)

    def _opened(self) -> None:
        self.connected = True

    def _send(self, signal: Signal) -> None:
        """Not used: `signal` answers the request."""

    def _close(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._server.close()


def ask(folder: Path, request: TriggerRequest, *, timeout_s: float = ANSWER_S) -> dict[str, Any]:
    """Sends a request to the agent with this state folder: the other end of the socket.

    Raises:
        InputNotFoundError: No agent listens there.
        RequestError: It can't do that, or has ended meanwhile.
    """
    action = "Start the agent with `lineside agent run`; its configuration needs a [trigger] or a [[recipe]] table."
    return ask_line(folder / NAME, msgspec.json.encode(request), action=action, timeout_s=timeout_s)


def _verdict(signal: Signal) -> dict[str, Any]:
    return {
        "number": signal.sequence,
        "part_id": signal.part_id,
        "verdict": signal.verdict,
        "code": signal.code.name,
        "took_ms": round(signal.took_ms, 3),
        "at_ns": time.time_ns(),
        **defect_fields(signal),
    }
