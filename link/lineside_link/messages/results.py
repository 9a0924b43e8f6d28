"""Inspection results: device to hub, and the hub's acknowledgement."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from lineside_link.messages.base import Message, Name, Text

BOXES_MAX = 4096
"""Detections of a row, or of one view of it."""

Boxes = Annotated[
    tuple[tuple[Name, float, float, float, float, float], ...],
    msgspec.Meta(max_length=BOXES_MAX),
]
"""``[type, score, x1, y1, x2, y2]`` each."""


class MeasuredValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A measured feature of a part.

    As JSON, one that is not in tolerance begins with its name, by which a hub's database finds it.

    Attributes:
        in_tolerance: Whether the value is known and within its limits.
        name: Of the rule.
        type: ``length``, ``gap``, ``diameter``, ``presence`` or ``count``.
        value: In ``unit``; ``None`` if it could not be measured.
        unit: ``mm``, ``px``, ``share`` or empty for a count.
        min: Lower limit; ``None`` for none.
        max: Upper limit; ``None`` for none.
        line: ``[x1, y1, x2, y2]`` in pixels of the frame: from edge to edge, or the corners of the area.
        error: Why it could not be measured, if so.
    """

    in_tolerance: bool = False
    name: Name
    type: Name = ""
    value: float | None = None
    unit: Name = ""
    min: float | None = None
    max: float | None = None
    line: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    error: Text = ""


Measurements = Annotated[tuple[MeasuredValue, ...], msgspec.Meta(max_length=64)]


class ReadMark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A code or text on a part.

    As JSON, one that is not accepted begins with its name, by which a hub's database finds it.

    Attributes:
        accepted: Whether it was read and is right.
        name: Of the rule.
        type: Kind of the rule, such as ``code``.
        text: What was read, control characters by their names, such as ``<GS>``; empty if nothing was read.
        symbology: Such as ``data-matrix``; empty where there is none.
        agrees_with: What the text was compared with: a rule, ``part_id`` or a field of the expected values.
        expected: What the text had to be; empty if any is right or it is not known.
        outline: Corners ``[x, y]`` of the mark in pixels of the frame, or of the region where nothing was read.
        failure: What the part is by this mark: ``fault``, ``reject``, or none for an accepted one.
        error: Why it is not accepted, if so.
        is_part_id: Whether its text is the part's id, where it is accepted.
    """

    accepted: bool = False
    name: Name
    type: Name = ""
    text: Text = ""
    symbology: Name = ""
    agrees_with: Name = ""
    expected: Text = ""
    outline: Annotated[tuple[tuple[float, float], ...], msgspec.Meta(max_length=64)] = ()
    failure: Literal["fault", "reject"] | None = None
    error: Text = ""
    is_part_id: bool = False


Readings = Annotated[tuple[ReadMark, ...], msgspec.Meta(max_length=64)]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict of one of several cameras on a part.

    Attributes:
        source: The camera's name.
        captured_at_ns: Unix time of the capture.
        verdict: As in `ResultRow`, on the image of this camera alone.
        unsure: As in `ResultRow`.
        detections: As in `ResultRow`; boxes in pixels of this camera's frame.
        doubtful: As ``detections``.
        width: Of the frame.
        height: Of the frame.
        latency_ms: From this frame to its verdict.
        near_miss: As in `ResultRow`.
        used_variant: As in `ResultRow`.
        error: Why there was no verdict, if so.
        measurements: As in `ResultRow`, of this camera.
        readings: As in `ResultRow`, of this camera.
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
    measurements: Measurements = ()
    readings: Readings = ()


class ResultRow(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the device's outbox.

    Attributes:
        seq: Position in the outbox; contiguous from 1 within the epoch.
        part_id: The inspected part, as line or camera named it or as it was read from the part.
        source: Where the frame came from.
        sequence: Number of the frame at its source.
        captured_at_ns: Unix time of the capture.
        verdict: ``pass``, ``reject`` (a defect was found, a measured value is out of tolerance, a mark is wrong, or see
            ``unsure``) or ``fault`` (no verdict was possible: the line rejects).
        detections: ``[type, score, x1, y1, x2, y2]`` each; boxes in pixels of the frame.
        bundle: ``name@version`` of the bundle.
        bundle_sha256: Digest of its manifest.
        requested_device: Processor that should have run the model.
        used_device: Processor that ran it.
        latency_ms: Time from frame to verdict.
        width: Of the frame.
        height: Of the frame.
        error: Why there was no verdict, if so.
        near_miss: Score of the strongest candidate below its threshold, as a share of that threshold, 0 to 1.
        unsure: The verdict is ``reject`` because the bundle was unsure: a person should look. A field of its own, so
            that a hub without it reads a reject.
        doubtful: As ``detections``: those that it was unsure of.
        recipe: Name of the active recipe; empty on a line without recipes.
        requested_variant: Variant of the bundle that should have run.
        used_variant: Variant that ran: a faster one where the deadline would have been missed, or under heat.
        views: With several cameras, the verdict of each; ``detections`` and the frame's size are then those of the
            camera that decided.
        measurements: What was measured of the part, out of tolerance or not; with several cameras by the camera that
            decided.
        unknown: The number was reserved at a power cut and may have had no part; it does not count in production. A
            field of its own beside the verdict ``fault``, for a hub without it.
        fallbacks: Calls of the model that another device answered than the first one asked for; a part of several
            cameras or pieces needs several calls.
        cache_hits: Calls that the result cache answered; ``used_device`` then computed the cached answer.
        readings: Codes and texts that were read from the part; with several cameras by the camera that decided.
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
    measurements: Measurements = ()
    fallbacks: int = 0
    cache_hits: int = 0
    readings: Readings = ()


class Results(Message, frozen=True, kw_only=True):
    """Rows of a device's outbox.

    Attributes:
        epoch: Identifies the device's database; a new database starts a new one.
        rows: In order of ``seq``.
        after: With ``through``: ``rows`` holds all that the device still has above ``after``, up to ``through``.
            Missing rows are lost, as after the hub was restored from a backup older than what it had confirmed.
        through: See ``after``; -1 says nothing about gaps.
    """

    epoch: str
    rows: tuple[ResultRow, ...]
    after: int = 0
    through: int = -1


class ResultsAck(Message, frozen=True, kw_only=True):
    """Acknowledges what the hub has committed.

    Attributes:
        epoch: Of the device's database.
        seq: All rows up to and including this one are committed.
        window: How many rows above ``seq`` may be unacknowledged; 0 leaves it to the device. A busy hub makes it
            smaller.
    """

    epoch: str
    seq: int
    window: int = 0
