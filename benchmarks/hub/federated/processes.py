"""The processes of a federated training: broker, plants, coordinator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tomli_w

from benchmarks.hub.federated.splits import Frames
from benchmarks.smoke import SMOKE, scaled
from lineside.cli import main
from lineside_link.aggregation.identity import make_key, public_hex, write_key
from lineside_models.labels import LABELS
from lineside_models.simulator import render
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.processes import ChildProcess

FIRST_FRAMES = scaled(96, smoke=12)
FIRST_SEED = 2_000_000
FIRST_PX = 200


def train_first(folder: Path, frames: Frames, settings: Mapping[str, Any], *, epochs: int) -> Path:
    """Trains the first weights on drawn frames; returns the folder of the run. Done once."""
    run, drawn = folder / "run", folder / "frames"
    if (run / "training.json").exists():
        return run
    (drawn / "images").mkdir(parents=True, exist_ok=True)
    rows = ["image,class,x1,y1,x2,y2"]
    size = (frames.tile_px or FIRST_PX, frames.tile_px or FIRST_PX)
    for number in range(FIRST_FRAMES):
        frame = render(frames.simulated, FIRST_SEED + number, size=size, defects=2)
        cv2.imwrite(str(drawn / f"images/{number}.png"), np.asarray(frame.image))
        for label, box in zip(frame.labels, frame.boxes.tolist(), strict=True):
            rows.append(f"images/{number}.png,{LABELS[label]},{','.join(map(str, box))}")
    (drawn / "boxes.csv").write_text("\n".join(rows) + "\n")
    (drawn / "folds.csv").write_text(
        "image,fold\n" + "".join(f"images/{number}.png,train\n" for number in range(FIRST_FRAMES))
    )
    config = folder / "first.toml"
    config.write_text(
        tomli_w.dumps({"data": ["frames"], "labels": list(frames.labels), "epochs": epochs, "threads": 1, **settings})
    )
    arguments = [str(each) for each in ("train", "detector", "--config", config, "--out", run, "--overwrite")]
    if SMOKE:  # this process has imported torch already
        if main(arguments):
            raise RuntimeError("the training of the first weights failed: see above")
    else:
        subprocess.run([sys.executable, "-m", "lineside", *arguments], check=True)
    return run


def run_federation(
    first: Path, data: Sequence[Path], out: Path, *, rounds: int, steps: int, options: Sequence[str | float]
) -> dict[str, Any]:
    """Runs a federation of one process a plant; goes on with a folder that is there. Returns its state."""
    out.mkdir(exist_ok=True)
    plants = {f"plant-{number}": folder for number, folder in enumerate(data)}
    broker = Mosquitto(out / "broker", program=find_mosquitto())
    broker.start()
    children: list[ChildProcess] = []
    try:
        pool = _write_pool(out, list(plants), broker)
        if not (out / "coordinator" / "root.json").exists():
            size = ("--rounds", rounds, "--steps", steps)
            _lineside("federate", "init", "--start", first, "--out", out / "coordinator", *size, *options)
        common = ("--pool", pool, "--key")
        for name, folder in plants.items():
            more = ("--plant", name, "--root", out / "coordinator" / "root.json", "--data", folder, "--threads", 1)
            children.append(
                _started(out / f"{name}.log", "join", *common, out / f"{name}.key", *more, "--out", out / name)
            )
        _lineside("federate", "run", "--federation", out / "coordinator", *common, out / "coordinator.key")
        for child in children:
            child.wait(120)
    finally:
        for child in children:
            child.kill()
        broker.stop()
    found: dict[str, Any] = json.loads((out / "coordinator" / "federation.json").read_text())
    return found


def _write_pool(out: Path, plants: Sequence[str], broker: Mosquitto) -> Path:
    for name in ("coordinator", *plants):
        if not (out / f"{name}.key").exists():
            write_key(make_key(), out / f"{name}.key")
    from lineside_link.aggregation.identity import read_key

    public = {name: public_hex(read_key(out / f"{name}.key")) for name in ("coordinator", *plants)}
    table = {
        "coordinator": public.pop("coordinator"),
        "link": {"url": f"mqtt://127.0.0.1:{broker.port}", "site": "pool"},
        "plants": public,
    }
    (out / "pool.toml").write_text(tomli_w.dumps(table))
    return out / "pool.toml"


def _lineside(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "lineside", *map(str, arguments)], check=True, stdout=sys.stderr)


def _started(log: Path, *arguments: object) -> ChildProcess:
    child = ChildProcess([sys.executable, "-m", "lineside", "federate", *map(str, arguments)], log)
    child.start()
    return child
