"""What travels on the link, one definition for both ends.

JSON with a ``v`` field, so that MQTT Explorer, Node-RED and a person can read it. An unknown field is
ignored and a version apart by one is understood, so that a fleet can be half updated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.decoding import JsonDecoder, decode_json
from lineside_runtime.errors import BadInputFormatError

VERSION = 1
"""Version of the messages that this release writes; it reads ``VERSION - 1`` to ``VERSION + 1``."""

FEATURES = ("batches", "deltas", "multicast", "pieces")
"""What a hub says that it knows, so that a newer device doesn't ask an older hub in vain."""

STATES = ("idle", "fetching", "verifying", "staged", "switching", "health_check", "active", "rolled_back", "failed")
State = Literal[
    "idle", "fetching", "verifying", "staged", "switching", "health_check", "active", "rolled_back", "failed"
]


Name = Annotated[str, msgspec.Meta(max_length=256)]
"""A name, identifier or hash in a message."""

Text = Annotated[str, msgspec.Meta(max_length=4096)]
"""A text for people in a message."""

BOXES_MAX = 4096
"""Detections of a row, or of one view of it."""

Boxes = Annotated[
    tuple[tuple[Name, float, float, float, float, float], ...],
    msgspec.Meta(max_length=BOXES_MAX),
]
"""``[type, score, x1, y1, x2, y2]`` each."""

PARTS = ("bundle", "agent", "config")
"""Fields of `Desired` that name what to run, or how; each can be pushed without the others."""


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    """What every message has.

    Attributes:
        v: Version of the messages that the sender writes.
    """

    v: int = VERSION


TRIAL_SUFFIX = ".trial.json"
"""How the path of a target ends that is signed to be timed and never to be run: nobody has proved it."""


class BundleRef(msgspec.Struct, frozen=True, kw_only=True):
    """Names one bundle.

    Attributes:
        name: Such as ``surface-12``.
        version: Such as ``1.0.0``.
        target: Path of its manifest among the TUF targets, ``<group>/<name>-<version>.json``.
        sha256: Of the manifest, which names all of its content.
    """

    name: Name
    version: Name
    target: Text
    sha256: Name

    @property
    def identity(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


class MaintenanceWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=False, kw_only=True):
    """When a device may change over, in the plant's local time.

    Attributes:
        start: ``HH:MM`` at which it opens.
        end: ``HH:MM`` at which it closes; before ``start`` means on the next day.
        timezone: IANA name of the plant's time zone, such as ``Europe/Berlin``.
        days: Days on which it opens; none means every day.
        fetch: Whether the bundle is brought at once or only while the window is open.
    """

    start: str
    end: str
    timezone: str
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()
    fetch: Literal["at_once", "in_window"] = "at_once"


class ConfigRef(msgspec.Struct, frozen=True, kw_only=True):
    """Names one configuration: the part of ``agent.toml`` that a hub may set.

    Attributes:
        target: Its path among the TUF targets, ``<group>/config-<begin of sha256>.toml``.
        sha256: Of its TOML.
    """

    target: Text
    sha256: Name

    @property
    def identity(self) -> str:
        """``config@`` and the begin of its hash."""
        return f"config@{self.sha256[:12]}"


