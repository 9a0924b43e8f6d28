"""Commands to one device, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from lineside_link.messages.base import Message, Problem
from lineside_link.messages.desired import BundleRef


class RecipeCommand(Message, frozen=True, kw_only=True):
    """Asks a device to change to another recipe now; not retained for a device that is offline.

    Attributes:
        id: Chosen by the sender, who repeats the command until it is answered; the device executes it once.
        recipe: Name of one of the device's recipes.
    """

    id: str
    recipe: str


class RecipeAnswer(Message, frozen=True, kw_only=True):
    """Outcome of a change of recipe.

    Attributes:
        id: Of the command.
        recipe: Name of the recipe that runs now.
        error: Why it is not the requested one; ``None`` if it is.
    """

    id: str
    recipe: str
    error: Problem | None = None


class LogCommand(Message, frozen=True, kw_only=True):
    """Asks a device for the newest lines of its log.

    Attributes:
        id: Chosen by the sender, who repeats the command until it is answered.
        lines: How many at most.
    """

    id: str
    lines: int = 200


class LogAnswer(Message, frozen=True, kw_only=True):
    """The newest lines of a device's log.

    Attributes:
        id: Of the command.
        text: The lines, oldest first.
        error: Why there are none; ``None`` if there are.
    """

    id: str
    text: str = ""
    error: Problem | None = None


Shapes = Sequence[dict[str, tuple[int, ...]]]
"""Shapes of a model's inputs by name, one for each kind of frame that is timed."""


class TimeCommand(Message, frozen=True, kw_only=True):
    """Asks a device to fetch a bundle, time its variants and delete it; the line keeps running.

    Attributes:
        id: Chosen by the sender, who repeats the command while the device works; the device executes it once.
        bundle: What to time; ``None`` only asks whether the device accepts such commands.
        rounds: Number of rounds of each variant.
        shapes: Input shapes of each kind of frame; none: those of one frame by the manifest.
    """

    id: str
    bundle: BundleRef | None = None
    rounds: int = 10
    shapes: tuple[dict[str, tuple[int, ...]], ...] = ()


class VariantTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Times of one variant.

    Attributes:
        variant: Its name.
        device: Processor that ran it, such as ``ort/cpu:0``; empty if none can.
        rounds_ms: Median time of a warm call in each round, with an input of each shape; the same round of another
            variant lies right beside it.
        why: Why no processor runs it.
    """

    variant: str
    device: str = ""
    rounds_ms: tuple[tuple[float, ...], ...] = ()
    why: str = ""


class TimeAnswer(Message, frozen=True, kw_only=True):
    """Progress and outcome of a timing.

    Attributes:
        id: Of the command.
        state: ``ready`` if no bundle was named; ``done`` and ``failed`` are final.
        progress: Share of the fetch that is done.
        board: Model of the board.
        variants: Of the bundle, in its order; empty before ``done``.
        inspected: Frames inspected meanwhile: the line shares the processor.
        error: Why it failed.
    """

    id: str
    state: Literal["ready", "fetching", "timing", "done", "failed"]
    progress: float = 0.0
    board: str = ""
    variants: tuple[VariantTimes, ...] = ()
    inspected: int = 0
    error: Problem | None = None
