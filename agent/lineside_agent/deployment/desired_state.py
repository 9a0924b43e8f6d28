"""Desired states, and what the deployment machines share. Pure.

- A device hears two wishes, its own and its group's. Its own counts, until it is withdrawn.
- A lower ``gen`` of the same hub epoch is ignored, and so is a lower epoch. The same wish again changes nothing but its
  maintenance window.
- A wish that ended badly has a name, so that it isn't tried again before the hub asks anew.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar

import msgspec

from lineside_link.messages import BundleRef, ConfigRef, Desired, Problem, State
from lineside_runtime.serving.backoff import Backoff

Origin = Literal["device", "group"]

RESTING: tuple[State, ...] = ("idle", "active", "rolled_back", "failed")
INTERRUPTIBLE: tuple[State, ...] = ("fetching", "verifying", "staged")

MAX_PAUSE_S = 60.0

REFUSED_MAX = 16
"""Wishes that ended badly, of which a machine knows the name."""


class DesiredStates(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine begins with.

    Attributes:
        device_wish: Newest wish for this device.
        group_wish: Newest wish for its group.
    """

    device_wish: Desired | None = None
    group_wish: Desired | None = None

    @property
    def wish(self) -> Desired | None:
        """The wish that counts: the device's own, unless it was withdrawn, before its group's."""
        own = self.device_wish
        return own if own is not None and not own.withdrawn else self.group_wish


W = TypeVar("W", bound=DesiredStates)


# -- events ------------------------------------------------------------------------------------------------------------


class Wished(NamedTuple):
    """A retained wish came; ``None`` where it was withdrawn."""

    origin: Origin
    desired: Desired | None


class Done(NamedTuple):
    """The action of the present state went well."""

    attempt: int


class Broke(NamedTuple):
    """The action of the present state went wrong.

    Attributes:
        attempt: Which one.
        problem: Why.
        transient: Whether the same again may go well, as with a link that is down.
    """

    attempt: int
    problem: Problem
    transient: bool = False


class Look(NamedTuple):
    """Look whether there is a wish to follow."""


# -- an action ---------------------------------------------------------------------------------------------------------


class LookAgain(NamedTuple):
    """Report where the machine stands, then feed `Look`."""


# -- decisions ---------------------------------------------------------------------------------------------------------


def hear(machine: W, origin: Origin, desired: Desired | None) -> tuple[W, bool]:
    """Returns the machine after it heard a wish, and whether another wish counts now.

    Args:
        machine: Any.
        origin: Whose wish it is.
        desired: What was heard; ``None`` for a wish that was withdrawn.
    """
    field = {"device": "device_wish", "group": "group_wish"}[origin]
    known: Desired | None = getattr(machine, field)
    if desired is None and known is None:
        return machine, False
    if desired is not None and known is not None and (desired.epoch, desired.gen) <= (known.epoch, known.gen):
        return _with_window(machine, field, known, desired), False
    heard = msgspec.structs.replace(machine, **{field: desired})
    return heard, heard.wish != machine.wish


def _with_window(machine: W, field: str, known: Desired, desired: Desired) -> W:
    """The same wish again may bring another maintenance window and no more."""
    if known.window == desired.window or (known.epoch, known.gen) != (desired.epoch, desired.gen):
        return machine
    return msgspec.structs.replace(machine, **{field: msgspec.structs.replace(known, window=desired.window)})


def is_same(one: BundleRef, other: BundleRef | None) -> bool:
    """Returns whether two names name the same content."""
    return other is not None and one.sha256 == other.sha256


def wish_id(epoch: int, asked: int, wanted: BundleRef | ConfigRef | None) -> str:
    """Names a wish that may end badly; one that brings the same along with something else is no new one.

    Args:
        epoch: Of the hub.
        asked: Generation in which it asked for just this.
        wanted: What it asked for.
    """
    return f"{epoch}/{asked}/{wanted.sha256 if wanted else ''}"


def pause_s(tries: int) -> float:
    """Returns how long to wait before the next fetch: 1 s, doubled each time, at most `MAX_PAUSE_S`."""
    return Backoff(1.0, MAX_PAUSE_S).after(tries) if tries else 0.0