class Desired(_Message, frozen=True, kw_only=True):
    """What a group or device should run.

    Attributes:
        epoch: Number of the hub's database; a hub restored from a backup starts a higher one.
        gen: Generation within the epoch. A lower one of the same epoch is ignored.
        bundle: What to run, or ``None`` to keep what is there.
        config: How to run it, or ``None`` to keep what is there.
        rollout: Identifies the push.
        withdrawn: The device's own wish counts no longer, its group's does. Said and not cleared, because a
            device that is away hears nothing of a cleared topic when it comes back.
        window: When the bundle may become active; ``None`` for at once.
        agent: What the agent itself should be, or ``None`` to keep what is there.
        gens: Generation in which each part was last asked for, by its field's name. A part that isn't named was asked
            for in ``gen``; one that is named and older only came along with what was pushed now.
        pushes: Push that last asked for each part, by its field's name. A part that isn't named was asked for by
            ``rollout``.
    """

    epoch: int
    gen: int
    bundle: BundleRef | None = None
    config: ConfigRef | None = None
    rollout: str = ""
    withdrawn: bool = False
    window: MaintenanceWindow | None = None
    agent: BundleRef | None = None
    gens: dict[str, int] = {}
    pushes: dict[str, str] = {}

    def asked(self, part: str) -> int:
        """Returns the generation in which a part was last asked for."""
        return self.gens.get(part, self.gen)

    def pushed_by(self, part: str) -> str:
        """Returns the identifier of the push that last asked for a part."""
        return self.pushes.get(part, self.rollout)


TEXT_MAX = 2000
"""Characters of each text of a `Problem`; a longer one is cut at both ends of the link."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it travels: `lineside_runtime.errors.LinesideError.as_dict`, read back.

    Attributes:
        code: Stable number of the error, as in ``docs/reference/errors.md``.
        error: Name of its class.
        message: What happened.
        expected: What would have been right, where that can be said.
        actual: What was there instead.
        action: What to do.
    """

    code: int
    error: str
    message: str
    expected: str | None = None
    actual: str | None = None
    action: str = ""

    def __post_init__(self) -> None:
        for name in ("error", "message", "expected", "actual", "action"):
            text: str | None = getattr(self, name)
            if text is not None and len(text) > TEXT_MAX:
                msgspec.structs.force_setattr(self, name, f"{text[: TEXT_MAX - 1]}…")


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent's own update stands: the same words as for the bundle.

    Attributes:
        epoch: Of the `Desired` that this answers.
        gen: Of the `Desired` that this answers.
        state: State of the agent's update machine.
        installed: The agent that runs; on trial, the one that ran before.
        previous: What is whole in the other slot.
        wanted: The agent of the `Desired` that this answers.
        error: Why the wanted agent doesn't run, if so.
        waiting: What it waits for, such as the maintenance window; empty if for nothing.
    """

    epoch: int = 0
    gen: int = 0
    state: State = "idle"
    installed: BundleRef | None = None
    previous: BundleRef | None = None
    wanted: BundleRef | None = None
    error: Problem | None = None
    waiting: Text = ""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """How a fetch went.

    Attributes:
        link_bytes: Came over the link, patches included.
        multicast_bytes: How many of them were sent to all at once.
        file_bytes: Size of the bundle's files.
        patched: Files that were made from what was there.
        fallbacks: Why a file came whole although there was a patch for it, one line each.
    """

    link_bytes: int = 0
    multicast_bytes: int = 0
    file_bytes: int = 0
    patched: int = 0
    fallbacks: tuple[str, ...] = ()


class ConfigReport(msgspec.Struct, frozen=True, kw_only=True):
    """Which configuration a device follows, and how the last wish for one went.

    Attributes:
        epoch: Of the `Desired` that this answers.
        gen: Of the `Desired` that this answers.
        installed: What is followed; ``None`` for ``agent.toml`` alone.
        wanted: What the `Desired` asks for.
        error: Why that isn't followed, if so.
    """

    epoch: int = 0
    gen: int = 0
    installed: ConfigRef | None = None
    wanted: ConfigRef | None = None
    error: Problem | None = None


class DriftAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that has changed on a line.

    Attributes:
        name: What, such as ``sharpness-low``, ``bad-high`` or ``type:scratches``.
        since_ns: Unix time at which the alarm began.
        text: For people, with the figures.
    """

    name: Name
    since_ns: int
    text: Text = ""


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device's camera and its model's verdicts still look as they did when they were learned.

    Attributes:
        learning: Whether it still learns how things look, or what a new bundle says.
        alarms: What has changed; none while all is well.
    """

    learning: bool = False
    alarms: Annotated[tuple[DriftAlarm, ...], msgspec.Meta(max_length=256)] = ()


class DegradationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a device gives up because it is hot or late.

    Attributes:
        steps: In order, such as ``images`` and ``variant``; none while all is well.
        reason: Why the last one was taken.
    """

    steps: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)] = ()
    reason: Text = ""


