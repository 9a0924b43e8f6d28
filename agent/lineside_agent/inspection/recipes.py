"""Which recipe is active, which one is requested, and what the line is told about it.

::

    request ─► Ready drops ─► loaded beside the old one ─► parts under way are answered ─► cameras ─► swap ─► Ready
                 └─ by the next trigger                             └─ the choice is written to disk before

- A recipe changes between two parts, never within one. Parts that were triggered before the request are inspected by
  the old recipe; those that are triggered meanwhile are rejected, ``NOT_READY``.
- A recipe that cannot run leaves the old one loaded. A program that requested it gets the reason. A line cannot be
  answered, so it is at fault (``RECIPE``) and not Ready, until it requests a recipe that runs or the operator resets:
  parts of the new product must not be passed by the rules of the old one.
- The choice is written to ``recipe.json`` before the recipe runs, and the next start begins with it.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lineside_agent.config import CameraConfig, InspectConfig, RecipeConfig, camera_of, inspect_of
from lineside_agent.line_io.events import CHANGING_OVER, RecipeRefused, RecipeRuns, SelectRecipe
from lineside_agent.storage.state_file import read_state, write_state
from lineside_runtime.errors import LinesideError, RecipeError, StoreError

log = logging.getLogger("lineside.recipe")

NAME = "recipe.json"

Tell = Callable[[RecipeRuns | RecipeRefused], None]


class RecipeChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The choice on disk."""

    recipe: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RecipeRequest:
    """A recipe that is to run.

    Attributes:
        selection: Who requested it, and who is answered.
    """

    recipe: RecipeConfig
    selection: SelectRecipe


