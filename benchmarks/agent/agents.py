"""Agents as processes of their own, for the benchmarks that look at one from outside."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tomli_w

from lineside_models import zoo
from lineside_models.simulator import render

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
def agent(
    folder: Path, settings: Mapping[str, Any], *, variant: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts an agent on the pictures in ``folder/frames``, again and again, and ends it.

    Args:
        folder: Where its configuration, log and state are.
        settings: Tables of ``agent.toml`` beside those.
        variant: Of the shipped detector, instead of its first one.

    Raises:
        RuntimeError: On leaving: it had ended by itself.
    """
    camera = {"type": "folder", "path": "frames", "loop": True, **settings.get("camera", {})}
    top = {"device": "bench", "folder": "state", "bundle": str(zoo.path(BUNDLE))}
    inspect = {**settings.get("inspect", {}), **({} if variant is None else {"variant": variant})}
    (folder / "agent.toml").write_text(tomli_w.dumps({**top, **settings, "camera": camera, "inspect": inspect}))
    with (folder / "agent.log").open("wb") as log:
        command = [sys.executable, "-m", "lineside_agent", "--config", str(folder / "agent.toml")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
        if process.poll() is not None:
            raise RuntimeError((folder / "agent.log").read_text()[-4000:])
    finally:
        process.terminate()
        process.wait(30.0)


def wait_recorded(folder: Path, count: int, *, timeout_s: float = START_S) -> None:
    """Waits until the agent has recorded so many frames.

    Raises:
        RuntimeError: It hasn't in time.
    """
    status = folder / "state" / "status.json"
    until_s = time.monotonic() + timeout_s
    while not (status.exists() and json.loads(status.read_text())["recorded"] >= count):
        if time.monotonic() > until_s:
            raise RuntimeError((folder / "agent.log").read_text()[-4000:])
        time.sleep(0.1)


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
