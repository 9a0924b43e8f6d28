"""Agents as processes of their own, for the benchmarks that look at one from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lineside_models import zoo
from lineside_models.simulator import render
from tests.peers.waiting import wait_for
from tests.worlds.agent import AgentProcess, folder_camera, write_agent

START_S = 60.0

BUNDLE = "surface-12"
LOOKS = {"surface-12": None, "surface-12_one_look": "onnx-int8"}
"""The shipped detector as it is, and its variant without test-time augmentation."""


def write_pictures(folder: Path, count: int, *, size: tuple[int, int] | None = None, suffix: str = ".jpg") -> None:
    """Writes steel with and without defects.

    Args:
        size: Width and height; ``None`` for the simulator's own, 200 by 200.
    """
    folder.mkdir(parents=True)
    for seed in range(count):
        image = np.asarray(render("steel", seed).image)
        cv2.imwrite(str(folder / f"{seed:04d}{suffix}"), image if size is None else cv2.resize(image, size))


@contextlib.contextmanager
def agent(folder: Path, settings: Mapping[str, Any], *, variant: str | None = None) -> Iterator[AgentProcess]:
    """Starts an agent on the pictures in ``folder/frames``, again and again, and ends it.

    Args:
        folder: Where its configuration, log and state are.
        settings: Tables of ``agent.toml`` beside those.
        variant: Of the shipped detector, instead of its first one.

    Raises:
        RuntimeError: On leaving: it had ended by itself.
    """
    camera = folder_camera(loop=True, **settings.get("camera", {}))
    inspect = {**settings.get("inspect", {}), **({} if variant is None else {"variant": variant})}
    write_agent(folder, **{"bundle": str(zoo.path(BUNDLE)), **settings, "camera": camera, "inspect": inspect})
    process = AgentProcess(folder)
    process.start()
    try:
        yield process
        if not process.alive:
            raise RuntimeError(process.log[-4000:])
    finally:
        process.stop()


def wait_recorded(agent: AgentProcess, count: int, timeout_s: float = START_S) -> None:
    """Waits until the agent has recorded so many frames."""
    wait_for(lambda: agent.status.get("recorded", 0) >= count, timeout_s, what=f"{count} records", every_s=0.1)


def memory_bytes(pid: int) -> dict[str, int]:
    """Bytes of a process from the kernel: resident, peak, anonymous, and its proportional share (PSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    rolled = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    share = next(line.split()[1] for line in rolled if line.startswith("Pss:"))
    return {
        "resident": 1024 * int(found["VmRSS"][0]),
        "most": 1024 * int(found["VmHWM"][0]),
        "anonymous": 1024 * int(found["RssAnon"][0]),
        "proportional": 1024 * int(share),
    }
