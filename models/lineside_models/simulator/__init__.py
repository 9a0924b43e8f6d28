"""The line simulator: seeded frames of steel strip and bare boards, with defects and their true boxes.

It needs no data from anywhere. The same seed gives the same frame on every machine: all randomness comes
from PCG64, and pixels are made of additions and multiplications, whose results IEEE 754 fixes, and of
OpenCV's drawing of integer shapes; nothing here calls ``sin``, ``exp`` or a BLAS.

The looks follow NEU-DET and DeepPCB, so that a detector trained on those and on some frames from here
works on both. They are pictures of the same kinds of things, not substitutes for real data: figures
measured here say whether the whole line works, not how well it will do on somebody's parts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.simulator.pcb import render_pcb
from lineside_models.simulator.steel import render_steel
from lineside_runtime.errors import ConfigError

__all__ = ["Kind", "SimulatedFrame", "render", "stream"]

Kind = Literal["steel", "pcb"]

MIN_SIDE = 96
"""Smaller frames have no room for the defects, whose sizes are those of the real ones."""

_SIZES = {"steel": (200, 200), "pcb": (640, 640)}
_RENDERERS = {"steel": render_steel, "pcb": render_pcb}
_CLEAN_SHARE = 0.2
_MOST_DEFECTS = {"steel": 3, "pcb": 7}


@dataclasses.dataclass(frozen=True, slots=True)
class SimulatedFrame:
    """A rendered frame with its true boxes.

    Attributes:
        image: ``(H, W, 3) uint8`` BGR.
        boxes: ``(N, 4) float32``, ``x1, y1, x2, y2`` in pixels, x2 and y2 exclusive.
        labels: ``(N,) int64``, indices into `lineside_models.labels.LABELS`.
        kind: ``steel`` or ``pcb``.
    """

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    kind: Kind
    seed: int


def render(kind: Kind, seed: int, *, size: tuple[int, int] | None = None, defects: int | None = None) -> SimulatedFrame:
    """Renders one frame.

    Args:
        kind: ``steel`` or ``pcb``.
        seed: Any number from 0; the same seed gives the same frame.
        size: ``(height, width)`` in pixels, 96 at least; 200 x 200 for steel and 640 x 640 for boards if not given.
        defects: How many defects at most (a crowded frame may have no room for all); 0 is a good part.
            If not given, one frame in five is good.

    Returns:
        The frame with its true boxes.

    Raises:
        ConfigError: The kind is unknown, or a number is out of range.
    """
    if kind not in _RENDERERS:
        raise ConfigError("kind", expected=" or ".join(_RENDERERS), actual=kind)
    height, width = size or _SIZES[kind]
    if min(height, width) < MIN_SIDE or seed < 0 or (defects is not None and defects < 0):
        raise ConfigError(
            "the simulator's arguments",
            expected=f"sides of {MIN_SIDE} pixels or more, seed and defects of 0 or more",
            actual=f"size {height} x {width}, seed {seed}, defects {defects}",
        )
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, list(_RENDERERS).index(kind)])))
    count = _draw_count(rng, kind) if defects is None else defects
    grey, found = _RENDERERS[kind](rng, height, width, count)
    return SimulatedFrame(
        image=np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8),
        boxes=np.array([box for _, box in found], np.float32).reshape(-1, 4),
        labels=np.array([label for label, _ in found], np.int64),
        kind=kind,
        seed=seed,
    )


def _draw_count(rng: np.random.Generator, kind: Kind) -> int:
    if rng.random() < _CLEAN_SHARE:
        return 0
    return int(rng.integers(1, _MOST_DEFECTS[kind] + 1))


def stream(seed: int, *, kinds: Sequence[Kind] = ("steel", "pcb"), start_at: int = 0) -> Iterator[SimulatedFrame]:
    """Renders frames endlessly, the kinds in turn.

    Args:
        seed: Of the whole stream; every frame has its own seed, derived from it and the frame's number.
        kinds: What passes by on the line.
        start_at: Number of the first frame; those before it are not rendered.

    Yields:
        Frames; ``frame.seed`` renders the same one again.
    """
    for number in itertools.count(start_at):
        yield render(kinds[number % len(kinds)], int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