MARKS_MAX = 50
"""Marks that a device reports; older ones are at the hub long since."""

NOTE_MAX = 200
"""Characters of a mark's note: all marks stand in every report."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator said of a verdict, beside the line.

    Attributes:
        epoch: Of the device's database.
        seq: Of the record.
        at_ns: Unix time at which it was said; of two marks on one record the later one counts.
        wrong: Whether the verdict is wrong; false takes that back.
        note: For whoever corrects it.
    """

    epoch: Name
    seq: int
    at_ns: int
    wrong: bool = True
    note: Text = ""


class Reported(_Message, frozen=True, kw_only=True):
    """What a device runs, and how the last wish went.

    Attributes:
        device: Its name.
        epoch: Of the `Desired` that this answers.
        gen: Of the `Desired` that this answers.
        state: State of the update machine.
        installed: The bundle that runs.
        previous: The bundle that it would go back to.
        wanted: The bundle of the `Desired` that this answers.
        error: Why the wanted bundle doesn't run, if so.
        boot_id: New at every start of the agent.
        free_bytes: Room on the device's disk.
        progress: Share of the fetch that is done, 0 to 1.
        agent: How the agent's own update stands; ``None`` from an agent that runs from no slot.
        configuration: Which configuration it follows.
        waiting: What it waits for, such as the maintenance window; empty if for nothing.
        transfer: How the last fetch went; ``None`` before the first.
        drift: Whether the line has changed; ``None`` from an agent that doesn't watch that.
        marks: The last `MARKS_MAX` that operators made, in every report: told again they change nothing.
        recipe: Name of the recipe that runs; empty on a line without recipes.
        degradation: What is given up for heat or lateness; ``None`` from an agent that gives up nothing.
    """

    device: Name
    epoch: int = 0
    gen: int = 0
    state: State = "idle"
    installed: BundleRef | None = None
    previous: BundleRef | None = None
    wanted: BundleRef | None = None
    error: Problem | None = None
    boot_id: Name = ""
    free_bytes: int = 0
    progress: float = 0.0
    agent: AgentReport | None = None
    configuration: ConfigReport | None = None
    waiting: Text = ""
    transfer: Transfer | None = None
    drift: DriftReport | None = None
    marks: Annotated[tuple[Mark, ...], msgspec.Meta(max_length=10 * MARKS_MAX)] = ()
    recipe: Name = ""
    degradation: DegradationReport | None = None


class Up(_Message, frozen=True, kw_only=True):
    """Birth (``up`` true) or last will (``up`` false).

    Attributes:
        device: Its name.
        up: Whether it is there.
        boot_id: New at every start of the agent; a foreign one on one's own topic means that the name is taken twice.
        group: The group that it belongs to.
        agent_version: Version of lineside on it.
        board: Model of the board.
        devices: Its processors, such as ``ort/cpu:0``.
        engines: Engine to version.
    """

    device: Name
    up: bool
    boot_id: Name
    group: Name = ""
    agent_version: Name = ""
    board: Name = ""
    devices: Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)] = ()
    engines: Annotated[dict[Name, Text], msgspec.Meta(max_length=64)] = {}


