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
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from lineside_link.config import LinkConfig
from lineside_link.topics import check_name
from lineside_models.rules import Rules, Share
from lineside_runtime.errors import ConfigError, InputNotFoundError

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
EngineName = Annotated[str, msgspec.Meta(pattern="^[a-z0-9_-]+$")]
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
        inspect: Of several cameras, what counts as a defect in this one's pictures (thresholds, regions, sizes): laid
            over ``[inspect]`` and over the recipe, key by key.
    """

    name: str = ""
    rate_hz: Positive | None = None
    frames: Count | None = None
    queue: Count = 8
    inspect: dict[str, Any] = {}


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
    options: dict[str, Any] = {}


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


class InspectConfig(Rules, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the bundle is run, and by `lineside_models.rules.Rules` what counts as a defect.

    Attributes:
        threads: Of the engine, for one frame.
        workers: Frames that are judged at once, each by a thread of its own; their verdicts leave in order. Read at the
            agent's start. On a machine of several cores that is the faster way to use them than `threads`, where frames
            come faster than one can be judged; one frame takes as long as before, and each worker needs memory.
        isolate: Engines that run in a process of their own, such as ``"ort"``: one that crashes costs the frames that
            it was at, and not the agent.
        engine_timeout_s: How long a call of an isolated engine may take before its process is ended; ``None`` for no
            limit.
        health_frames: Real frames that a new bundle must inspect without an engine error before it counts as active.
        health_timeout_s: A new bundle also counts as active after so long without any error.
    """

    threads: Count = 1
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    isolate: tuple[EngineName, ...] = ()
    engine_timeout_s: Positive | None = None
    health_frames: Count = 3
    health_timeout_s: Positive = 10.0


class StoreConfig(_Strict, frozen=True, kw_only=True):
    """What is kept, and for how long. Verdicts come before pictures.

    Attributes:
        commit_every_s: A record is on disk so long after its verdict at the latest. Each commit costs whole pages: at
            ten parts a second 1.0 writes a fifth of what 0 does.
        keep_images: Which frames are kept as PNG: none, those of which the verdict was unsure, all that were not
            passed, or all.
        send_images: Whether kept frames are sent to the hub, behind everything else.
        send_bytes_s: How fast at most, in bytes a second.
        keep_unsure_from: Unsure parts are kept, and passes whose nearest candidate reached at least this share of its
            threshold; below 0.5 not all are known.
        keep_good_every: One pass in so many is kept; 0 for none.
        images_max_bytes: Of all kept images; beyond it the oldest go.
        images_max_days: Older images go; ``None`` for no bound by age.
        records_max_bytes: Of the database; beyond it the oldest records go, with a hub only those that it has.
        records_max_days: Older records go likewise; ``None`` for no bound by age.
        free_min_bytes: With less room on the disk no image is kept, and old ones make way for records.
        writes_max_bytes_a_day: Beyond this pace no image is written and records are committed in larger groups;
            ``None`` for no bound.
    """

    commit_every_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.5
    keep_images: Literal["none", "unsure", "bad", "all"] = "none"
    send_images: bool = True
    send_bytes_s: Positive = 250_000.0
    keep_unsure_from: Share | None = None
    keep_good_every: Natural = 0
    images_max_bytes: Natural = 2 << 30
    images_max_days: Positive | None = None
    records_max_bytes: Count = 2 << 30
    records_max_days: Positive | None = None
    free_min_bytes: Natural = 64 << 20
    writes_max_bytes_a_day: Count | None = None


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


Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Unit = Annotated[int, msgspec.Meta(ge=1, le=247)]
Register = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ModbusTcpServer(_Strict, frozen=True, kw_only=True, tag="modbus-tcp-server", tag_field="type"):
    """The PLC polls the agent over TCP; the registers are in ``docs/modbus.md``.

    Attributes:
        host: Address of the interface that is listened on. Modbus has no password: not one that others reach.
        port: 502 is Modbus' own and needs the right to it.
    """

    host: str = "127.0.0.1"
    port: PortNumber = 502


