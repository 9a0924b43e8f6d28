"""``[camera]``: where frames come from, one struct a kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from lineside_agent.config.kinds import Count, FilePath, Natural, Positive, Strict


class _Camera(Strict, frozen=True, kw_only=True):
    """What every camera has.

    Attributes:
        name: What the records call the source; empty for the camera's own description. The agent goes on after
            the last record of this name, so another name begins from the start.
        rate_hz: Frames a second; ``None`` for as fast as they come.
        frames: How many frames in all; ``None`` for no end.
        queue: Frames that may wait for the engine; of a source that waits itself (folder, video, simulator) one more
            than there are workers is enough.
        inspect: Of several cameras, what counts as a defect in this one's pictures (thresholds, regions, sizes): laid
            over ``[inspect]`` and over the recipe, key by key.
    """

    name: str = ""
    rate_hz: Positive | None = None
    frames: Count | None = None
    queue: Count = 8
    inspect: dict[str, Any] = msgspec.field(default_factory=dict)


class FolderCamera(_Camera, frozen=True, kw_only=True, tag="folder", tag_field="type"):
    """The image files of a folder, by name.

    Attributes:
        path: The folder.
        loop: Whether the first follows the last.
    """

    path: FilePath
    loop: bool = False


class VideoCamera(_Camera, frozen=True, kw_only=True, tag="video", tag_field="type"):
    """A video file.

    Attributes:
        path: The file.
        loop: Whether the first frame follows the last.
    """

    path: FilePath
    loop: bool = False


class _LiveCamera(_Camera, frozen=True, kw_only=True):
    """What every camera has that doesn't wait.

    Attributes:
        timeout_s: A camera that gives nothing for so long is lost: that is said, and it is opened again.
        same_image_max_s: A camera whose picture doesn't change by a bit for so long is frozen; ``None`` for never, as
            for a compressed picture of a still scene.
    """

    timeout_s: Positive = 2.0
    same_image_max_s: Positive | None = None


class V4l2Camera(_LiveCamera, frozen=True, kw_only=True, tag="v4l2", tag_field="type"):
    """A camera of the kernel, such as one on USB, through OpenCV.

    Attributes:
        index: Number of the device, as in ``/dev/video0``.
        width: Asked of the camera, in pixels; 0 for its own.
        height: Asked of the camera, in pixels; 0 for its own.
        exposure_us: In microseconds, rounded to the kernel's 100; ``None`` leaves the camera's own control on.
        gain: In the driver's own unit; ``None`` leaves it.
    """

    index: Natural = 0
    width: Natural = 0
    height: Natural = 0
    exposure_us: Positive | None = None
    gain: Annotated[float, msgspec.Meta(ge=0)] | None = None


class RtspCamera(_LiveCamera, frozen=True, kw_only=True, tag="rtsp", tag_field="type"):
    """A network camera, by PyAV.

    Attributes:
        url: Such as ``rtsp://user:password@10.0.0.9/stream1``; user and password are never shown.
        transport: ``tcp`` or ``udp``.
    """

    url: Annotated[str, msgspec.Meta(pattern="^rtsps?://.")]
    transport: Literal["tcp", "udp"] = "tcp"


class AravisCamera(_LiveCamera, frozen=True, kw_only=True, tag="aravis", tag_field="type"):
    """A GigE Vision or USB3 Vision camera, by Aravis.

    Attributes:
        address: Its IP address or the name that `lineside camera ls` shows; empty for the first that answers.
        pixel_format: GenICam's name, such as ``Mono8`` or ``BayerRG8``; empty for the camera's own.
        width: Of the region from the sensor's corner, in pixels; 0 for the camera's own.
        height: As ``width``.
        exposure_us: In microseconds; ``None`` leaves it.
        gain_db: In decibels; ``None`` leaves it.
        trigger: The camera's input that releases a frame, such as ``Line1``; empty for free run.
    """

    address: str = ""
    pixel_format: str = ""
    width: Natural = 0
    height: Natural = 0
    exposure_us: Positive | None = None
    gain_db: Annotated[float, msgspec.Meta(ge=0)] | None = None
    trigger: str = ""


class Picamera2Camera(_LiveCamera, frozen=True, kw_only=True, tag="picamera2", tag_field="type"):
    """A camera on a Raspberry Pi's own connector, by picamera2 and libcamera.

    Attributes:
        index: As `lineside camera ls` shows it.
        width: In pixels; 0 for picamera2's own.
        height: As ``width``.
        exposure_us: In microseconds; ``None`` leaves the camera's own control on.
        gain: The sensor's, a factor from 1; ``None`` leaves it.
    """

    index: Natural = 0
    width: Natural = 0
    height: Natural = 0
    exposure_us: Positive | None = None
    gain: Annotated[float, msgspec.Meta(ge=1)] | None = None


class PluginCamera(_Camera, frozen=True, kw_only=True, tag="plugin", tag_field="type"):
    """A camera of somebody else's package, by its entry point in the group ``lineside.cameras``.

    Attributes:
        kind: The entry point's name.
        options: What it understands; it refuses what it doesn't.
    """

    kind: str
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class SimulatorCamera(_Camera, frozen=True, kw_only=True, tag="simulator", tag_field="type"):
    """The line simulator.

    Attributes:
        kinds: What passes by, in turn.
        seed: Of the whole stream.
    """

    kinds: Annotated[tuple[Literal["steel", "pcb"], ...], msgspec.Meta(min_length=1)] = ("steel", "pcb")
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


CameraConfig = (
    FolderCamera
    | VideoCamera
    | V4l2Camera
    | RtspCamera
    | AravisCamera
    | Picamera2Camera
    | SimulatorCamera
    | PluginCamera
)
