"""The tables of inspection, storage, triggers, recipes and others."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from lineside_agent.config.placement import PlacementConfig
from lineside_agent.config.value_types import ConfigTable, Count, FilePath, Milliseconds, Natural, PortNumber, Positive
from lineside_models.verdict.rules import Share

TimeOfDay = Annotated[str, msgspec.Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$", examples=["06:00"])]


class InspectConfig(PlacementConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the model runs, and what counts as a defect (`lineside_models.verdict.rules.Rules`).

    Attributes:
        variant: Name of the bundle's variant that inspects, such as a faster one without test-time augmentation;
            empty for the bundle's first one, or the fastest if its maker has not measured. The others are for fallback.
        max_ms: Longest time of a call in milliseconds. A bundle with several widths of one network runs the widest
            that is as fast on this device, as measured when it is loaded; unset for the widest.
        reference: Image files of good parts that frames are compared with, in place of those in the bundle; relative
            to this file. Of several, a frame is compared with the one that it matches best. Only for bundles that
            compare (`lineside learn-reference`).
        expected_values: File or folder with what the marks of each part must say: CSV with a column ``part_id``, or
            JSON; relative to this file. It is read again when it changes. For rules in ``read`` that agree with a
            field.
        models: For a bundle of several models: keys of this table for one of them, by its name, in place of those in
            the bundle. Of the keys beside it each model takes where it runs, and not what counts as a defect.
        workers: Frames that are inspected at once, each by a thread of its own; their verdicts leave in order. Read at
            the agent's start. With several cores this is faster than `threads` where frames come faster than one can be
            inspected, or where several cameras see each part. One frame takes as long as before, and each worker needs
            memory.
        trial_timeout_s: How long a new bundle may take to be loaded and run once, in a process of its own, before that
            is killed and the bundle refused.
        health_frames: Real frames that a new bundle must inspect without an engine error before it counts as active.
        health_timeout_s: Time without any error after which a new bundle also counts as active.
    """

    variant: str = ""
    max_ms: Positive | None = None
    reference: tuple[str, ...] = ()
    expected_values: str = ""
    models: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    trial_timeout_s: Positive = 300.0
    health_frames: Count = 3
    health_timeout_s: Positive = 10.0


class StoreConfig(ConfigTable, frozen=True, kw_only=True):
    """What is kept, and for how long. Verdicts come before images.

    Attributes:
        commit_every_s: A record is on disk so long after its verdict at the latest. A power cut takes the records of
            that time, a kill of the agent none. Each commit costs whole pages: at ten parts a second 1.0 writes a fifth
            of what 0 does.
        keep_images: Which frames are kept as PNG: none, those of which the verdict was unsure, all that were not
            passed, or all; of faults whose frame shows nothing only with ``all``. ``images_max_bytes`` and
            ``free_min_bytes`` bound them.
        send_images: Whether kept frames are sent to the hub, after everything else.
        send_bytes_s: Highest rate at which kept frames are sent, in bytes a second.
        keep_unsure_from: Unsure parts are kept, and passes whose nearest candidate reached at least this share of its
            threshold; below 0.5 not all are known.
        keep_good_every: Number of passes of which one is kept; 0 for none.
        images_max_bytes: Size of all kept images in bytes; beyond it the oldest are deleted.
        images_max_days: Age in days at which kept images are deleted; unset: no limit by age.
        records_max_bytes: Size of the database in bytes; beyond it the oldest records are deleted, with a hub only
            those that it has.
        records_max_days: Age in days at which records are deleted, with a hub only those that it has; unset: no limit
            by age.
        free_min_bytes: With fewer bytes free on the disk no image is kept, and old ones are deleted for records.
        writes_max_bytes_a_day: Bytes written a day. Where they are short no image is written, and records are committed
            every 5 s, then packed every 300 s; a power cut takes the records of that time, and a hub gets them so much
            later. At ten parts a second 50 MB a day can be kept. Unset: no limit.
    """

    commit_every_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.5
    keep_images: Literal["none", "unsure", "bad", "all"] = "bad"
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


class UpdateConfig(ConfigTable, frozen=True, kw_only=True):
    """The trial of a new agent, where the agent runs as a service.

    Attributes:
        healthy_s: Time for which it must be healthy, and have reached the hub, before it stays.
        deadline_s: Longest time for that; then the agent before it comes back.
    """

    healthy_s: Positive = 120.0
    deadline_s: Positive = 900.0


class TransferConfig(ConfigTable, frozen=True, kw_only=True):
    """How bundles are fetched.

    Attributes:
        multicast: Whether to take part in what the hub sends to all devices at once; ``false`` for a link that is slow
            or paid for by the byte.
        delta_wait_s: Longest wait for the hub's patches, before whole files are fetched.
    """

    multicast: bool = True
    delta_wait_s: Positive = 20.0