class _SerialLine(_Strict, frozen=True, kw_only=True):
    """A serial line of Modbus RTU.

    Attributes:
        port: Such as ``/dev/ttyUSB0``.
        baud: Bits a second.
        parity: None, even or odd.
        stop_bits: 1 or 2.
        unit: The device id: the agent's own as a server, the PLC's as a client.
    """

    port: str
    baud: Count = 19200
    parity: Literal["N", "E", "O"] = "E"
    stop_bits: Literal[1, 2] = 1
    unit: Unit = 1


class ModbusRtuServer(_SerialLine, frozen=True, kw_only=True, tag="modbus-rtu-server", tag_field="type"):
    """The PLC polls the agent over a serial line."""


class _Client(_Strict, frozen=True, kw_only=True):
    """Where the two blocks lie in the PLC.

    Attributes:
        write_at: First of the PLC's holding registers that the agent writes.
        read_at: First of those that it reads.
        poll_ms: How often it reads.
        timeout_s: How long an answer may take.
    """

    write_at: Register = 0
    read_at: Register = 200
    poll_ms: Positive = 5.0
    timeout_s: Positive = 0.5


class ModbusTcpClient(_Client, frozen=True, kw_only=True, tag="modbus-tcp-client", tag_field="type"):
    """The agent writes to a PLC over TCP, and polls it.

    Attributes:
        host: Of the PLC.
        port: 502 is Modbus' own.
        unit: The PLC's device id.
    """

    host: str
    port: PortNumber = 502
    unit: Unit = 1


class ModbusRtuClient(_Client, frozen=True, kw_only=True, tag="modbus-rtu-client", tag_field="type"):
    """The agent is the master of a serial line, writes to a PLC on it, and polls it.

    Attributes:
        port: Such as ``/dev/ttyUSB0``.
        baud: Bits a second.
        parity: None, even or odd.
        stop_bits: 1 or 2.
        unit: The PLC's device id.
    """

    port: str
    baud: Count = 19200
    parity: Literal["N", "E", "O"] = "E"
    stop_bits: Literal[1, 2] = 1
    unit: Unit = 1


Level = Literal["ready", "busy", "result_valid", "passed", "rejected", "unsure", "fault", "gate", "challenge"]
Input = Literal["trigger", "reset", "acknowledge", "challenge"]


class GpioLines(_Strict, frozen=True, kw_only=True, tag="gpio", tag_field="type"):
    """Lines of a GPIO chip, through libgpiod.

    Attributes:
        chip: Such as ``/dev/gpiochip0``.
        outputs: Level to line: its name, or its number on the chip.
        inputs: Input to line.
        active_low: The lines, as written above, whose level is inverted.
        debounce_us: What the kernel takes for one edge.
        bias: Of the inputs.
    """

    chip: str
    outputs: dict[Level, str | int] = {}
    inputs: dict[Input, str | int] = {}
    active_low: tuple[str | int, ...] = ()
    debounce_us: Annotated[int, msgspec.Meta(ge=0)] = 0
    bias: Literal["as-is", "disabled", "pull-up", "pull-down"] = "as-is"


class MqttTopic(_Strict, frozen=True, kw_only=True, tag="mqtt", tag_field="type"):
    """A topic of a broker, the hub's or another one: results out, triggers in.

    Attributes:
        topic: Below it lie ``result``, ``state``, ``trigger``, ``reset`` and ``challenge``.
        link: The broker; ``None`` for that of ``[link]``.
    """

    topic: Annotated[str, msgspec.Meta(pattern="^[^+#]+$")]
    link: LinkConfig | None = None


class PluginLine(_Strict, frozen=True, kw_only=True, tag="plugin", tag_field="type"):
    """Somebody else's protocol: a subclass of `lineside_agent.line_io.LineOutput`.

    Attributes:
        name: Of an entry point in the group ``lineside.line_io``, or ``module:Class``.
        options: Given to the class by name.
    """

    name: str
    options: dict[str, Any] = {}