class RepoRequest(_Message, frozen=True, kw_only=True):
    """Asks the repository for one piece.

    Attributes:
        id: Chosen by the device; comes back in the answer.
        kind: ``metadata`` and ``target`` are TUF's files, by their consistent-snapshot names; ``chunk`` is one chunk;
            ``deltas`` is the `Deltas` from one bundle to another; ``multicast`` asks to send a target to all at once.
        path: Name of the file, hexadecimal sha256 of the chunk or of the wanted bundle's manifest, or the target.
        part: Number of the piece.
        piece: Size of a piece in bytes; smaller ones of a chunk for a link that breaks often.
        base: Of ``deltas`` and ``multicast``: sha256 of the manifest of the bundle that is there; empty for none.
        damaged: Of ``chunk``: it came with another hash, so the hub looks whether its own copy is whole.
    """

    id: str
    kind: Literal["metadata", "target", "chunk", "deltas", "multicast"]
    path: str
    part: int = 0
    piece: int = CHUNK_BYTES
    base: str = ""
    damaged: bool = False


class RepoResponse(_Message, frozen=True, kw_only=True):
    """Head of an answer; a newline and the bytes follow it.

    Attributes:
        id: Of the request.
        status: 200, 202 (is being made: ask again), 404 (not there) or 503 (busy: ask again later).
        part: Number of this piece.
        parts: How many pieces the file has.
        size: Of the whole file, in bytes.
        knows: Of ``metadata``: what this hub can do beyond the first release (`FEATURES`).
        multicast_bytes_s: Of ``metadata``: how fast it sends to all at once.
    """

    id: str
    status: int
    part: int = 0
    parts: int = 1
    size: int = 0
    knows: tuple[str, ...] = ()
    multicast_bytes_s: int = 0


PatchFormat = Literal["zstd", "bsdiff4"]


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """Makes one file of a bundle out of one that is there. It is not signed: the file's own hash is what counts.

    Attributes:
        file: sha256 of the file that it makes.
        base: sha256 of the file that it starts from; empty for a file that is compressed as a whole.
        format: ``zstd`` (as of ``zstd --patch-from``) or ``bsdiff4``.
        size: Of the patch, in bytes.
        sha256: Of the patch.
        chunks: sha256 of each of its chunks, which are asked for like any other.
    """

    file: str
    base: str
    format: PatchFormat
    size: int
    sha256: str
    chunks: tuple[str, ...]


class Deltas(_Message, frozen=True, kw_only=True):
    """How to come from one bundle to another.

    Attributes:
        patches: For each file for which one is smaller than the file.
    """

    patches: tuple[Patch, ...] = ()


