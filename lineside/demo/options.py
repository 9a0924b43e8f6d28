"""What the demo was asked to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

FRAMES_DEFAULT = 120
"""Enough for every defect type of the simulator to be seen several times in half a minute."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The demo's options.

    Attributes:
        out: Folder for the report and what belongs to it; made if absent.
        frames: How many frames are inspected; a folder with fewer gives fewer.
        images: Folder of photos to inspect, or ``None``.
        camera: Number of a local camera, or ``None``.
        video: Video file, or ``None``.
        broker: URL of a broker that runs already, or ``None`` for the embedded one.
        keep: Whether repository, agent state and bundles are kept beside the report.
        seed: Of the line simulator, and of what is calibrated on.
    """

    out: Path
    frames: int = FRAMES_DEFAULT
    images: Path | None = None
    camera: int | None = None
    video: Path | None = None
    broker: str | None = None
    keep: bool = False
    seed: int = 1
