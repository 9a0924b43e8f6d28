"""What the deployment machine is told, and what it asks its runner to do: events in, actions out."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lineside_link.messages import BundleRef, ConfigRef, Desired, Problem

ArtifactRef = BundleRef | ConfigRef
Origin = Literal["device", "group", "local"]  # the hub, of this device or its group; a person here: `local_request`


class Started(NamedTuple):
    """The agent has started.

    Attributes:
        running: What was found in place: the bundle that ``agent.toml`` names, or the agent of the slot that runs.
        slot: Where that is; ``None`` for nowhere.
        verdict: Why the guard took an agent back.
        verdict_on: What that answers, as `DeploymentMachine.attempt_id`.
    """

    running: ArtifactRef | None = None
    slot: str | None = None
    on_trial: bool = False
    verdict: str = ""
    verdict_on: str = ""


class DesiredChanged(NamedTuple):
    """A retained desired state came; ``None`` where it was withdrawn."""

    origin: Origin
    desired: Desired | None


class Done(NamedTuple):
    """The action of the present state went well."""

    attempt: int


class Failed(NamedTuple):
    """The action of the present state failed.

    Attributes:
        transient: The same may succeed later, as with a broken link.
        unwritten: The state before the action could not be written: no check failed, and the attempt ends.
    """

    attempt: int
    problem: Problem
    transient: bool = False
    unwritten: bool = False


class LoadFailed(NamedTuple):
    """What was to run can't be loaded: its disk is damaged, or its engine is gone."""

    slot: str | None
    problem: Problem


class Rested(NamedTuple):
    """`Rest` was carried out."""


Event = Started | DesiredChanged | Done | Failed | LoadFailed | Rested


class Fetch(NamedTuple):
    """Bring the artifact into the slot, after a pause."""

    attempt: int
    artifact: ArtifactRef
    slot: str
    pause_s: float = 0.0


class Verify(NamedTuple):
    """Read everything in the slot and compare it with what was signed; then wait until a switch is allowed."""

    attempt: int
    artifact: ArtifactRef
    slot: str


class StageSlot(NamedTuple):
    """Try the artifact beside the one that runs."""

    attempt: int
    artifact: ArtifactRef
    slot: str


class Switch(NamedTuple):
    """Make the slot the current one."""

    attempt: int
    slot: str


class CheckHealth(NamedTuple):
    """Watch the artifact at its work, once."""

    attempt: int


class Restore(NamedTuple):
    """Make the slot the current one and what is in it run; done twice it changes nothing."""

    slot: str | None


class Rest(NamedTuple):
    """Report where the machine stands, then feed `Rested`."""


Action = Fetch | Verify | StageSlot | Switch | CheckHealth | Restore | Rest
