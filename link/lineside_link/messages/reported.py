"""Reported state of a device: device to hub."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from lineside_link.messages.base import Message, Name, Problem, Text
from lineside_link.messages.desired import BundleRef, ConfigRef

State = Literal[
    "idle", "fetching", "verifying", "staged", "switching", "health_check", "active", "rolled_back", "failed"
]
STATES: tuple[State, ...] = get_args(State)


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """State of the agent's own update; fields as for the bundle in `Reported`.

    Attributes:
        epoch: Of the `Desired` that this answers.
        gen: Of the `Desired` that this answers.
        state: State of the agent's update machine.
        installed: The agent that runs; during its health check, the one that ran before.
        previous: The complete agent in the other slot.
        wanted: The agent of the `Desired` that this answers.
        error: Why the wanted agent doesn't run, if so.
        waiting: What the device waits for, such as the maintenance window; empty for nothing.
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
    """Statistics of a fetch.

    Attributes:
        link_bytes: Received over the link, patches included.
        multicast_bytes: How many of them were multicast.
        file_bytes: Size of the bundle's files.
        patched: Files that were made by a patch.
        fallbacks: Why a file was fetched whole although there was a patch for it, one line each.
    """

    link_bytes: int = 0
    multicast_bytes: int = 0
    file_bytes: int = 0
    patched: int = 0
    fallbacks: tuple[str, ...] = ()


class ConfigReport(msgspec.Struct, frozen=True, kw_only=True):
    """Which configuration a device follows, and how the last desired state for one went.

    Attributes:
        epoch: Of the `Desired` that this answers.
        gen: Of the `Desired` that this answers.
        installed: The active configuration; ``None`` for ``agent.toml`` alone.
        wanted: What the `Desired` asks for.
        error: Why it is not active, if so.
        waiting: What the device waits for, such as the maintenance window; empty for nothing.
    """

    epoch: int = 0
    gen: int = 0
    installed: ConfigRef | None = None
    wanted: ConfigRef | None = None
    error: Problem | None = None
    waiting: Text = ""


class DriftAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """One change on a line.

    Attributes:
        name: Such as ``sharpness-low``, ``bad-high`` or ``type:scratches``.
        since_ns: Unix time at which the alarm began.
        text: For people, with the figures.
    """

    name: Name
    since_ns: int
    text: Text = ""


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """Drift of a device's images and verdicts from their learned reference.

    Attributes:
        learning: Whether the reference is still being learned, as after a new bundle.
        alarms: What has drifted; none without drift.
    """

    learning: bool = False
    alarms: Annotated[tuple[DriftAlarm, ...], msgspec.Meta(max_length=256)] = ()


class DegradationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Reduced service because of heat or load.

    Attributes:
        steps: Active steps in order, such as ``images`` and ``variant``; none at full service.
        reason: Why the last one was taken.
    """

    steps: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)] = ()
    reason: Text = ""

    @property
    def text(self) -> str:
        """Steps and reason; empty at full service."""
        return f"{', '.join(self.steps)}: {self.reason}" if self.steps else ""


class PlacementReport(msgspec.Struct, frozen=True, kw_only=True):
    """On which device the model runs; with several models their devices are joined by ``+``.

    Attributes:
        requested_device: Processor that should run it, such as ``cpu:0``.
        used_device: Engine and processor that answered, such as ``ort/cpu:0``.
        problem: Why a device or engine that comes first does not run it; empty if it does.
    """

    requested_device: Text = ""
    used_device: Text = ""
    problem: Text = ""


MARKS_MAX = 50
"""How many marks a device reports; the hub has received older ones before."""

NOTE_MAX = 200
"""Characters of the note of a mark; short, because every report holds all marks."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's mark on a verdict.

    Attributes:
        epoch: Of the device's database.
        seq: Of the record.
        at_ns: Unix time; of two marks on one record the later one counts.
        wrong: Whether the verdict is wrong; false withdraws an earlier mark.
        note: For the person who corrects it.
    """

    epoch: Name
    seq: int
    at_ns: int
    wrong: bool = True
    note: Text = ""


class Reported(Message, frozen=True, kw_only=True):
    """Reported state of a device: what it runs, and the outcome of the last desired state.

    Attributes:
        device: Its name.
        epoch: Of the `Desired` that this answers.
        gen: Of the `Desired` that this answers.
        state: State of the update machine.
        installed: The bundle that runs.
        previous: The bundle of a roll-back.
        wanted: The bundle of the `Desired` that this answers.
        error: Why the wanted bundle doesn't run, if so.
        boot_id: New at every start of the agent.
        free_bytes: Room on the device's disk.
        progress: Share of the fetch that is done, 0 to 1.
        agent: The agent's own update; ``None`` from an agent that does not run from a slot.
        configuration: The active configuration.
        waiting: What the device waits for, such as the maintenance window; empty for nothing.
        ignored: Why the desired state that came last is ignored; empty if it is not.
        transfer: Statistics of the last fetch; ``None`` before the first.
        drift: ``None`` from an agent that does not monitor drift.
        marks: The last `MARKS_MAX` marks of operators, in every report; repeats change nothing.
        recipe: Name of the recipe that runs; empty on a line without recipes.
        degradation: ``None`` from an agent without a degradation policy.
        placement: ``None`` before the first bundle, and from an older agent.
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
    ignored: Text = ""
    transfer: Transfer | None = None
    drift: DriftReport | None = None
    marks: Annotated[tuple[Mark, ...], msgspec.Meta(max_length=10 * MARKS_MAX)] = ()
    recipe: Name = ""
    degradation: DegradationReport | None = None
    placement: PlacementReport | None = None


class Up(Message, frozen=True, kw_only=True):
    """Birth (``up`` true) or last will (``up`` false).

    Attributes:
        device: Its name.
        up: Whether the device is connected.
        boot_id: New at every start of the agent; another one on a device's own topic means that two devices have its
            name.
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
