"""``[camera]``: where frames come from, one struct a kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from lineside_agent.config.value_types import ConfigTable, Count, FilePath, Natural, Positive


class BaseCameraConfig(ConfigTable, frozen=True, kw_only=True):
    """Settings of every camera.

    Attributes:
        name: Name of the camera in records and results; empty for its own description. The agent goes on after the
            last record of this name, so another name begins from the start.
        rate_hz: Frames a second at most; unset: as fast as they come.
        frames: Number of frames after which the source ends; unset: no end.
        queue: Frames that may wait for the engine; of a source that waits itself (folder, video, simulator) one more
            than there are workers is enough.
        inspect: With several cameras, what counts as a defect in this camera's images (thresholds, regions, sizes).
            Its keys replace those of ``[inspect]`` and of the recipe.
    """

    name: str = ""
    rate_hz: Positive | None = None
    frames: Count | None = None
    queue: Count = 8
    inspect: dict[str, Any] = msgspec.field(default_factory=dict)

    is_board_camera: ClassVar[bool] = False
    """Whether the kernel or the board must show the camera, so that a board without one is at fault."""

    @classmethod
    def type_name(cls) -> str:
        """Returns the ``type`` that names this kind in ``agent.toml``."""
        return str(cls.__struct_config__.tag)

    def missing_path(self) -> Path | None:
        """Returns the file or folder that the camera reads, if it is not there."""
        return None


class FolderCameraConfig(BaseCameraConfig, frozen=True, kw_only=True, tag="folder", tag_field="type"):
    """The image files of a folder, by name.

    Attributes:
        path: Folder with the image files.
        loop: Whether the first image follows the last.
    """

    path: FilePath
    loop: bool = False

    def missing_path(self) -> Path | None:
        """As `BaseCameraConfig.missing_path`."""
        return None if self.path.is_dir() else self.path


class VideoCameraConfig(BaseCameraConfig, frozen=True, kw_only=True, tag="video", tag_field="type"):
    """A video file.

    Attributes:
        path: File with the video.
        loop: Whether the first frame follows the last.
    """

    path: FilePath
    loop: bool = False

    def missing_path(self) -> Path | None:
        """As `BaseCameraConfig.missing_path`."""
        return None if self.path.exists() else self.path


class LiveCameraConfig(BaseCameraConfig, frozen=True, kw_only=True):
    """Settings of every live camera.

    Attributes:
        timeout_s: Time without a frame after which the camera counts as lost: that is logged, and it is opened again.
        same_image_max_s: Time without a change of a single bit after which the camera counts as frozen; unset: never,
            as for a compressed image of a still scene.
    """

    timeout_s: Positive = 2.0
    same_image_max_s: Positive | None = None


class V4l2CameraConfig(LiveCameraConfig, frozen=True, kw_only=True, tag="v4l2", tag_field="type"):
    """A camera of the kernel, such as one on USB, through OpenCV.

    Attributes:
        index: Number of the device, as in ``/dev/video0``.
        width: Width of the frame in pixels; 0 for the camera's own.
        height: Height of the frame in pixels; 0 for the camera's own.
        exposure_us: Exposure in microseconds, rounded to the kernel's 100; unset: the camera controls it.
        gain: Gain in the driver's own unit; unset: it stays as it is.
    """

    is_board_camera: ClassVar[bool] = True

    index: Natural = 0
    width: Natural = 0
    height: Natural = 0
    exposure_us: Positive | None = None
    gain: Annotated[float, msgspec.Meta(ge=0)] | None = None


class RtspCameraConfig(LiveCameraConfig, frozen=True, kw_only=True, tag="rtsp", tag_field="type"):
    """A network camera, by PyAV. A stream that has fallen behind by more than ``timeout_s`` is opened again.

    Attributes:
        url: Address of the stream, such as ``rtsp://user:password@10.0.0.9/stream1``; user and password are
            never shown.
        transport: Transport of the stream: ``tcp`` or ``udp``.
    """

    url: Annotated[str, msgspec.Meta(pattern="^rtsps?://.")]
    transport: Literal["tcp", "udp"] = "tcp"


class AravisCameraConfig(LiveCameraConfig, frozen=True, kw_only=True, tag="aravis", tag_field="type"):
    """A GigE Vision or USB3 Vision camera, by Aravis.

    Attributes:
        address: IP address of the camera or the name that `lineside camera ls` shows; empty for the first that answers.
        pixel_format: GenICam's name of the pixel format, such as ``Mono8`` or ``BayerRG8``; empty for the camera's own.
        width: Width of the region from the sensor's corner, in pixels; 0 for the camera's own.
        height: Height of the region from the sensor's corner, in pixels; 0 for the camera's own.
        exposure_us: Exposure in microseconds; unset: it stays as it is.
        gain_db: Gain in decibels; unset: it stays as it is.
        trigger: The camera's input that releases a frame, such as ``Line1``; empty for free run.
    """

    address: str = ""
    pixel_format: str = ""
    width: Natural = 0
    height: Natural = 0
    exposure_us: Positive | None = None
    gain_db: Annotated[float, msgspec.Meta(ge=0)] | None = None
    trigger: str = ""


class Picamera2CameraConfig(LiveCameraConfig, frozen=True, kw_only=True, tag="picamera2", tag_field="type"):
    """A camera on a Raspberry Pi's own connector, by picamera2 and libcamera.

    Attributes:
        index: Number of the camera, as `lineside camera ls` shows it.
        width: Width of the frame in pixels; 0 for picamera2's own.
        height: Height of the frame in pixels; 0 for picamera2's own.
        exposure_us: Exposure in microseconds; unset: the camera controls it.
        gain: Gain of the sensor, a factor from 1; unset: it stays as it is.
    """

    is_board_camera: ClassVar[bool] = True

    index: Natural = 0
    width: Natural = 0
    height: Natural = 0
    exposure_us: Positive | None = None
    gain: Annotated[float, msgspec.Meta(ge=1)] | None = None


class PluginCameraConfig(BaseCameraConfig, frozen=True, kw_only=True, tag="plugin", tag_field="type"):
    """A camera of another package, by its entry point in the group ``lineside.cameras``.

    Attributes:
        kind: Name of the entry point.
        options: Options of the plug-in; it refuses those that it doesn't know.
    """

    kind: str
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class SimulatorCameraConfig(BaseCameraConfig, frozen=True, kw_only=True, tag="simulator", tag_field="type"):
    """The line simulator.

    Attributes:
        kinds: Kinds of parts that pass by, in turn.
        seed: Seed of the random generator.
    """

    kinds: Annotated[tuple[Literal["steel", "pcb"], ...], msgspec.Meta(min_length=1)] = ("steel", "pcb")
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


class NoCameraConfig(BaseCameraConfig, frozen=True, kw_only=True, tag="none", tag_field="type"):
    """No camera: of a device that recommends and inspects nothing."""


CameraConfig = (
    FolderCameraConfig
    | VideoCameraConfig
    | V4l2CameraConfig
    | RtspCameraConfig
    | AravisCameraConfig
    | Picamera2CameraConfig
    | SimulatorCameraConfig
    | PluginCameraConfig
    | NoCameraConfig
)
