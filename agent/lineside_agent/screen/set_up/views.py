"""`SetUpViews`: the cameras, region editors and the wizard of one screen."""

from __future__ import annotations

from lineside_agent.screen.set_up.access import SetUpAccess
from lineside_agent.screen.set_up.camera_view import CameraView
from lineside_agent.screen.set_up.learning_wizard import LearningWizard
from lineside_agent.screen.set_up.region_editor import RegionEditor
from lineside_agent.screen.state import ScreenState
from lineside_runtime.errors import InputNotFoundError


class SetUpViews:
    """What people with the role ``set_up`` see and change.

    Attributes:
        wizard: Learns good parts; ``None`` where ``learn`` is not set, and with several cameras.
    """

    def __init__(self, screen: ScreenState, access: SetUpAccess) -> None:
        agent = screen.agent
        several = len(agent.cameras) > 1
        self._views = tuple(CameraView(reader) for reader in access.readers)
        self._editors = tuple(
            RegionEditor(access, camera, several=several, has_hub=agent.link is not None) for camera in agent.cameras
        )
        self.wizard = LearningWizard(screen, access) if screen.config.learn and not several else None
        self.sources = tuple(reader.source for reader in access.readers)
        self.access = access

    def camera(self, index: int) -> CameraView:
        """Returns the view of a camera.

        Raises:
            InputNotFoundError: There is no such camera.
        """
        return self._views[self._checked(index)]

    def editor(self, index: int) -> RegionEditor:
        """Returns the editor of a camera's regions; as `camera`."""
        return self._editors[self._checked(index)]

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self._views):
            raise InputNotFoundError("there is no such camera", action="")
        return index

    def close(self) -> None:
        """Ends learning."""
        if self.wizard is not None:
            self.wizard.close()
