"""Commands to one device, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from lineside_link.messages.base import Message, Problem
from lineside_link.messages.desired import BundleRef


class RecipeCommand(Message, frozen=True, kw_only=True):
    """Asks a device to change over to another recipe, now: it is not kept for one that is away.

    Attributes:
        id: Chosen by who asks. It is said again until there is an answer, and carried out once.
        recipe: Name of one of the device's recipes.
    """

    id: str
    recipe: str


class RecipeAnswer(Message, frozen=True, kw_only=True):
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


class TimeCommand(Message, frozen=True, kw_only=True):
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


class TimeAnswer(Message, frozen=True, kw_only=True):
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