LineConfig = (
    SerialOutput
    | ModbusTcpServer
    | ModbusRtuServer
    | ModbusTcpClient
    | ModbusRtuClient
    | GpioLines
    | MqttTopic
    | PluginLine
)


class TriggerConfig(_Strict, frozen=True, kw_only=True):
    """Who decides when a part is looked at; without this table each frame of the camera is one part.

    Attributes:
        mode: ``inspect``: each trigger of a line ends in exactly one verdict. ``watch``: no trigger, the latest frame
            wins and the others are dropped.
        deadline_ms: From trigger to verdict; without one by then the part is rejected.
        debounce_ms: Edges of one input that are closer are one trigger.
        queue: Parts that may be under way at once; further ones are rejected.
        late_max: Late parts in a row that are a fault; 0 for never.
        frame_timeout_ms: Of several cameras, how long after the trigger each may take to bring its frame; a part that
            misses one by then is rejected, and the record names the camera. ``None`` for half of the deadline.
        frame_delay_ms: How long the camera takes to bring a frame: what comes sooner was taken before the trigger.
        camera_timeout_ms: A camera that gives nothing for so long takes Ready away.
        acknowledge: Whether the line acknowledges each result.
        challenge_parts: Known bad parts that must be rejected at the start of a shift, before Ready.
    """

    mode: Literal["inspect", "watch"] = "inspect"
    deadline_ms: Positive = 200.0
    debounce_ms: Milliseconds = 2.0
    queue: Count = 1
    late_max: Annotated[int, msgspec.Meta(ge=0)] = 3
    frame_timeout_ms: Positive | None = None
    frame_delay_ms: Milliseconds = 0.0
    camera_timeout_ms: Positive = 2000.0
    acknowledge: bool = False
    challenge_parts: Annotated[int, msgspec.Meta(ge=0)] = 0


class GateConfig(_Strict, frozen=True, kw_only=True):
    """Where the reject gate is, behind the camera; give one of the two.

    Attributes:
        delay_ms: In time; at least the deadline.
        counts: In counts of the line's encoder.
        pulse_ms: How long the gate stays open for one part.
    """

    delay_ms: Positive | None = None
    counts: Count | None = None
    pulse_ms: Positive = 50.0


class DegradeConfig(_Strict, frozen=True, kw_only=True):
    """What is given up, one step after the other, while the box is hot or the line late; the table alone is enough.

    Attributes:
        steps: In this order. ``images``: of parts that were passed none are kept. ``variant``: the bundle's faster
            variant judges; also any single part that would be late otherwise. ``rate``: fewer frames in watch mode.
        hot_c: From here on it is too hot; ``None`` for 5 °C below where this kind of board slows itself down, or 80.
        cool_by_c: So far below it is cool again.
        late_share: Share of parts that are late, or would be, from which on it is too slow.
        hold_s: Strain before each step.
        relief_s: Without strain before each step back.
        look_every_s: How often the board is asked.
        variant: Name of the faster variant; empty for the one that is fastest when they are timed here.
        rate_hz: Frames a second, with the step ``rate``.
        system: Where ``sys`` and ``proc`` are, for a container that has the host's mounted; ``None`` for ``/``.
    """

    steps: tuple[Literal["images", "variant", "rate"], ...] = ("images", "variant", "rate")
    hot_c: Positive | None = None
    cool_by_c: Positive = 8.0
    late_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05
    hold_s: Positive = 10.0
    relief_s: Positive = 60.0
    look_every_s: Positive = 5.0
    variant: str = ""
    rate_hz: Positive = 2.0
    system: FilePath | None = None


