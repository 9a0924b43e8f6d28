"""Carry out the hub's recipe commands, each once, and answer every repetition."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lineside_agent.inspection.recipes import Recipes
from lineside_agent.line_io.events import SelectRecipe
from lineside_link.messages import Problem, RecipeAnswer, RecipeCommand, decode, encode
from lineside_runtime.errors import RecipeError

log = logging.getLogger("lineside.agent")


COMMANDS_MAX = 1000
"""Commands that are remembered, so that a recorded one that is sent again is not carried out again."""


class RecipeCommands:
    """Carries out each command once, also if it is repeated after later ones; from any thread.

    Args:
        allowed: Whether ``agent.toml`` allows it to the hub.
        publish: Sends an answer; the hub repeats the command if the answer is lost.
    """

    def __init__(self, recipes: Recipes, *, allowed: bool, publish: Callable[[bytes], object]) -> None:
        self._recipes = recipes
        self._allowed = allowed
        self._publish = publish
        self._lock = threading.Lock()
        self._answers: dict[str, RecipeAnswer | None] = {}

    def received(self, _topic: str, payload: bytes) -> None:
        """Takes a command."""
        command = decode(payload, RecipeCommand)
        with self._lock:
            known, answer = command.id in self._answers, self._answers.get(command.id)
            if not known:
                self._answers[command.id] = None
            while len(self._answers) > COMMANDS_MAX:
                del self._answers[next(iter(self._answers))]
        if known and answer is not None:
            self._publish(encode(answer))
        elif not known:
            self._carry_out(command)

    def _carry_out(self, command: RecipeCommand) -> None:
        if not self._allowed:
            error = RecipeError(
                "the hub may not change this device's recipe",
                action="Set recipe_from_hub = true in its agent.toml, where the line's own control need not be asked.",
            )
            log.warning("recipe %s, requested by the hub, is refused: %s", command.recipe, error.message)
            self._done(command.id, str(error))
            return
        answer = SelectRecipe(command.recipe, "the hub", lambda error: self._done(command.id, error))
        self._recipes.select(answer)

    def _done(self, command: str, error: str) -> None:
        problem = Problem(code=RecipeError.code, error="RecipeError", message=error) if error else None
        answer = RecipeAnswer(id=command, recipe=self._recipes.name, error=problem)
        with self._lock:
            if command in self._answers:
                self._answers[command] = answer
        self._publish(encode(answer))