class TriggerConfig(ConfigTable, frozen=True, kw_only=True):
    """The line's triggers; without this table each frame of the camera is one part.

    Attributes:
        mode: ``inspect``: each trigger of a line ends in exactly one verdict. ``watch``: no trigger, the latest frame
            wins and the others are dropped.
        deadline_ms: Time from trigger to verdict; without a verdict by then the part is rejected.
        debounce_ms: Edges of one input that are closer than this are one trigger.
        queue: Parts that may be under way at once; further ones are rejected.
        late_max: Late parts in a row that are a fault; 0 for never.
        frame_timeout_ms: With several cameras, how long after the trigger each may take to bring its frame; a part
            that misses one by then is rejected, and the record names the camera. Unset: half of the deadline.
        frame_delay_ms: Time that the camera takes to bring a frame: one that comes sooner was taken before the trigger.
        camera_timeout_ms: Time without a frame of a camera after which the line is not Ready.
        acknowledge: Whether the line acknowledges each result.
        challenge_parts: Known bad parts that must be rejected at the start of a shift, before Ready.
        not_ready_when_unrecorded: Whether results that can't be recorded, as on a full disk, take Ready away: for lines
            that need traceability. Otherwise parts are judged, and their records wait in memory.
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
    not_ready_when_unrecorded: bool = False


class GateConfig(ConfigTable, frozen=True, kw_only=True):
    """Place of the reject gate, behind the camera; give one of ``delay_ms`` and ``counts``.

    Attributes:
        delay_ms: Time from trigger to gate; at least the deadline.
        counts: Counts of the line's encoder from trigger to gate.
        pulse_ms: How long the gate stays open for one part.
    """

    delay_ms: Positive | None = None
    counts: Count | None = None
    pulse_ms: Positive = 50.0


class DegradeConfig(ConfigTable, frozen=True, kw_only=True):
    """Service that is reduced, one step after the other, while the board is hot or the line late; the table alone is
    enough.

    Attributes:
        steps: Steps in the order in which they are taken. ``images``: of parts that were passed none are kept.
            ``variant``: the bundle's faster variant judges; also any single part that would be late otherwise.
            ``rate``: fewer frames in watch mode.
        hot_c: Temperature in °C from which on it is too hot; unset: 5 below where this kind of board slows itself down,
            or 80.
        cool_by_c: Degrees below ``hot_c`` at which it is cool again.
        late_share: Share of parts that are late, or would be, from which on it is too slow.
        hold_s: Time of heat or lateness before each step.
        relief_s: Time without heat and lateness before each step back.
        look_every_s: Time between two looks at temperature and lateness.
        variant: Name of the faster variant; empty for the one that is fastest when they are timed here.
        rate_hz: Frames a second that are looked at with the step ``rate``.
        system: Folder of ``sys`` and ``proc``, for a container that has the host's mounted; unset: ``/``.
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


class RecipeCamera(ConfigTable, frozen=True, kw_only=True):
    """Settings of a camera with a recipe, in the camera's own units; an unset one stays as in its table.

    Attributes:
        exposure_us: Exposure in microseconds.
        gain: Gain of a ``v4l2`` or ``picamera2`` camera, in the unit of its table.
        gain_db: Gain of an ``aravis`` camera in decibels.
    """

    exposure_us: Positive | None = None
    gain: Annotated[float, msgspec.Meta(ge=0)] | None = None
    gain_db: Annotated[float, msgspec.Meta(ge=0)] | None = None


class RecipeGate(ConfigTable, frozen=True, kw_only=True):
    """Place of the reject gate for one product, in time or in counts as in ``[gate]``.

    Attributes:
        delay_ms: Time from trigger to gate; at least the deadline.
        counts: Counts of the line's encoder from trigger to gate.
    """

    delay_ms: Positive | None = None
    counts: Count | None = None


class RecipeTrigger(ConfigTable, frozen=True, kw_only=True):
    """What is different at the line's triggers for one product.

    Attributes:
        deadline_ms: Time from trigger to verdict; unset: as in ``[trigger]``. The PLC must wait for the longest one.
    """

    deadline_ms: Positive | None = None