class Recipes:
    """The recipes of one agent; from any thread.

    Attributes:
        current: The recipe that runs, or is loaded next; ``None`` on a line without recipes.
        problem: Why no part may come; empty if one may.
        error: Why the last recipe that the line requested does not run; empty if it does.
        changeovers: Changes of the recipe since the start.
    """

    def __init__(self, folder: Path, configured: Sequence[RecipeConfig] = ()) -> None:
        self.problem = ""
        self.error = ""
        self.changeovers = 0
        self._path = folder / NAME
        self._configured = tuple(configured)
        self._lock = threading.Lock()
        self._request: RecipeRequest | None = None
        self._later_refusal = ""  # of a line's request that came while another recipe is loaded
        self._wake: Callable[[], None] = lambda: None
        self._tell: Tell = lambda _: None
        self.current = self._first()

    def _first(self) -> RecipeConfig | None:
        if not self._configured:
            return None
        chosen = read_state(self._path, RecipeChoice)
        if chosen is None or not chosen.recipe:
            return self._configured[0]
        try:
            return self.find(chosen.recipe)
        except RecipeError as error:
            self.error = f"it was chosen before this start: {error}"
            log.error("the recipe that was chosen is not configured any more, %s runs", self._configured[0].name)
            return self._configured[0]

    @property
    def name(self) -> str:
        """Name of the current recipe; empty without one."""
        return "" if self.current is None else self.current.name

    @property
    def bundle(self) -> Path | None:
        """Bundle folder of the current recipe; ``None`` for the installed bundle."""
        return None if self.current is None else self.current.bundle

    @property
    def is_requested(self) -> bool:
        """Whether a recipe is requested and not begun."""
        return self._request is not None

    def attach(self, *, wake: Callable[[], None], tell: Tell) -> None:
        """Sets what a request calls (``wake``) and what tells the line (``tell``, called at once)."""
        self._wake, self._tell = wake, tell
        if self.current is not None:
            tell(self._running_event(self.current))
        if self.error:
            tell(RecipeRefused(self.error))

    def find(self, recipe: str | int) -> RecipeConfig:
        """Returns a recipe by its name or its number."""
        for index, found in enumerate(self._configured, 1):
            if recipe == found.name or recipe == (found.number or index):
                return found
        known = ", ".join(f"{found.name} ({found.number or index})" for index, found in enumerate(self._configured, 1))
        raise RecipeError(f"there is no recipe {recipe!r}", expected=known or "a [[recipe]] table in agent.toml")

    def apply_to(self, inspect: InspectConfig) -> InspectConfig:
        """Returns the ``[inspect]`` table with the settings of the current recipe."""
        return inspect if self.current is None else inspect_of(inspect, self.current)

    def apply_to_camera(self, camera: CameraConfig) -> CameraConfig:
        """Returns a camera's table with the settings of the current recipe."""
        return camera if self.current is None else camera_of(camera, self.current)

    def select(self, selection: SelectRecipe) -> None:
        """Takes a request and returns at once; from then on no part may come until it is fulfilled or refused."""
        try:
            recipe = self.find(selection.recipe)
        except RecipeError as error:
            with self._lock:
                if selection.answer is None:
                    self._later_refusal = _text(error)
            self._tell_refused(selection, error)
            _answer(selection, _text(error))
            return
        with self._lock:
            self._later_refusal = ""
            replaced = self._request
            done = recipe is self.current and not self.problem
            if not done:
                self._request = RecipeRequest(recipe, selection)
                self.problem = f"{CHANGING_OVER} {recipe.name}"
        if replaced is not None:
            _answer(replaced.selection, f"recipe {recipe.name} was requested instead")
        if done:
            self._tell_running(recipe)
            _answer(selection, "")
        else:
            log.info("recipe %s is requested by %s", recipe.name, selection.input)
            self._wake()

    def begin(self) -> RecipeRequest | None:
        """Takes the request, if there is one, to carry it out; `done` or `failed` must follow."""
        with self._lock:
            request, self._request = self._request, None
            return request

    def choose(self, recipe: RecipeConfig | None) -> None:
        """Writes the recipe to disk and makes it the current one; ``None`` changes nothing.

        Raises:
            StoreError: It can't be written; nothing has changed.
        """
        if recipe is None:
            return
        try:
            write_state(self._path, RecipeChoice(recipe=recipe.name))
        except OSError as error:
            raise StoreError(f"{self._path} can't be written: {error}") from error
        self.current = recipe

    def done(self, request: RecipeRequest, started_s: float) -> None:
        """Ends a request whose recipe runs."""
        self.changeovers += 1
        log.info("recipe %s runs, after %.2f s", request.recipe.name, time.monotonic() - started_s)
        self._tell_running(request.recipe)
        self._end()
        _answer(request.selection, "")

    def failed(self, request: RecipeRequest, error: Exception) -> None:
        """Ends a request whose recipe cannot run; the one before it goes on."""
        self._tell_refused(request.selection, error)
        self._end()
        _answer(request.selection, _text(error))

    def failed_at_start(self, error: Exception) -> None:
        """Takes the error of the chosen recipe at the start: nothing runs until another one is requested."""
        self.error = _text(error)
        self.problem = f"recipe {self.name} can't run: {self.error}"
        log.error("%s", self.problem)

    def _end(self) -> None:
        """Lets parts come again, after the line was told: the next part has this recipe's gate and deadline."""
        with self._lock:
            self.problem = "" if self._request is None else f"{CHANGING_OVER} {self._request.recipe.name}"

    def _tell_running(self, recipe: RecipeConfig) -> None:
        with self._lock:
            self.error, self._later_refusal = self._later_refusal, ""
        self._tell(self._running_event(recipe))
        if self.error:  # the product that comes is the one that the line requested last
            self._tell(RecipeRefused(self.error))

    def _tell_refused(self, selection: SelectRecipe, error: Exception) -> None:
        text = _text(error)
        log.error(
            "recipe %s, requested by %s, is refused, %s goes on: %s",
            selection.recipe,
            selection.input,
            self.name or "what ran before",
            text,
        )
        if selection.answer is None:
            self.error = text
            self._tell(RecipeRefused(text))

    def _running_event(self, recipe: RecipeConfig) -> RecipeRuns:
        gate = recipe.gate
        delay_s = None if gate is None or gate.delay_ms is None else gate.delay_ms / 1000
        number = recipe.number or self._configured.index(recipe) + 1
        deadline_ms = recipe.trigger.deadline_ms
        return RecipeRuns(
            recipe.name,
            number,
            delay_s,
            None if gate is None else gate.counts,
            None if deadline_ms is None else deadline_ms / 1000,
        )

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of the recipes."""
        return {
            "recipe": self.name or None,
            "recipes": [recipe.name for recipe in self._configured],
            "recipe_problem": self.problem or self.error or None,
            "changeovers": self.changeovers,
        }


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, LinesideError) else f"{type(error).__name__}: {error}"


def _answer(selection: SelectRecipe, error: str) -> None:
    if selection.answer is not None:
        selection.answer(error)
