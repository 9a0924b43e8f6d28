"""Apply a recipe's settings of cameras and line.

The parts under way end first, then the cameras are set.
"""

from __future__ import annotations

from collections.abc import Callable

from lineside_agent.cameras.camera_group import CameraGroup
from lineside_agent.cameras.child import OPEN_TIMEOUT_S
from lineside_runtime.errors import RecipeError


class Changeover:
    """Prepares the line for the recipe that was chosen.

    Args:
        rig: The cameras.
        wait_idle: Waits until no part is under way; false if the agent stops meanwhile.
    """

    def __init__(self, rig: CameraGroup, *, wait_idle: Callable[[], bool]) -> None:
        self._rig = rig
        self._wait_idle = wait_idle

    def prepare(self) -> None:
        """Waits for the parts under way, and has the cameras see as the chosen recipe says.

        Raises:
            RecipeError: The agent stops.
            CameraError: A camera shows nothing with these settings.
        """
        if not self._wait_idle():
            raise RecipeError("the agent stops", action="The recipe that was asked for runs after its next start.")
        self._rig.follow_recipe(OPEN_TIMEOUT_S)