class RecipeConfig(ConfigTable, frozen=True, kw_only=True):
    """How one product is inspected. The line changes over from one to another between two parts.

    Attributes:
        name: Name in records and on the line: 1 to 32 printable ASCII characters without spaces.
        number: Number by which Modbus asks for it; unset: its place among the recipes, from 1.
        bundle: Bundle folder of this recipe, or the name of a shipped bundle; unset: the bundle that is installed, by
            ``bundle`` or by the hub.
        inspect: What counts as a defect with this recipe. Its keys replace those of ``[inspect]``.
        camera: Exposure and gain with this recipe, on a line with one camera.
        cameras: Exposure and gain with this recipe by the camera's name, on a line with several.
        gate: Where the reject gate is with this recipe; unset: where ``[gate]`` says.
        trigger: Deadline with this recipe, such as for a slower model.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[!-~]{1,32}$")]
    number: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    bundle: FilePath | None = None
    inspect: dict[str, Any] = msgspec.field(default_factory=dict)
    camera: RecipeCamera = RecipeCamera()
    cameras: dict[str, RecipeCamera] = msgspec.field(default_factory=dict)
    gate: RecipeGate | None = None
    trigger: RecipeTrigger = RecipeTrigger()


class MetricsConfig(ConfigTable, frozen=True, kw_only=True):
    """Address of ``/metrics`` for Prometheus.

    Attributes:
        port: TCP port of ``/metrics``.
        address: Address of the network interface to listen on; everybody who reaches it may read.
    """

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 9105
    address: str = "127.0.0.1"


class DocumentsConfig(ConfigTable, frozen=True, kw_only=True):
    """Reading of documents for programs on this device, by the socket ``documents.sock`` in ``folder``.

    It needs a document bundle and the extra ``documents``. The table alone, without a key, is enough.

    Attributes:
        legal_terms: Dictionary of terms, a JSON file; ``law_dict.json`` is the shipped one, empty is none.
        pages_max: Pages of a document at most.
        seconds: Longest time that reading a document may take.
    """

    legal_terms: str = "law_dict.json"
    pages_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 55.0


class RecommendConfig(ConfigTable, frozen=True, kw_only=True):
    """Recommendations for programs on this device, by the socket ``recommend.sock`` in ``folder``.

    They need a recommender's bundle. The table alone, without a key, is enough.

    Attributes:
        exploration: Temperature of the draw of items; 0 recommends the best ones. A score that is lower by this much is
            e times less likely.
        answers_max: Answers and choices that are kept on the device.
        send_interactions: Whether the hub gets them, with the ids of the users.
    """

    exploration: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    answers_max: Annotated[int, msgspec.Meta(ge=100, le=10_000_000)] = 100_000
    send_interactions: bool = True


class ScreenConfig(ConfigTable, frozen=True, kw_only=True):
    """The operator screen, a web page of the agent; the table alone, without a key, shows it on this machine.

    Attributes:
        port: TCP port of the screen.
        address: Address of the network interface to listen on. Other machines reach it only with ``tls_certificate``,
            ``tls_key`` and at least one person (`lineside agent person add`).
        names: Names by which browsers reach it, such as ``press-2.plant.example``; addresses of this machine need no
            entry. Requests for another name are refused.
        tls_certificate: Certificate chain in PEM.
        tls_key: Its private key in PEM.
        shift_starts: Times of day, ``HH:MM`` in local time, at which the counters begin again.
        control: Whether the screen may trigger a test part, reset a fault, start challenge parts and change the
            recipe, and show people with the role ``set_up`` the cameras and change regions. Without it the screen only
            shows the line and takes marks.
        learn: Whether people with the role ``set_up`` may have the device learn good parts, and run what was learned:
            a bundle that no hub has signed. The hub's next desired state replaces it. Needs ``control``, and one
            camera.
    """

    port: PortNumber = 8080
    address: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    tls_certificate: FilePath | None = None
    tls_key: FilePath | None = None
    shift_starts: Annotated[tuple[TimeOfDay, ...], msgspec.Meta(min_length=1, max_length=24)] = (
        "06:00",
        "14:00",
        "22:00",
    )
    control: bool = False
    learn: bool = False


class DriftConfig(ConfigTable, frozen=True, kw_only=True):
    """Alarms when the line has changed; the table alone, without a key, is enough.

    Attributes:
        reference_frames: Number of frames that are learned first, while the line must work well.
        false_alarm_frames: Within n frames the chance of a false alarm is n divided by this at most.
        odds_ratio: Rise that is looked for in the odds of what is counted; a smaller one finds less, later.
        bad_share: Usual share of rejected parts, in place of the one that is learned.
        stops_line: Whether an alarm takes Ready away, where the line triggers; until it is cleared by
            ``lineside agent drift``.
    """

    reference_frames: Annotated[int, msgspec.Meta(ge=100, le=100_000)] = 500
    false_alarm_frames: Annotated[float, msgspec.Meta(ge=1000)] = 1e6
    odds_ratio: Annotated[float, msgspec.Meta(ge=1.2, le=100)] = 3.0
    bad_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    stops_line: bool = False
