"""``agent.toml``: everything that the agent is told, read into strict structs.

::

    device = "cam-07"
    group  = "line-1"
    folder = "state"              # relative paths start at this file
    root   = "root.json"          # the TUF root that was put on the device by hand

    [link]
    url  = "mqtt://10.0.0.5"
    site = "plant-1"

    [camera]
    type = "folder"
    path = "frames"
    rate_hz = 10.0

    [store]
    keep_images = "bad"

    [[line_io]]
    type = "serial"
    port = "/dev/ttyUSB0"

An unknown key is an error that names its path, such as ``$.camera.fps``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from lineside_link.config import LinkConfig
from lineside_link.topics import check_name
from lineside_runtime.errors import ConfigError, InputNotFoundError

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
FilePath = Annotated[Path, msgspec.Meta(extra_json_schema={"type": "string"})]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class _Camera(_Strict, frozen=True, kw_only=True):
    """What every camera has.

    Attributes:
        name: What the records call the source; empty for the camera's own description. The agent goes on after
            the last record of this name, so another name begins from the start.
        rate_hz: Frames a second; ``None`` for as fast as they come.
        frames: How many frames in all; ``None`` for no end.
        queue: Frames that may wait for the engine.
    """

    name: str = ""
    rate_hz: Positive | None = None
    frames: Count | None = None
    queue: Count = 8


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


class V4l2Camera(_Camera, frozen=True, kw_only=True, tag="v4l2", tag_field="type"):
    """A camera of the kernel, through OpenCV.

    Attributes:
        index: Number of the device, as in ``/dev/video0``.
        width: Asked of the camera, in pixels; 0 for its own.
        height: Asked of the camera, in pixels; 0 for its own.
    """

    index: Annotated[int, msgspec.Meta(ge=0)] = 0
    width: Annotated[int, msgspec.Meta(ge=0)] = 0
    height: Annotated[int, msgspec.Meta(ge=0)] = 0


class SimulatorCamera(_Camera, frozen=True, kw_only=True, tag="simulator", tag_field="type"):
    """The line simulator.

    Attributes:
        kinds: What passes by, in turn.
        seed: Of the whole stream.
    """

    kinds: Annotated[tuple[Literal["steel", "pcb"], ...], msgspec.Meta(min_length=1)] = ("steel", "pcb")
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


CameraConfig = FolderCamera | VideoCamera | V4l2Camera | SimulatorCamera


class InspectConfig(_Strict, frozen=True, kw_only=True):
    """How the bundle is run.

    Attributes:
        confidence_threshold: Least score of a detection; ``None`` for the bundle's own.
        threads: Of the engine.
        health_frames: Real frames that a new bundle must inspect without an engine error before it counts as active.
        health_timeout_s: A new bundle also counts as active after so long without any error.
    """

    confidence_threshold: Share | None = None
    threads: Count = 1
    health_frames: Count = 3
    health_timeout_s: Positive = 10.0


class StoreConfig(_Strict, frozen=True, kw_only=True):
    """What is kept.

    Attributes:
        keep_images: Which frames are kept as PNG: none, those that were not passed, or all.
        send_images: Whether kept frames are sent to the hub, behind everything else.
        send_bytes_s: How fast at most, in bytes a second.
        images_max_bytes: Of all kept frames; then the oldest go, those first that the hub has.
        images_max_age_days: Then they go, whether the hub has them or not.
        keep_free_bytes: Room on the disk that frames leave to everything else; below it none is kept.
    """

    keep_images: Literal["none", "bad", "all"] = "none"
    send_images: bool = True
    send_bytes_s: Positive = 250_000.0
    images_max_bytes: Count = 2_000_000_000
    images_max_age_days: Positive = 30.0
    keep_free_bytes: Annotated[int, msgspec.Meta(ge=0)] = 100_000_000


class UpdateConfig(_Strict, frozen=True, kw_only=True):
    """How a new agent proves itself, where the agent runs as a service.

    Attributes:
        healthy_s: How long it must be healthy, and have met the hub, before it stays.
        deadline_s: How long it may take for that; then the one before it comes back.
    """

    healthy_s: Positive = 120.0
    deadline_s: Positive = 900.0


class TransferConfig(_Strict, frozen=True, kw_only=True):
    """How bundles come.

    Attributes:
        multicast: Whether to take part in what the hub sends to all devices at once; ``false`` for a link that is slow
            or paid for by the byte.
        delta_wait_s: How long the hub may take to make patches before the files come whole.
    """

    multicast: bool = True
    delta_wait_s: Positive = 20.0


class SerialOutput(_Strict, frozen=True, kw_only=True, tag="serial", tag_field="type"):
    """A serial line to the gate or PLC.

    Attributes:
        port: Such as ``/dev/ttyUSB0``.
        baud: Bits a second.
        timeout_s: The longest that a verdict may hold the line up.
    """

    port: str
    baud: Count = 115200
    timeout_s: Positive = 0.2


class AgentConfig(_Strict, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
        device: Name of this device; the common name of its certificate.
        group: The group that it belongs to.
        folder: Where the agent keeps its state.
        camera: Where frames come from.
        link: How to reach the hub's broker; ``None`` to work alone.
        root: The TUF root to trust at first; needed with ``link``.
        bundle: A bundle folder to run until one is pushed.
        exit_when_done: Whether to end after the last frame, once every record is on disk and, with a link, at the hub.
        inspect: How the bundle is run.
        store: What is kept.
        update: How a new agent proves itself.
        line_io: Where verdicts are signalled.
        transfer: How bundles come.
    """

    device: str
    group: str = "default"
    folder: FilePath
    camera: CameraConfig
    link: LinkConfig | None = None
    root: FilePath | None = None
    bundle: FilePath | None = None
    exit_when_done: bool = False
    inspect: InspectConfig = InspectConfig()
    store: StoreConfig = StoreConfig()
    update: UpdateConfig = UpdateConfig()
    line_io: tuple[SerialOutput, ...] = ()
    transfer: TransferConfig = TransferConfig()


