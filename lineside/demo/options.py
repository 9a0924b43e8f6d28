"""Options of the demo."""

from __future__ import annotations

import dataclasses
from pathlib import Path

FRAMES_DEFAULT = 120
"""Enough for every defect type of the simulator to be seen several times in half a minute."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Options of the demo.

    Attributes:
        out: Folder of the report; created if missing.
        frames: Number of frames, at most.
        images: Folder of photos to inspect, or ``None``.
        camera: Number of a local camera, or ``None``.
        video: Video file, or ``None``.
        broker: URL of a running broker, or ``None`` for the embedded one.
        keep: Whether repository, agent state and bundles are kept.
        seed: Of the line simulator.
    """

    out: Path
    frames: int = FRAMES_DEFAULT
    images: Path | None = None
    camera: int | None = None
    video: Path | None = None
    broker: str | None = None
    keep: bool = False
    seed: int = 1