class Multicast(_Message, frozen=True, kw_only=True):
    """What the hub is about to send to all that subscribe to a target's chunks.

    Attributes:
        id: Of this sending; its end says the same.
        chunks: How many.
        bytes_s: How fast, in bytes a second.
    """

    id: str
    chunks: int
    bytes_s: int


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What one of several cameras saw of a part.

    Attributes:
        source: The camera's name.
        captured_at_ns: Unix time of the capture.
        verdict: As in `ResultRow`, on this camera's picture alone.
        unsure: As in `ResultRow`.
        detections: As in `ResultRow`; boxes in pixels of this camera's frame.
        doubtful: As ``detections``.
        width: Of the frame.
        height: Of the frame.
        latency_ms: From this frame to its verdict.
        near_miss: As in `ResultRow`.
        used_variant: As in `ResultRow`.
        error: Why there was no verdict on it, if so.
    """

    source: Name
    captured_at_ns: int = 0
    verdict: Literal["pass", "reject", "fault"]
    unsure: bool = False
    detections: Boxes = ()
    doubtful: Boxes = ()
    width: int = 0
    height: int = 0
    latency_ms: float = 0.0
    near_miss: float = 0.0
    used_variant: Name = ""
    error: Text = ""


class ResultRow(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the device's outbox.

    Attributes:
        seq: Position in the outbox; contiguous from 1 within the epoch.
        part_id: The inspected part.
        source: Where the frame came from.
        sequence: Number of the frame at its source.
        captured_at_ns: Unix time of the capture.
        verdict: ``pass``, ``reject`` (a defect was found, or see ``unsure``) or ``fault`` (no verdict was possible: the
            line rejects).
        detections: ``[type, score, x1, y1, x2, y2]`` each; boxes in pixels of the frame.
        bundle: ``name@version`` that judged.
        bundle_sha256: Digest of its manifest.
        requested_device: Asked for.
        used_device: Used.
        latency_ms: From frame to verdict.
        width: Of the frame.
        height: Of the frame.
        error: Why there was no verdict, if so.
        near_miss: How near the strongest candidate came that was no defect: its share of its threshold, 0 to 1.
        unsure: The verdict is ``reject`` because the bundle was unsure: a person is to look. A field of its own, so
            that a hub that doesn't know of it reads a reject.
        doubtful: As ``detections``: what it was unsure of.
        recipe: Name of the product's recipe under which the part was judged; empty on a line without recipes.
        requested_variant: Variant of the bundle that was to judge.
        used_variant: Variant that judged: a faster one where the part would have been late, or the box was hot.
        views: Where several cameras saw the part, what each of them saw; ``detections`` and the frame's size are then
            those of the camera that decided.
        unknown: Nobody knows whether a part had this number: it was reserved when the power was cut. Such a row is no
            production figure. A field of its own beside the verdict ``fault``, for a hub that doesn't know of it.
    """

    seq: int
    part_id: Name
    source: Text = ""
    sequence: int = 0
    captured_at_ns: int = 0
    verdict: Literal["pass", "reject", "fault"]
    detections: Boxes = ()
    bundle: Text = ""
    bundle_sha256: Name = ""
    requested_device: Name = ""
    used_device: Name = ""
    latency_ms: float = 0.0
    width: int = 0
    height: int = 0
    error: Text = ""
    near_miss: float = 0.0
    unsure: bool = False
    doubtful: Boxes = ()
    recipe: Name = ""
    requested_variant: Name = ""
    used_variant: Name = ""
    views: Annotated[tuple[View, ...], msgspec.Meta(max_length=64)] = ()
    unknown: bool = False


class Results(_Message, frozen=True, kw_only=True):
    """Rows on their way home.

    Attributes:
        epoch: Identifies the device's database; a new database starts a new one.
        rows: In order of ``seq``.
        after: With ``through``: ``rows`` holds all that the device still has above ``after``, up to ``through``. What
            is missing there is gone, as after the hub was restored from a backup older than what it had confirmed.
        through: See ``after``; -1 says nothing about gaps.
    """

    epoch: str
    rows: tuple[ResultRow, ...]
    after: int = 0
    through: int = -1


class ResultsAck(_Message, frozen=True, kw_only=True):
    """What the hub has committed.

    Attributes:
        epoch: Of the device's database.
        seq: All rows up to and including this one are committed.
        window: How many rows may be on their way above ``seq``; 0 leaves it to the device. The hub makes it smaller
            while it is behind.
    """

    epoch: str
    seq: int
    window: int = 0


FRAME_PIECE_BYTES = 16 * 1024
"""What a device sends of a frame at a time: at 2 Mbit/s a result waits 65 ms behind it."""

OFFER = -1
"""`FramePiece.offset` of a message that only asks whether, and from where, the hub wants the frame."""


class FramePiece(_Message, frozen=True, kw_only=True):
    """Head of a piece of a kept frame on its way home; a newline and the bytes follow it.

    Each says all of the frame, so that a hub that was killed meanwhile goes on with whatever piece comes next.

    Attributes:
        epoch: Of the device's database.
        seq: Of the record that the frame belongs to.
        sha256: Of the whole PNG file.
        size: Of the whole file, in bytes.
        offset: Where the bytes belong; `OFFER` without bytes.
    """

    epoch: str
    seq: int
    sha256: str
    size: int
    offset: int = OFFER


class RecipeCommand(_Message, frozen=True, kw_only=True):
    """Asks a device to change over to another recipe, now: it is not kept for one that is away.

    Attributes:
        id: Chosen by who asks. It is said again until there is an answer, and carried out once.
        recipe: Name of one of the device's recipes.
    """

    id: str
    recipe: str


