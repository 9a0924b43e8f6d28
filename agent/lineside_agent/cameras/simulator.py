"""The line simulator as a camera: drawn frames, the same ones for the same seed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lineside_agent.cameras.base import Camera, Shot
from lineside_models.frame import Frame
from lineside_models.simulator import Kind, stream


class SimulatorCamera(Camera):
    """Gives frames of `lineside_models.simulator.stream`; a ``part_id`` is ``sim-<kind>-<seed>`` of the drawing.

    Args:
        name: Name of the source in the records; empty for ``simulator:<seed>``.
        kinds: Kinds of parts, in turn.
    """

    def __init__(self, seed: int, *, name: str = "", kinds: tuple[Kind, ...] = ("steel", "pcb")) -> None:
        super().__init__(name or f"simulator:{seed}", finite=True)
        self._seed = seed
        self._kinds = kinds

    def _frames(self, start_at: int) -> Iterator[Shot]:
        frames = stream(self._seed, kinds=self._kinds, start_at=start_at)
        for sequence, drawn in enumerate(frames, start_at):
            yield Frame(
                image=drawn.image,
                source=self.source,
                sequence=sequence,
                part_id=f"sim-{drawn.kind}-{drawn.seed}",
                captured_at_ns=time.time_ns(),
            )
