"""What a device runs and how it is: device to hub."""

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
    """Which configuration a device follows, and how the last desired state for one went.

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


class Reported(Message, frozen=True, kw_only=True):
    """What a device runs, and how the last desired state went.

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


class Up(Message, frozen=True, kw_only=True):
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