class RecipeAnswer(_Message, frozen=True, kw_only=True):
    """How a changeover went.

    Attributes:
        id: Of the command.
        recipe: Name of the recipe that runs now.
        error: Why it isn't the one that was asked for; ``None`` if it is.
    """

    id: str
    recipe: str
    error: Problem | None = None


Shapes = Sequence[dict[str, tuple[int, ...]]]
"""Of a model's inputs by name, one for each kind of frame that is timed."""


class TimeCommand(_Message, frozen=True, kw_only=True):
    """Asks a device to fetch a bundle, time its variants and forget it, now: what runs there goes on running.

    Attributes:
        id: Chosen by who asks. It is said again while the device works, and carried out once.
        bundle: What to time; ``None`` asks only whether the device would.
        rounds: How many turns each variant has.
        shapes: Of the inputs by name, of each kind of frame that is to be timed; none: one frame's by the manifest.
    """

    id: str
    bundle: BundleRef | None = None
    rounds: int = 10
    shapes: tuple[dict[str, tuple[int, ...]], ...] = ()


class VariantTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one variant.

    Attributes:
        variant: Its name.
        device: That ran it, such as ``ort/cpu:0``; empty if nothing there can.
        rounds_ms: Median time of a warm call in each round, with an input of each shape; the same round of another
            variant lies right beside it.
        why: Why nothing there runs it.
    """

    variant: str
    device: str = ""
    rounds_ms: tuple[tuple[float, ...], ...] = ()
    why: str = ""


class TimeAnswer(_Message, frozen=True, kw_only=True):
    """How far that is.

    Attributes:
        id: Of the command.
        state: ``ready`` where no bundle was named; ``done`` and ``failed`` are the last.
        progress: Share of the fetch that is done.
        board: What the device is.
        variants: Of the bundle, in its order; empty before ``done``.
        inspected: Frames that the line judged meanwhile: it shares the processor.
        error: Why it failed.
    """

    id: str
    state: Literal["ready", "fetching", "timing", "done", "failed"]
    progress: float = 0.0
    board: str = ""
    variants: tuple[VariantTimes, ...] = ()
    inspected: int = 0
    error: Problem | None = None


class FrameAnswer(_Message, frozen=True, kw_only=True):
    """What the hub says to a piece, or an offer.

    Attributes:
        epoch: As in the piece.
        seq: As in the piece.
        sha256: As in the piece.
        status: ``send`` it; ``stored``: the device may forget it; ``wait`` and offer it again; ``refused`` for good.
        have: Everything before this byte is there.
        again: The piece doesn't follow what is there: go on at ``have``.
        bytes_s: How fast the device may send, in bytes a second; 0 leaves it to the device.
        wait_s: With ``wait``: how long.
        error: Why it must wait, or is refused.
    """

    epoch: str
    seq: int
    sha256: str
    status: Literal["send", "stored", "wait", "refused"]
    have: int = 0
    again: bool = False
    bytes_s: int = 0
    wait_s: float = 0.0
    error: Problem | None = None


class CertificateRequest(_Message, frozen=True, kw_only=True):
    """A device asks for a certificate: the first one with a token, the next ones with the one that it has.

    Attributes:
        device: Its name.
        csr: PKCS #10 in PEM; its common name is the device.
        signer: Whose key made ``signature``: ``token:<id>`` or ``serial:<hexadecimal>`` of a certificate.
        signature: ECDSA over the request, base64.
    """

    device: str
    csr: str
    signer: str
    signature: str


class CertificateAnswer(_Message, frozen=True, kw_only=True):
    """The authority's answer.

    Attributes:
        device: Whose request this answers.
        request: sha256 of its ``csr``, hexadecimal.
        status: ``waiting`` where a person must sign: the answer comes later on the same topic.
        certificate: In PEM, once issued.
        error: Why not, if refused.
    """

    device: str
    request: str
    status: Literal["issued", "waiting", "refused"]
    certificate: str = ""
    error: Problem | None = None


_DECODERS: dict[type, JsonDecoder[Any]] = {kind: JsonDecoder(kind) for kind in _Message.__subclasses__()}
"""Made while this module is imported, in one thread: two threads that decode a class for the first time at the same
time crash the process (msgspec 0.22; what a class looks like is worked out at its first use, without a lock)."""

M = TypeVar("M", bound=_Message)

_encoder = msgspec.json.Encoder()


def encode(message: _Message) -> bytes:
    """Returns the message as JSON."""
    return _encoder.encode(message)


def decode(data: bytes | bytearray, kind: type[M]) -> M:
    """Reads a message.

    Args:
        data: JSON.
        kind: Class of the message.

    Raises:
        BadInputFormatError: Not such a message, or of a version that is further away than one.
    """
    try:
        message: M = _DECODERS[kind].decode(data)
    except msgspec.DecodeError as error:  # the last: brackets without end
        raise BadInputFormatError(
            f"{kind.__name__} message: {error}", action="Nothing was done with it; look at who sends on this topic."
        ) from error
    if abs(message.v - VERSION) > 1:
        raise BadInputFormatError(
            f"{kind.__name__} message of another version",
            expected=f"{VERSION - 1} to {VERSION + 1}",
            actual=message.v,
            action="Update the older end.",
        )
    return message


MESSAGE_MAX_BYTES = 1 << 20
"""The largest payload that a device sends and the hub takes; the generated broker configuration refuses more."""

DESIRED_FIELD = "x-lineside-desired-sha256"
"""Field of a carried medium's TUF timestamp: sha256 of the `Desired` that lies beside it."""


