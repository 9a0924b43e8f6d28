"""Few labelled defects of one kind and good parts, on magnetic tiles: anomalib and YOLOX-Nano.

The frames, the judged tiles and the figures are those of `few_defects.labels`. Each peer runs in an environment of its
own (`worker_peers`) on one thread: anomalib's PatchCore learns the good frames alone; its SuperSimpleNet and a
YOLOX-Nano are trained with the labelled ones for ``--minutes`` of processor time. Both of anomalib's models have the
trunk that `lineside learn-good` has, with ImageNet's weights; YOLOX-Nano begins with random weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs.tiles import Tile, tiles
from benchmarks.models.few_defects.splits import (
    KINDS,
    SEEDS,
    TOLERATED,
    Split,
    judged_frames,
    of_kind,
    rates_of,
    say,
    summarize,
)
from benchmarks.models.few_defects.training import meets
from benchmarks.others.environments import python_of, versions_of
from benchmarks.smoke import SMOKE, scaled

WORKER = Path(__file__).with_name("worker_peers.py")
PEERS = "defect-peers"
KIND = KINDS[0]
COUNTS = scaled({"patchcore": 0, "supersimplenet": 25, "yolox": 25}, smoke={})
"""Labelled frames of each. A smoke run only imports: the environment takes minutes to build."""
MINUTES = 3.0


def run(minutes: float = MINUTES) -> dict[str, Any]:
    """Trains each peer.

    Args:
        minutes: Processor time of each training; PatchCore takes what it needs.
    """
    images = tiles()
    splits = [Split(images, seed) for seed in range(SEEDS)]
    return {
        "baseline": "learn-good and learn-good --bad, in few_defects.labels",
        "seeds": SEEDS,
        "tolerated": TOLERATED,
        "minutes": minutes,
        "versions": {} if SMOKE else versions_of(PEERS, ("anomalib", "pixeltable-yolox")),
        "rows": list(_rows(images, splits, minutes)),
    }


def _rows(images: Sequence[Tile], splits: Sequence[Split], minutes: float) -> Iterator[dict[str, Any]]:
    for method, count in COUNTS.items():
        outcomes = []
        for seed, split in enumerate(splits):
            chosen = of_kind(images, split.candidates, KIND)[:count]
            judged, good = judged_frames(images, split, KIND)
            learned = [images[place] for place in np.concatenate([split.good, chosen])]
            found = _train(method, learned, [images[place] for place in judged], seed, minutes)
            boxes = np.array(found["boxes"], np.float32)[~good]
            hits = [meets(box, images[place].boxes()) for box, place in zip(boxes, judged[~good], strict=True)]
            rates = rates_of(np.array(found["scores"], np.float32), good, np.array(hits))
            outcomes.append({"labels": len(chosen), "seconds": found["seconds"], **rates})
            say(f"{method}, {count} labelled, {seed}: {outcomes[-1]}")
        yield {"method": method, "kind": KIND, "count": count, **summarize(outcomes)}


def _train(method: str, learned: Sequence[Tile], judged: Sequence[Tile], seed: int, minutes: float) -> Any:
    job = {
        "method": method,
        "seed": seed,
        "minutes": minutes,
        "learned": [
            {
                "image": str(one.path),
                "mask": None if one.mask is None else str(one.mask),
                "boxes": one.boxes().tolist(),
            }
            for one in learned
        ],
        "judged": [str(one.path) for one in judged],
    }
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "job.json", Path(folder) / "out.json"
        given.write_text(json.dumps(job))
        environment = {**os.environ, "PYTHONPATH": ""}
        done = subprocess.run([python_of(PEERS), WORKER, given, out], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"{method} ended with status {done.returncode}: {done.stderr[-2000:]}")
        return json.loads(out.read_text())
