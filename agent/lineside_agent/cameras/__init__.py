"""Cameras, one kind a file. A kind is imported when the configuration names it.

A package of somebody else's adds one by an entry point in the group `ENTRY_POINTS` that names a callable
``(name: str, options: dict) -> Camera``; the configuration names it with ``type = "plugin"`` and ``kind``.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from lineside_agent import config as settings
from lineside_agent.cameras.base import Camera, EncodedFrame, Given, Grab, LiveCamera, LostFrame, Shot, opened
from lineside_runtime.errors import ConfigError

__all__ = ["Camera", "EncodedFrame", "Given", "Grab", "LiveCamera", "LostFrame", "Shot", "open_camera", "opened"]

ENTRY_POINTS = "lineside.cameras"


def open_camera(config: settings.CameraConfig, *, state: Path | None = None) -> Camera:
    """Makes the camera that the configuration describes; it is opened when its frames are asked for.

    Args:
        config: The ``[camera]`` table.
        state: Folder for what a kind must know over restarts; ``None`` to keep nothing.

    Raises:
        ConfigError: No installed package has this kind of camera, or it refuses its options.
    """
    if isinstance(config, settings.FolderCameraConfig):
        from lineside_agent.cameras.folder import FolderCamera

        return FolderCamera(config.path, name=config.name, loop=config.loop, state=state)
    if isinstance(config, settings.VideoCameraConfig):
        from lineside_agent.cameras.opencv import VideoCamera

        return VideoCamera(config.path, name=config.name, loop=config.loop)
    if isinstance(config, settings.SimulatorCameraConfig):
        from lineside_agent.cameras.simulator import SimulatorCamera

        return SimulatorCamera(config.seed, name=config.name, kinds=config.kinds)
    return _plugin(config) if isinstance(config, settings.PluginCameraConfig) else _live(config)


def _live(
    config: settings.V4l2CameraConfig
    | settings.RtspCameraConfig
    | settings.AravisCameraConfig
    | settings.Picamera2CameraConfig,
) -> Camera:
    if isinstance(config, settings.V4l2CameraConfig):
        from lineside_agent.cameras.opencv import V4l2Camera

        return V4l2Camera(config)
    if isinstance(config, settings.RtspCameraConfig):
        from lineside_agent.cameras.rtsp import RtspCamera

        return RtspCamera(config)
    if isinstance(config, settings.AravisCameraConfig):
        from lineside_agent.cameras.aravis import AravisCamera

        return AravisCamera(config)
    from lineside_agent.cameras.picamera2 import Picamera2Camera

    return Picamera2Camera(config)


def plugins() -> dict[str, importlib.metadata.EntryPoint]:
    """Returns the kinds of camera of other packages, by name."""
    return {found.name: found for found in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _plugin(config: settings.PluginCameraConfig) -> Camera:
    known = plugins()
    if config.kind not in known:
        expected = ", ".join(sorted(known)) or "an installed package with such an entry point"
        raise ConfigError(f"$.camera.kind: no package has {config.kind!r}", expected=expected)
    try:
        camera = known[config.kind].load()(config.name, config.options)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"camera {config.kind!r}: {error}", action="Its package says what it needs.") from error
    if not isinstance(camera, Camera):
        raise ConfigError(f"camera {config.kind!r}", expected="a lineside_agent.cameras.Camera", actual=type(camera))
    return camera
