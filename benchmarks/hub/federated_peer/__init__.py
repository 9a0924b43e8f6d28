"""Federated training beside Flower: the same plants, first weights, steps and average; rounds, bytes and accuracy.

Baseline: Flower (its SuperLink, a SuperNode for each plant, its FedAvg), with the plants' trainings of ours in its
ClientApp. Its plants send their weights in the clear to the server; ours send masked sums. The split is by type. Bytes
of Flower are those of the connections between its nodes and its server, polls included; ours are those of the
messages. Judged on the validation fold, which no training reads. Each side is kept, so that a run that was stopped
goes on.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from benchmarks.hub.federated import SETTINGS, judge
from benchmarks.hub.federated.processes import run_federation, train_first
from benchmarks.hub.federated.splits import PLANTS, STRIPS, write_all, write_plants
from benchmarks.hub.federated_peer.byte_counter import ByteCounter
from benchmarks.others.environments import python_of, versions_of
from benchmarks.smoke import SMOKE, kept, scaled
from lineside_converters.training.plant_training import PlantTrainer, read_first_weights
from lineside_hub.federation.training_round import read_weights
from lineside_hub.simulate.processes import listening
from tests.peers import free_port
from tests.peers.processes import ChildProcess
from tests.peers.waiting import wait_for

SPLIT = "by type"
ROUNDS, STEPS = 6, 20
LIMIT_S = 3600.0
FLOWER = "flower"
APP = Path(__file__).parent / "flower_app.py"


def run() -> dict[str, Any]:
    """Trains both ways, or takes what was kept. A smoke run only imports: both need processes for minutes."""
    sizes = {**SETTINGS, "plants": PLANTS, "rounds": ROUNDS, "steps": STEPS, "split": SPLIT}
    found: dict[str, Any] = {"baseline": "Flower with the same trainings and a plain average", "sizes": sizes}
    if SMOKE:
        return found | {"left_out": "both federations: processes of minutes"}
    work = kept(".federated-peer")
    work.mkdir(exist_ok=True)
    first = train_first(work / "first", STRIPS, SETTINGS, epochs=scaled(2, smoke=1))
    folders = write_plants(work / "plants", STRIPS, SPLIT)
    judged = partial(_judged, first, write_all(work / "judged", STRIPS, "val"), folders[0])
    found["rows"] = {
        "lineside": _kept(work / "lineside.json", lambda: _ours(first, folders, work / "lineside", judged)),
        "Flower": _kept(work / "flower.json", lambda: _flower(first, folders, work / "flower", judged)),
    }
    return found | {"versions": versions_of(FLOWER, ("flwr",))}


def _kept(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        path.write_text(json.dumps(compute()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _row(map50: float, rounds: int, total_bytes: float, weights_bytes: int, seconds: float) -> dict[str, Any]:
    share = total_bytes / rounds / PLANTS / weights_bytes
    return {
        "map50": map50,
        "rounds": rounds,
        "bytes_of_weights": round(share, 3),
        "bytes": int(total_bytes),
        "weights_bytes": weights_bytes,
        "seconds": round(seconds, 1),
    }


def _judged(first: Path, judged: Path, folder: Path, out: Path, weights: dict[str, Any]) -> float:
    start = read_first_weights(first)
    trainer = PlantTrainer(start.settings, start.labels, data=[folder], out=out, threads=1)
    return float(judge(trainer, judged, {**start.weights, **weights})["map50"])


def _ours(
    first: Path, folders: list[Path], out: Path, judged: Callable[[Path, dict[str, Any]], float]
) -> dict[str, Any]:
    state = run_federation(first, folders, out, rounds=ROUNDS, steps=STEPS, options=())
    weights = read_weights(out / "coordinator" / f"weights-{ROUNDS}.npz")
    rounds = state["rounds"]
    total = sum(each["sent_bytes"] + each["received_bytes"] for each in rounds)
    score = judged(out / "judged", weights)
    row = _row(score, len(rounds), total, state["weights_bytes"], sum(each["seconds"] for each in rounds))
    return row | {"plants": statistics.mean(len(each["plants"]) for each in rounds)}


def _flower(
    first: Path, folders: list[Path], out: Path, judged: Callable[[Path, dict[str, Any]], float]
) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    result, port = out / "weights.npz", free_port()
    environment = _environment(first, out, result)
    children: list[ChildProcess] = []
    bin_folder = python_of(FLOWER).parent
    began_s = time.monotonic()
    try:
        with ByteCounter(port) as counter:
            link = [bin_folder / "flower-superlink", "--insecure", "--port", port]
            children.append(_started(link, out / "superlink.log", environment))
            wait_for(lambda: listening(port), LIMIT_S, what="Flower's server")
            for number, folder in enumerate(folders):
                node = f'data="{folder}" out="{out / f"plant-{number}"}"'
                words = ["--insecure", "--superlink", f"127.0.0.1:{counter.port}", "--port", free_port()]
                command = [bin_folder / "flower-supernode", *words, "--node-config", node]
                children.append(_started(command, out / f"plant-{number}.log", environment))
            _write_app(out, port)
            flwr = [bin_folder / "flwr", "run", out / "app", "bench"]
            subprocess.run(
                [str(word) for word in flwr], check=True, env=environment, stdout=sys.stderr, cwd=out / "app"
            )
            wait_for(result.exists, LIMIT_S, every_s=0.5, what="Flower's rounds")
            total = counter.total
    finally:
        for child in reversed(children):
            child.kill()
    with np.load(result) as found:
        weights = {name: found[name] for name in found.files}
    start = read_first_weights(first)
    size = sum(start.weights[name].nbytes for name in start.shared)
    score = judged(out / "judged", weights)
    return _row(score, ROUNDS, total, size, time.monotonic() - began_s) | {"plants": PLANTS}


def _environment(first: Path, out: Path, result: Path) -> dict[str, str]:
    """Returns the variables of Flower's processes; its packages come before ours, with which they do not agree."""
    python = python_of(FLOWER)
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    (site / "lineside-after.pth").write_text("\n".join(path for path in sys.path if path) + "\n")
    return os.environ | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",
        "FLWR_HOME": str(out / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FIRST": str(first),
        "RESULT": str(result),
        "ROUNDS": str(ROUNDS),
        "STEPS": str(STEPS),
        "PLANTS": str(PLANTS),
    }


def _write_app(out: Path, port: int) -> None:
    app, home = out / "app", out / "home"
    for folder in (app, home):
        folder.mkdir(exist_ok=True)
    (app / "flower_app.py").write_bytes(APP.read_bytes())
    components = {"serverapp": "flower_app:server_app", "clientapp": "flower_app:client_app"}
    project = {"name": "federated-peer", "version": "1.0.0", "license": "Apache-2.0", "dependencies": ["flwr>=1.42"]}
    flower = {"flwr": {"app": {"publisher": "lineside", "components": components, "config": {}}}}
    build = {"requires": ["hatchling"], "build-backend": "hatchling.build"}
    (app / "pyproject.toml").write_text(tomli_w.dumps({"build-system": build, "project": project, "tool": flower}))
    links = {"default": "bench", "bench": {"address": f"127.0.0.1:{port}", "insecure": True}}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": links}))


def _started(command: list[Any], log: Path, environment: dict[str, str]) -> ChildProcess:
    child = ChildProcess([str(word) for word in command], log, environment=environment)
    child.start()
    return child
