"""The kinds of camera. A new kind is a file with its class, its table in `lineside_agent.config.cameras`, and one entry
of `KINDS`.

Another package adds a kind by an entry point in the group `ENTRY_POINTS` that names a callable
``(name: str, options: dict) -> Camera``; the configuration names it with ``type = "plugin"`` and ``kind``.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lineside_agent.cameras import aravis, opencv, picamera2
from lineside_agent.cameras.base import Camera, FoundCamera
from lineside_agent.cameras.folder import FolderCamera
from lineside_agent.cameras.no_camera import NoCamera
from lineside_agent.cameras.rtsp import RtspCamera
from lineside_agent.config.cameras import (
    AravisCameraConfig,
    BaseCameraConfig,
    CameraConfig,
    FolderCameraConfig,
    NoCameraConfig,
    Picamera2CameraConfig,
    PluginCameraConfig,
    RtspCameraConfig,
    SimulatorCameraConfig,
    V4l2CameraConfig,
    VideoCameraConfig,
)
from lineside_runtime.errors import ConfigError

ENTRY_POINTS = "lineside.cameras"


@dataclasses.dataclass(frozen=True, slots=True)
class CameraKind:
    """One kind of camera.

    Attributes:
        config: The ``[camera]`` table. Its tag is the ``type`` in ``agent.toml``, its docstring the help.
        open: Makes the camera from its table and the folder for state that must survive a restart (``None``: none).
        find: Lists the cameras of this kind on this machine and its network; empty for a kind that cannot be found.
    """

    config: type[BaseCameraConfig]
    open: Callable[[Any, Path | None], Camera]
    find: Callable[[], list[FoundCamera]] = list


def open_camera(config: CameraConfig, *, state: Path | None = None) -> Camera:
    """Makes the camera that the configuration describes; it is opened when its frames are read.

    Args:
        state: Folder for what a kind must know after a restart; ``None`` to keep nothing.

    Raises:
        ConfigError: The kind is unknown, or it refuses its options.
    """
    kind = next((kind for kind in KINDS if kind.config is type(config)), None)
    if kind is None:
        expected = ", ".join(kind.config.type_name() for kind in KINDS)
        raise ConfigError(f"$.camera.type: no camera for {type(config).__name__}", expected=expected)
    return kind.open(config, state)


def find_cameras() -> list[FoundCamera]:
    """Lists the cameras on this machine and its network; RTSP cameras do not announce themselves."""
    return [found for kind in KINDS for found in kind.find()]


def plugins() -> dict[str, importlib.metadata.EntryPoint]:
    """Returns the kinds of camera of other packages, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _open_simulator(config: SimulatorCameraConfig, _: Path | None) -> Camera:
    from lineside_agent.cameras.simulator import SimulatorCamera  # drawing needs modules that a line does not

    return SimulatorCamera(config.seed, name=config.name, kinds=config.kinds)


def _open_plugin(config: PluginCameraConfig, _: Path | None) -> Camera:
    known = plugins()
    if config.kind not in known:
        expected = ", ".join(sorted(known)) or "an installed package with such an entry point"
        raise ConfigError(f"$.camera.kind: no package has {config.kind!r}", expected=expected)
    try:
        camera = known[config.kind].load()(config.name, config.options)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"camera {config.kind!r}: {error}", action="See the documentation of its package.") from error
    if not isinstance(camera, Camera):
        raise ConfigError(f"camera {config.kind!r}", expected="a lineside_agent.cameras.Camera", actual=type(camera))
    return camera


def _find_plugins() -> list[FoundCamera]:
    return [FoundCamera("plugin", f'kind = "{name}"', point.value) for name, point in sorted(plugins().items())]


KINDS = (
    CameraKind(
        FolderCameraConfig,
        lambda config, state: FolderCamera(config.path, name=config.name, loop=config.loop, state=state),
    ),
    CameraKind(
        VideoCameraConfig, lambda config, _: opencv.VideoCamera(config.path, name=config.name, loop=config.loop)
    ),
    CameraKind(SimulatorCameraConfig, _open_simulator),
    CameraKind(V4l2CameraConfig, lambda config, _: opencv.V4l2Camera(config), opencv.find_v4l2),
    CameraKind(RtspCameraConfig, lambda config, _: RtspCamera(config)),
    CameraKind(AravisCameraConfig, lambda config, _: aravis.AravisCamera(config), aravis.find),
    CameraKind(Picamera2CameraConfig, lambda config, _: picamera2.Picamera2Camera(config), picamera2.find),
    CameraKind(PluginCameraConfig, _open_plugin, _find_plugins),
    CameraKind(NoCameraConfig, lambda config, _: NoCamera(name=config.name)),
)
