"""Messages between hub and devices, one definition for both ends; one module a conversation.

They are JSON with a ``v`` field, so that MQTT Explorer, Node-RED and a person can read them. Unknown fields are ignored
and a version that differs by one is understood, so that a fleet can be half updated.
"""

from __future__ import annotations

from lineside_link.messages.alarms import DeviceAlarms, OpenAlarm
from lineside_link.messages.base import TEXT_MAX, VERSION, Message, Name, Problem, Text
from lineside_link.messages.certificates import CertificateAnswer, CertificateRequest
from lineside_link.messages.codec import KINDS, MESSAGE_MAX_BYTES, decode, decode_framed, encode, encode_framed, schema
from lineside_link.messages.commands import (
    LogAnswer,
    LogCommand,
    RecipeAnswer,
    RecipeCommand,
    Shapes,
    TimeAnswer,
    TimeCommand,
    VariantTimes,
)
from lineside_link.messages.desired import (
    ARTIFACTS,
    DESIRED_FIELD,
    LOCAL_PREFIX,
    TIMING_SUFFIX,
    BundleRef,
    ConfigRef,
    Desired,
    MaintenanceWindow,
)
from lineside_link.messages.frames import FRAME_PIECE_BYTES, OFFER, FrameAnswer, FramePiece
from lineside_link.messages.interactions import InteractionRow, InteractionRows
from lineside_link.messages.reported import (
    MARKS_MAX,
    NOTE_MAX,
    STATES,
    AgentReport,
    ConfigReport,
    DegradationReport,
    DriftAlarm,
    DriftReport,
    Mark,
    PlacementReport,
    Reported,
    State,
    Transfer,
    Up,
)
from lineside_link.messages.repository import FEATURES, Deltas, Multicast, Patch, PatchFormat, RepoRequest, RepoResponse
from lineside_link.messages.results import (
    BOXES_MAX,
    Boxes,
    MeasuredValue,
    ReadMark,
    ResultRow,
    Results,
    ResultsAck,
    View,
)

__all__ = [
    "ARTIFACTS",
    "BOXES_MAX",
    "DESIRED_FIELD",
    "FEATURES",
    "FRAME_PIECE_BYTES",
    "KINDS",
    "LOCAL_PREFIX",
    "MARKS_MAX",
    "MESSAGE_MAX_BYTES",
    "NOTE_MAX",
    "OFFER",
    "STATES",
    "TEXT_MAX",
    "TIMING_SUFFIX",
    "VERSION",
    "AgentReport",
    "Boxes",
    "BundleRef",
    "CertificateAnswer",
    "CertificateRequest",
    "ConfigRef",
    "ConfigReport",
    "DegradationReport",
    "Deltas",
    "Desired",
    "DeviceAlarms",
    "DriftAlarm",
    "DriftReport",
    "FrameAnswer",
    "FramePiece",
    "InteractionRow",
    "InteractionRows",
    "LogAnswer",
    "LogCommand",
    "MaintenanceWindow",
    "Mark",
    "MeasuredValue",
    "Message",
    "Multicast",
    "Name",
    "OpenAlarm",
    "Patch",
    "PatchFormat",
    "PlacementReport",
    "Problem",
    "ReadMark",
    "RecipeAnswer",
    "RecipeCommand",
    "RepoRequest",
    "RepoResponse",
    "Reported",
    "ResultRow",
    "Results",
    "ResultsAck",
    "Shapes",
    "State",
    "Text",
    "TimeAnswer",
    "TimeCommand",
    "Transfer",
    "Up",
    "VariantTimes",
    "View",
    "decode",
    "decode_framed",
    "encode",
    "encode_framed",
    "schema",
]