class RecipeCamera(_Strict, frozen=True, kw_only=True):
    """What a recipe sets at a camera, in that camera's own units; ``None`` for what stands in its table.

    Attributes:
        exposure_us: In microseconds.
        gain: As in the table of a ``v4l2`` or ``picamera2`` camera.
        gain_db: As in the table of an ``aravis`` camera.
    """

    exposure_us: Positive | None = None
    gain: Annotated[float, msgspec.Meta(ge=0)] | None = None
    gain_db: Annotated[float, msgspec.Meta(ge=0)] | None = None


class RecipeGate(_Strict, frozen=True, kw_only=True):
    """Where the reject gate is for one product; in time or in counts, as ``[gate]`` says it.

    Attributes:
        delay_ms: In time; at least the deadline.
        counts: In counts of the line's encoder.
    """

    delay_ms: Positive | None = None
    counts: Count | None = None


class RecipeConfig(_Strict, frozen=True, kw_only=True):
    """How one product is inspected. The line changes over from one to another between two parts.

    Attributes:
        name: Printable ASCII without spaces, as it stands in the records and on the line.
        number: By which Modbus asks for it; ``None`` for its place among the recipes, from 1.
        bundle: A bundle folder of its own; ``None`` for the bundle that is installed, by ``bundle`` or by the hub.
        inspect: Laid over ``[inspect]``, key by key.
        camera: Exposure and gain, on a line with one camera.
        cameras: The same by the camera's name, on a line with several.
        gate: Where the reject gate is; ``None`` for where ``[gate]`` says.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[!-~]{1,32}$")]
    number: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    bundle: FilePath | None = None
    inspect: dict[str, Any] = {}
    camera: RecipeCamera = RecipeCamera()
    cameras: dict[str, RecipeCamera] = {}
    gate: RecipeGate | None = None


class MetricsConfig(_Strict, frozen=True, kw_only=True):
    """Where Prometheus may ask.

    Attributes:
        port: Of ``/metrics``.
        address: To listen on; everybody who reaches it may read.
    """

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 9105
    address: str = "127.0.0.1"


class DriftConfig(_Strict, frozen=True, kw_only=True):
    """When an alarm says that the line has changed; the table alone, without a key, is enough.

    Attributes:
        reference_frames: So many frames are learned first: the line must be well meanwhile.
        false_alarm_frames: Within n frames the chance of a false alarm is n divided by this at most.
        odds_ratio: Rise that is looked for in the odds of what is counted; a smaller one finds less, later.
        bad_share: Share of bad parts that is well, instead of the one that is learned.
        stops_line: Whether an alarm takes Ready away, where the line triggers; until it is cleared by
            ``lineside agent drift``.
    """

    reference_frames: Annotated[int, msgspec.Meta(ge=100, le=100_000)] = 500
    false_alarm_frames: Annotated[float, msgspec.Meta(ge=1000)] = 1e6
    odds_ratio: Annotated[float, msgspec.Meta(ge=1.2, le=100)] = 3.0
    bad_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    stops_line: bool = False


class AgentConfig(_Strict, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
        device: Name of this device; the common name of its certificate.
        group: The group that it belongs to.
        folder: Where the agent keeps its state.
        camera: Where frames come from; ``[[camera]]`` for several cameras that see each part together.
        link: How to reach the hub's broker; ``None`` to work alone.
        root: The TUF root to trust at first; needed with ``link``.
        bundle: A bundle folder to run until one is pushed, or the name of a shipped one, where there is no such folder.
        exit_when_done: Whether to end after the last frame, once every record is on disk and, with a link, at the hub.
        inspect: How the bundle is run.
        store: What is kept.
        update: How a new agent proves itself.
        line_io: Where verdicts are signalled, and triggers come from.
        trigger: Who decides when a part is looked at; ``None`` for the camera.
        gate: Where the reject gate is; ``None`` if the line's PLC counts parts to it.
        transfer: How bundles come.
        metrics: Where Prometheus may ask; ``None`` for nowhere.
        drift: When an alarm says that the line has changed; ``None`` for never.
        degrade: What is given up while the box is hot or the line late; ``None`` for nothing.
        recipe: The products that the line changes between; the first runs until another is asked for.
    """

    device: str
    group: str = "default"
    folder: FilePath
    camera: CameraConfig | tuple[CameraConfig, ...]
    link: LinkConfig | None = None
    root: FilePath | None = None
    bundle: FilePath | None = None
    exit_when_done: bool = False
    inspect: InspectConfig = InspectConfig()
    store: StoreConfig = StoreConfig()
    update: UpdateConfig = UpdateConfig()
    line_io: tuple[LineConfig, ...] = ()
    trigger: TriggerConfig | None = None
    gate: GateConfig | None = None
    transfer: TransferConfig = TransferConfig()
    metrics: MetricsConfig | None = None
    drift: DriftConfig | None = None
    degrade: DegradeConfig | None = None
    recipe: tuple[RecipeConfig, ...] = ()

    @property
    def cameras(self) -> tuple[CameraConfig, ...]:
        """All cameras, also where there is one."""
        return self.camera if isinstance(self.camera, tuple) else (self.camera,)


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
        action = "Leave out what is as it was; a mask may have fewer pixels, or be a polygon."
        raise ConfigError(
            "configuration", expected=f"at most {SETTINGS_MAX_BYTES} bytes", actual=len(data), action=action
        )
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
        ConfigError: As `read_settings`, or what it sets and what ``agent.toml`` says contradict each other.
    """
    changes: dict[str, Any] = {}
    for name, value in read_settings(data).items():
        if isinstance(value, dict):
            value = {**msgspec.to_builtins(getattr(config, name), enc_hook=str), **value}
        try:
            changes[name] = msgspec.convert(value, _FIELDS[name].type, dec_hook=_decode_path)
        except msgspec.ValidationError as error:
            where = _with_path(str(error)).replace("$", f"$.{name}", 1)
            raise ConfigError(f"over agent.toml: {where}") from error
    laid = msgspec.structs.replace(config, **changes)
    check_recipes(laid)
    return laid


def inspect_of(inspect: InspectConfig, recipe: RecipeConfig) -> InspectConfig:
    """Returns what holds when a recipe is laid over ``[inspect]``, key by key.

    Args:
        inspect: The table.
        recipe: Any.

    Raises:
        ConfigError: An unknown key, a wrong type or a value out of range, or both contradict each other; the message
            names the path.
    """
    return _laid_over(inspect, recipe.inspect, f"$.recipe[{recipe.name}].inspect")


def rules_of(inspect: InspectConfig, camera: CameraConfig) -> InspectConfig:
    """Returns what holds for one of several cameras.

    Args:
        inspect: The table, with the recipe that runs.
        camera: Any.

    Raises:
        ConfigError: As `inspect_of`, or the key says how a bundle is run, which is the same for all cameras.
    """
    path = f"$.camera[{camera.name}].inspect"
    if strange := camera.inspect.keys() & _ENGINE_KEYS:
        raise ConfigError(f"{path}.{min(strange)} is the same for all cameras", expected=f"$.inspect.{min(strange)}")
    return _laid_over(inspect, camera.inspect, path)


_ENGINE_KEYS = frozenset(InspectConfig.__struct_fields__) - frozenset(Rules.__struct_fields__)


def _laid_over(inspect: InspectConfig, given: dict[str, Any], path: str) -> InspectConfig:
    try:
        return msgspec.convert({**msgspec.to_builtins(inspect, enc_hook=str), **given}, InspectConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(_with_path(str(error)).replace("$", path, 1)) from error


def camera_of(camera: CameraConfig, recipe: RecipeConfig) -> CameraConfig:
    """Returns a camera's table with what a recipe sets at it.

    Args:
        camera: Any.
        recipe: Any.

    Raises:
        ConfigError: This kind of camera has no such setting.
    """
    told = recipe.cameras.get(camera.name, recipe.camera)
    changes = {name: value for name in _RECIPE_CAMERA if (value := getattr(told, name)) is not None}
    if strange := [name for name in changes if not hasattr(camera, name)]:
        kind = str(msgspec.structs.asdict(camera).get("kind") or type(camera).__name__)
        path = f"$.recipe[{recipe.name}].camera.{strange[0]}"
        raise ConfigError(f"{path}: this camera has no such setting", expected="a camera that has", actual=kind)
    return msgspec.structs.replace(camera, **changes)


_RECIPE_CAMERA = tuple(field.name for field in msgspec.structs.fields(RecipeCamera))


def check_recipes(config: AgentConfig) -> None:
    """Checks what holds between the recipes and the other tables.

    Args:
        config: Whole.

    Raises:
        ConfigError: Two recipes have one name or number, or one doesn't fit ``[inspect]``, ``[camera]`` or ``[gate]``.
    """
    names = [recipe.name for recipe in config.recipe]
    numbers = [str(recipe.number or place) for place, recipe in enumerate(config.recipe, 1)]
    for what, values in (("name", names), ("number", numbers)):
        if twice := {value for value in values if values.count(value) > 1}:
            raise ConfigError(f"$.recipe: two have one {what}", actual=", ".join(sorted(twice)))
    for inspect in (config.inspect, *(inspect_of(config.inspect, recipe) for recipe in config.recipe)):
        for camera in config.cameras:
            rules_of(inspect, camera)
    for recipe in config.recipe:
        _check_recipe_cameras(config, recipe)
        _check_recipe_gate(config, recipe)
    for camera in config.cameras:
        _check_exposures([camera_of(camera, recipe) for recipe in config.recipe])


def _check_recipe_cameras(config: AgentConfig, recipe: RecipeConfig) -> None:
    names, path = [camera.name for camera in config.cameras], f"$.recipe[{recipe.name}]"
    if len(names) > 1 and recipe.camera != RecipeCamera():
        raise ConfigError(f"{path}.camera: there are several", expected=f"cameras.{names[0]}")
    if strange := recipe.cameras.keys() - set(names):
        raise ConfigError(f"{path}.cameras.{min(strange)}: no such camera", expected=", ".join(filter(None, names)))
    for camera in config.cameras:
        camera_of(camera, recipe)


def _check_exposures(tables: Sequence[CameraConfig]) -> None:
    """A camera keeps what it was told last, so the next product would be seen with the exposure of this one."""
    for name in _RECIPE_CAMERA:
        told = [getattr(table, name, None) is not None for table in tables]
        if any(told) and not all(told):
            expected = f"{name} in [camera], or in the camera table of every recipe"
            raise ConfigError(f"$.recipe: some set {name} and others don't", expected=expected)


def _check_recipe_gate(config: AgentConfig, recipe: RecipeConfig) -> None:
    gate, path = recipe.gate, f"$.recipe[{recipe.name}].gate"
    if gate is None:
        return
    if config.gate is None or config.trigger is None:
        raise ConfigError(f"{path} needs $.gate")
    key = "delay_ms" if config.gate.delay_ms is not None else "counts"
    if getattr(gate, key) is None or (gate.delay_ms is None) == (gate.counts is None):
        raise ConfigError(path, expected=f"{key} alone, as in $.gate")
    if gate.delay_ms is not None and gate.delay_ms < config.trigger.deadline_ms:
        expected = f"at least $.trigger.deadline_ms, {config.trigger.deadline_ms:g}"
        raise ConfigError(f"{path}.delay_ms", expected=expected, actual=f"{gate.delay_ms:g}")


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
    _check_line(config)
    check_recipes(config)
    return _resolved(config, folder)


def parse_camera(table: dict[str, Any]) -> CameraConfig:
    """Reads a ``[camera]`` table; relative paths in it start at the working folder.

    Args:
        table: As it would stand in ``agent.toml``.

    Raises:
        ConfigError: An unknown key, a wrong type or a value out of range; the message names the path.
    """
    try:
        camera: CameraConfig = msgspec.convert(table, CameraConfig, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise ConfigError(_with_path(str(error)).replace("$", "$.camera", 1)) from error
    return camera


def _check_line(config: AgentConfig) -> None:
    """What holds between the tables of the line."""
    trigger, gate = config.trigger, config.gate
    if len(config.cameras) != 1:
        _check_cameras(config)
    elif config.cameras[0].inspect:
        raise ConfigError("$.camera.inspect is for several cameras", expected="$.inspect")
    elif trigger is not None and trigger.frame_timeout_ms is not None:
        raise ConfigError("$.trigger.frame_timeout_ms is for several cameras", expected="deadline_ms alone")
    if gate is not None:
        if trigger is None or trigger.mode != "inspect":
            raise ConfigError("$.gate needs a trigger", expected='$.trigger with mode = "inspect"')
        if (gate.delay_ms is None) == (gate.counts is None):
            raise ConfigError("$.gate", expected="one of delay_ms and counts")
        if gate.delay_ms is not None and gate.delay_ms < trigger.deadline_ms:
            expected = f"at least $.trigger.deadline_ms, {trigger.deadline_ms:g}"
            raise ConfigError("$.gate.delay_ms", expected=expected, actual=f"{gate.delay_ms:g}")
    if config.drift is not None and config.drift.stops_line and (trigger is None or trigger.mode != "inspect"):
        raise ConfigError("$.drift.stops_line needs a trigger", expected='$.trigger with mode = "inspect"')
    for line in config.line_io:
        if isinstance(line, MqttTopic) and line.link is None and config.link is None:
            raise ConfigError("$.line_io: mqtt has no broker", expected="$.line_io.link or $.link")


def _check_cameras(config: AgentConfig) -> None:
    names = [camera.name for camera in config.cameras]
    if not names:
        raise ConfigError("$.camera is empty", expected="a camera")
    if config.trigger is None or config.trigger.mode != "inspect":
        expected = '$.trigger with mode = "inspect", which says when a part is in front of all of them'
        raise ConfigError("several $.camera need a trigger", expected=expected)
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError("$.camera: each of several needs a name of its own", actual=", ".join(names))


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
    cameras = tuple(_resolved_camera(camera, folder) for camera in config.cameras)
    changes["camera"] = cameras if isinstance(config.camera, tuple) else cameras[0]
    if config.bundle is not None:
        changes["bundle"] = _installed_or_shipped(config.bundle, folder)
    if config.link is not None:
        changes["link"] = _resolved_link(config.link, folder)
    if config.degrade is not None and config.degrade.system is not None:
        changes["degrade"] = msgspec.structs.replace(config.degrade, system=folder / config.degrade.system)
    changes["recipe"] = tuple(
        recipe if recipe.bundle is None else msgspec.structs.replace(recipe, bundle=folder / recipe.bundle)
        for recipe in config.recipe
    )
    return msgspec.structs.replace(config, **changes)


def _resolved_camera(camera: CameraConfig, folder: Path) -> CameraConfig:
    if isinstance(camera, (FolderCamera, VideoCamera)):
        return msgspec.structs.replace(camera, path=folder / camera.path)
    return camera


def _installed_or_shipped(bundle: Path, folder: Path) -> Path:
    """Returns the bundle's folder; a bare name that is no folder here may be a shipped one's."""
    if len(bundle.parts) > 1 or bundle.is_absolute() or (folder / bundle).exists():
        return folder / bundle
    from lineside_models import zoo  # an agent may be installed without the shipped bundles

    return zoo.path(str(bundle)) if str(bundle) in zoo.NAMES else folder / bundle


def _resolved_link(link: LinkConfig, folder: Path) -> LinkConfig:
    """Certificates stand beside the configuration too."""
    names = ("ca", "certificate", "key", "password_file")
    paths = {name: str(folder / value) for name in names if (value := getattr(link, name)) is not None}
    return msgspec.structs.replace(link, **paths)