def encode_head(head: RepoResponse) -> bytes:
    """Returns the head of an answer as one line of JSON and a newline; its bytes follow."""
    return _encoder.encode(head) + b"\n"


def encode_response(head: RepoResponse, body: bytes = b"") -> bytes:
    """Returns the head as one line of JSON, a newline and the bytes."""
    return encode_head(head) + body


def decode_response(data: bytes) -> tuple[RepoResponse, bytes]:
    """Splits an answer of the repository.

    Raises:
        BadInputFormatError: It has no head.
    """
    head, body = split_response(data)
    return head, bytes(body)


def split_response(data: bytes | bytearray) -> tuple[RepoResponse, memoryview]:
    """As `decode_response`, but the bytes are not copied.

    Raises:
        BadInputFormatError: It has no head.
    """
    end = data.find(b"\n")
    if end < 0:
        raise BadInputFormatError("answer of the repository without a head", action="It is asked for again.")
    return decode(data[:end], RepoResponse), memoryview(data)[end + 1 :]


def encode_piece(head: FramePiece, body: bytes = b"") -> bytes:
    """Returns the head as one line of JSON, a newline and the bytes."""
    return _encoder.encode(head) + b"\n" + body


def decode_piece(data: bytes) -> tuple[FramePiece, bytes]:
    """Splits a piece of a frame.

    Raises:
        BadInputFormatError: It has no head.
    """
    head, newline, body = data.partition(b"\n")
    if not newline:
        raise BadInputFormatError("piece of a frame without a head", action="Nothing was done with it.")
    return decode(head, FramePiece), body


KINDS = (
    Desired,
    Reported,
    Up,
    RepoRequest,
    RepoResponse,
    Deltas,
    Multicast,
    Results,
    ResultsAck,
    FramePiece,
    FrameAnswer,
    RecipeCommand,
    RecipeAnswer,
    TimeCommand,
    TimeAnswer,
    CertificateRequest,
    CertificateAnswer,
)
"""All messages."""


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of all messages, by class name under ``$defs``."""
    _, components = msgspec.json.schema_components(KINDS, ref_template="#/$defs/{name}")
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": components}
    # Once through JSON, so that defaults are lists as every validator knows them, and not tuples.
    plain: dict[str, Any] = decode_json(msgspec.json.encode(described))
    return plain
