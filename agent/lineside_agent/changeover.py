"""`Changeover`: what of the line follows a recipe beside the bundle.

The parts under way end first, then the camera is set.
"""

from __future__ import annotations

from collections.abc import Callable

from lineside_agent.cameras import open_camera
from lineside_agent.cameras.child import OPEN_TIMEOUT_S
from lineside_agent.config import AgentConfig, CameraConfig
from lineside_agent.reader import Reader
from lineside_agent.recipes import Recipes
from lineside_runtime.errors import RecipeError


class Changeover:
    """Prepares the line for the recipe that was chosen.

    Args:
        config: Of the agent.
        recipes: Say how the camera is to see.
        reader: Of the camera.
        wait_idle: Waits until no part is under way; false if the agent stops meanwhile.
    """

    def __init__(self, config: AgentConfig, recipes: Recipes, reader: Reader, *, wait_idle: Callable[[], bool]) -> None:
        self._config = config
        self._recipes = recipes
        self._reader = reader
        self._wait_idle = wait_idle
        self._set: CameraConfig = recipes.camera(config.camera)

    def prepare(self) -> None:
        """Waits for the parts under way, and has the camera see as the chosen recipe says.

        Raises:
            RecipeError: The agent stops.
            CameraError: The camera shows nothing with these settings.
        """
        if not self._wait_idle():
            raise RecipeError("the agent stops", action="The recipe that was asked for runs after its next start.")
        wanted = self._recipes.camera(self._config.camera)
        if wanted != self._set:
            self._set = wanted
            self._reader.exchange(open_camera(wanted, state=self._config.folder), OPEN_TIMEOUT_S)
