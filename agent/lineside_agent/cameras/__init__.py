"""Cameras, one kind a file. A kind is imported when the configuration names it."""

from __future__ import annotations

from lineside_agent import config as settings
from lineside_agent.cameras.base import Camera, LostFrame, Shot

__all__ = ["Camera", "LostFrame", "Shot", "open_camera"]


def open_camera(config: settings.CameraConfig) -> Camera:
    """Makes the camera that the configuration describes; it is opened when its frames are asked for.

    Args:
        config: The ``[camera]`` table.
    """
    if isinstance(config, settings.FolderCamera):
        from lineside_agent.cameras.folder import FolderCamera

        return FolderCamera(config.path, name=config.name, loop=config.loop)
    if isinstance(config, settings.VideoCamera):
        from lineside_agent.cameras.opencv import VideoCamera

        return VideoCamera(config.path, name=config.name, loop=config.loop)
    if isinstance(config, settings.V4l2Camera):
        from lineside_agent.cameras.opencv import V4l2Camera

        size = (config.height, config.width) if config.height and config.width else None
        return V4l2Camera(config.index, name=config.name, size=size)
    from lineside_agent.cameras.simulator import SimulatorCamera

    return SimulatorCamera(config.seed, name=config.name, kinds=config.kinds)