SETTABLE = ("inspect", "store")
"""The tables that a signed configuration from the hub may set. Never who the device is, whom it trusts, where its
frames come from or what its outputs are wired to: that belongs to who stands beside it."""

SETTINGS_MAX_BYTES = 64 * 1024

_FIELDS = {field.name: field for field in msgspec.structs.fields(AgentConfig)}

Settings = msgspec.defstruct(
    "Settings",
    [(name, _FIELDS[name].type, _FIELDS[name].default) for name in SETTABLE],
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
)
"""The part of `AgentConfig` that a hub may set."""


def read_settings(data: bytes) -> dict[str, Any]:
    """Reads a configuration from the hub and checks it against the agent's own schema.

    Args:
        data: TOML.

    Returns:
        The tables that it sets, as they stand in it.

    Raises:
        ConfigError: Not TOML, too large, a table that a hub may not set, an unknown key, a wrong type or a value out of
            range; the message names the path, such as ``$.inspect.threads``.
    """
    if len(data) > SETTINGS_MAX_BYTES:
        raise ConfigError("configuration", expected=f"at most {SETTINGS_MAX_BYTES} bytes", actual=len(data))
    try:
        given: dict[str, Any] = msgspec.toml.decode(data)
        foreign = [name for name in given if name not in SETTABLE]
        if foreign:
            action = "The rest of agent.toml is set on the device."
            raise ConfigError(f"$.{foreign[0]} can't be set by a hub", expected=", ".join(SETTABLE), action=action)
        msgspec.convert(given, Settings, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise ConfigError(_with_path(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"the configuration is not TOML: {error}") from error
    return given


def with_settings(config: AgentConfig, data: bytes) -> AgentConfig:
    """Returns what holds when the hub's configuration is laid over ``agent.toml``, key by key.

    Args:
        config: From ``agent.toml``.
        data: TOML from the hub.

    Raises:
        ConfigError: As `read_settings`.
    """
    changes: dict[str, Any] = {}
    for name, value in read_settings(data).items():
        if isinstance(value, dict):
            value = {**msgspec.to_builtins(getattr(config, name), enc_hook=str), **value}
        changes[name] = msgspec.convert(value, _FIELDS[name].type, dec_hook=_decode_path)
    return msgspec.structs.replace(config, **changes)


def read_config(path: Path | str) -> AgentConfig:
    """Reads ``agent.toml``; relative paths in it start at its own folder.

    Args:
        path: The file.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: Not TOML, an unknown key, a wrong type or a value out of range; the message names the path.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="Give the path of agent.toml.") from error
    return parse_config(data, Path(path).resolve().parent)


def parse_config(data: bytes, folder: Path) -> AgentConfig:
    """Reads the bytes of ``agent.toml``.

    Args:
        data: TOML.
        folder: Where relative paths start.

    Raises:
        ConfigError: Not TOML, an unknown key, a wrong type or a value out of range; the message names the path.
    """
    try:
        config = msgspec.toml.decode(data, type=AgentConfig, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise ConfigError(_with_path(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"agent.toml is not TOML: {error}") from error
    check_name(config.device, "device")
    check_name(config.group, "group")
    if config.link is not None and config.root is None:
        raise ConfigError("$.root is missing", expected="the path of root.json, since $.link is there")
    if config.link is None and config.bundle is None:
        raise ConfigError("neither $.bundle nor $.link is there", expected="a bundle to run, or a hub that pushes one")
    return _resolved(config, folder)


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected a path as a string, got {type(value).__name__}")


_UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`(?: - at `(.+)`)?")


def _with_path(message: str) -> str:
    """Turns msgspec's ``unknown field `fps` - at `$.camera` `` into ``$.camera.fps is not a known key``."""
    match = _UNKNOWN.fullmatch(message)
    if match is None:
        return message
    return f"{match[2] or '$'}.{match[1]} is not a known key"


def _resolved(config: AgentConfig, folder: Path) -> AgentConfig:
    changes: dict[str, object] = {
        field: folder / value for field in ("folder", "root", "bundle") if (value := getattr(config, field)) is not None
    }
    if isinstance(config.camera, (FolderCamera, VideoCamera)):
        changes["camera"] = msgspec.structs.replace(config.camera, path=folder / config.camera.path)
    if config.link is not None:
        changes["link"] = _resolved_link(config.link, folder)
    return msgspec.structs.replace(config, **changes)


def _resolved_link(link: LinkConfig, folder: Path) -> LinkConfig:
    """Certificates stand beside the configuration too."""
    names = ("ca", "certificate", "key", "password_file")
    paths = {name: str(folder / value) for name in names if (value := getattr(link, name)) is not None}
    return msgspec.structs.replace(link, **paths)
