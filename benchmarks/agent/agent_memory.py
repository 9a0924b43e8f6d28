"""Memory of an agent after a while of frames, as the kernel counts it, without a hub and with one.

A process that competes for the cores makes it slower and no larger. With a hub: what checks signatures and speaks MQTT
is loaded, and the broker is away. Besides resident memory stands the proportional share (PSS), in which a library that
other processes map as well counts in part.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.agent.agents import LOOKS, agent, memory_bytes, wait_recorded, write_pictures
from benchmarks.smoke import scaled
from lineside_hub.repository.repository import Repository

FRAMES = scaled(100, smoke=4)
BAR_BYTES = 150_000_000
SIZES: dict[str, tuple[int, int] | None] = scaled({"200x200": None, "640x480": (640, 480)}, smoke={"200x200": None})
NOBODY = {"link": {"url": "mqtt://127.0.0.1:9", "site": "bench"}, "root": "root.json"}


def run() -> dict[str, Any]:
    """Measures bytes."""
    found: dict[str, Any] = {"bar": {"resident_bytes": BAR_BYTES}, "frames": FRAMES}
    for look, variant in LOOKS.items():
        for name, size in SIZES.items():
            for hub in (False, True):
                with tempfile.TemporaryDirectory() as folder:
                    found[f"{look}_{name}{'_hub' if hub else ''}"] = _measured(Path(folder), variant, size, hub=hub)
    return found


def _measured(folder: Path, variant: str | None, size: tuple[int, int] | None, *, hub: bool) -> dict[str, int]:
    write_pictures(folder / "frames", 16, size=size)
    if hub:
        (folder / "root.json").write_bytes(Repository.create(folder / "hub", groups=["default"]).root_bytes())
    with agent(folder, {"camera": {"rate_hz": 20.0}, **(NOBODY if hub else {})}, variant=variant) as process:
        wait_recorded(process, FRAMES, timeout_s=600.0)
        return memory_bytes(process.pid)
