"""Final accuracy of each scheme against float32: a classifier on x-sdd and neu-det crops, paired seeds.

python -m benchmarks.training.accuracy [SEED ...]

Two workers train every scheme from the same weights on the same batches in the same order; what differs is how
gradients (and under FSDP2 parameters) travel. Judged on the val folds, which nothing is chosen by. Finished seeds are
kept in ``benchmarks/.training/``.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.data import shared
from benchmarks.training.ranks import together
from lineside_converters.training import checkpoint
from lineside_converters.training.classes import ClassLessons, Look, classify, load_classes, read_all
from lineside_converters.training.cluster.workers import Together, Workers
from lineside_converters.training.taught import Tuition, teach
from lineside_converters.training.teaching import LogitTeaching
from lineside_models.networks.classifier import resnet18
from lineside_runtime.files import write_atomic

KEPT = Path(__file__).parents[1] / ".training"
SEEDS = (0, 1, 2, 3, 4)
CASES = {
    "fp32": ("ddp", "fp32"),
    "bf16": ("ddp", "bf16"),
    "int8": ("ddp", "int8"),
    "low-rank": ("ddp", "low-rank"),
    "fsdp int8": ("fsdp", "int8"),
}
SIDE_PX, WIDTH, BATCH, EPOCHS, WARM_UP_STEPS = 32, 0.25, 32, 10, 30
STUDENT_T = {4: 2.776}  # two-sided 95 %, by degrees of freedom


def run() -> dict[str, Any]:
    """Trains what is missing, and returns the differences."""
    for seed in SEEDS:
        train_seed(seed)
    rows = [json.loads(_kept(seed).read_text()) for seed in SEEDS]
    return {"settings": _settings(), "schemes": compared(rows)}


def compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns each scheme's accuracies, and the mean difference to float32 with its interval."""
    found: dict[str, Any] = {}
    for name in CASES:
        accuracies = [row["top1"][name] for row in rows]
        apart = [100 * (row["top1"][name] - row["top1"]["fp32"]) for row in rows]
        half = STUDENT_T[len(rows) - 1] * statistics.stdev(apart) / len(rows) ** 0.5
        mean = statistics.mean(apart)
        found[name] = {
            "top1": accuracies,
            "mean_top1": statistics.mean(accuracies),
            "points_against_fp32": mean,
            "interval_95": [mean - half, mean + half],
        }
    return found


def train_seed(seed: int) -> None:
    """Trains every scheme with one seed, unless that is done."""
    if not _kept(seed).exists():
        KEPT.mkdir(exist_ok=True)
        together(_train, seed)


def _kept(seed: int) -> Path:
    return KEPT / f"accuracy-{seed}.json"


def _settings() -> dict[str, Any]:
    return {
        "network": f"ResNet-18 for grey pictures, width {WIDTH}",
        "side_px": SIDE_PX,
        "batch": BATCH,
        "epochs": EPOCHS,
        "float32_steps": WARM_UP_STEPS,
        "workers": 2,
        "seeds": list(SEEDS),
    }


def _train(seed: int) -> None:
    folders, look = [shared("x-sdd"), shared("neu-det")], Look(SIDE_PX)
    data = load_classes(folders, look=look, held_share=0.1)
    judged = read_all(folders, data.labels, look=look, fold="val")
    top1, seconds = {}, {}
    for name, (layout, scheme) in CASES.items():
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory() as out:
            how = Together(layout=layout, scheme=scheme, batch=BATCH, warm_up_steps=WARM_UP_STEPS)
            workers = Workers(how, torch.device("cpu"), Path(out), lambda *_: None)
            lessons = ClassLessons(data, batch=BATCH, seed=seed, part=workers.part)
            tuition = Tuition(learning_rate=3e-3, epochs=EPOCHS, evaluate_every=EPOCHS, threads=1, seed=seed)
            network = resnet18(len(data.labels), width=WIDTH, seed=seed)
            teach(
                network,
                None,
                lessons,
                LogitTeaching(),
                tuition=tuition,
                out=Path(out),
                on_progress=lambda _: None,
                strategy=workers,
            )
            if dist.get_rank() == 0:
                plain = resnet18(len(data.labels), width=WIDTH, seed=seed)
                plain.load_state_dict(checkpoint.load(Path(out) / "best.pt"))
                top1[name] = float((classify(plain, judged, look) == judged.labels).mean())
                seconds[name] = time.monotonic() - began_s
                print(f"seed {seed} {name}: top-1 {top1[name]:.4f}, {seconds[name]:.0f} s", file=sys.stderr, flush=True)
        workers.exchange.close()
    if dist.get_rank() == 0:
        content = {"seed": seed, "top1": top1, "seconds": seconds, "judged": len(judged.labels)}
        write_atomic(_kept(seed), json.dumps(content, indent=1).encode())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    for word in sys.argv[1:] or map(str, SEEDS):
        train_seed(int(word))
