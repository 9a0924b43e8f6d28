"""Workers are killed in runs on Ray: they finish, lose little, and learn the same.

A small segmenter on drawn pictures, two workers. With gradients of low rank and error feedback the run is made unbroken
and with five kills (SIGKILL of the first and the second worker in turn, in the middle of an epoch). As the batch of a
step follows from the seed, both must give the same loss of every epoch. With local updates and ``--min-workers 1`` a
kill must cost no more steps than a round has; epochs are longer than rounds there.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.smoke import SMOKE, scaled
from lineside_converters.training import checkpoints
from lineside_converters.training.distributed.config import ClusterConfig
from lineside_converters.training.distributed.driver import train_on_ray
from lineside_converters.training.distributed.gradients.local import ROUND_STEPS
from lineside_converters.training.progress import TrainingProgress
from lineside_converters.training.segmentation.config import SegmenterConfig
from lineside_converters.training.segmentation.trainer import train_segmenter

KILLS, EPOCHS, BATCH = scaled((5, 12, 6), smoke=(1, 3, 6))
PICTURES = scaled(160, smoke=24)
LOCAL_KILLS, LOCAL_EPOCHS, LOCAL_BATCH, LOCAL_PICTURES = scaled((2, 3, 4, 480), smoke=(1, 2, 4, 24))


@dataclass
class Killer:
    """Kills a worker in the middle of each epoch but the first, until it has killed often enough.

    Attributes:
        pids: Processes of the running workers, by rank; none from a kill until all have begun again.
        lost_steps: Of each kill, steps that had to be made again; 0 where a checkpoint was written just before it.
    """

    kills: int
    pids: dict[int, int] = field(default_factory=dict)
    lost_steps: list[int] = field(default_factory=list)
    _killed_at: int | None = None
    _next_epoch: int = 1

    def workers(self, pids: dict[int, int]) -> None:
        """Records the running workers."""
        self.pids = pids

    def progress(self, at: TrainingProgress) -> None:
        """Kills a worker when it is due, and records where the run resumes."""
        if self._killed_at is not None:
            if self.pids:
                self.lost_steps.append(max(0, self._killed_at - at.step))
                self._killed_at = None
            return
        if len(self.lost_steps) < self.kills and at.epoch >= self._next_epoch and not at.held and self.pids:
            victim = self.pids[len(self.lost_steps) % len(self.pids)]
            print(f"killing {victim} in epoch {at.epoch}, step {at.step}", file=sys.stderr, flush=True)
            self._killed_at, self._next_epoch, self.pids = at.step + 1, at.epoch + 1, {}
            os.kill(victim, signal.SIGKILL)


def write_pictures(root: Path, count: int = PICTURES, side: int = 64) -> Path:
    """Writes pictures of dark and bright squares with their masks."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("dent\nflash\n")
    for number in range(count):
        rng = np.random.default_rng(number)
        image, mask = rng.integers(100, 130, (side, side)).astype(np.uint8), np.zeros((side, side), np.uint8)
        length, kind = int(rng.integers(side // 4, side // 2)), number % 2
        x, y = (int(value) for value in rng.integers(0, side - length, 2))
        image[y : y + length, x : x + length] = 240 if kind else 10
        mask[y : y + length, x : x + length] = kind + 1
        cv2.imwrite(str(root / "images" / f"m{number}.jpg"), image)
        cv2.imwrite(str(root / "masks" / f"m{number}.png"), mask)
    return root


def run() -> dict[str, Any]:
    """Trains unbroken and with kills, and compares."""
    with tempfile.TemporaryDirectory() as scratch:
        data = write_pictures(Path(scratch) / "squares")
        settings = {"epochs": EPOCHS, "batch": BATCH}
        found = {
            name: _train(data, Path(scratch) / name, kills, settings, {"gradients": "low-rank", "sharding": "ddp"})
            for name, kills in (("whole", 0), ("killed", KILLS))
        }
        more = write_pictures(Path(scratch) / "more", LOCAL_PICTURES)
        settings = {"epochs": LOCAL_EPOCHS, "batch": LOCAL_BATCH}
        local = _train(more, Path(scratch) / "local", LOCAL_KILLS, settings, {"gradients": "local", "min_workers": 1})
    whole, killed = found["whole"], found["killed"]
    return {
        "kills": len(killed["lost_steps"]),
        "restarts": killed["restarts"],
        "lost_steps": killed["lost_steps"],
        "epoch_steps": whole["epoch_steps"],
        "same_losses": whole["losses"] == killed["losses"],
        "losses": {"whole": whole["losses"], "killed": killed["losses"]},
        "held_mean_iou": {"whole": whole["iou"], "killed": killed["iou"]},
        "local": {"round_steps": ROUND_STEPS, **local},
        **({"left_out": "Ray and the kills: one process in their place"} if SMOKE else {}),
    }


def _train_alone(settings: SegmenterConfig, cluster: ClusterConfig, killer: Killer) -> tuple[int, float]:
    """Trains in this process, and checks that the call of a run on Ray could be made."""
    call = inspect.signature(train_on_ray)
    call.bind("segmenter", settings, cluster, killer.progress, on_workers=killer.workers)
    return 0, train_segmenter(settings, killer.progress).held_mean_iou


def _train(
    data: Path, out: Path, kills: int, settings_of: dict[str, Any], cluster_of: dict[str, Any]
) -> dict[str, Any]:
    settings = SegmenterConfig(
        data=(data,), out=out, side_px=64, channels=16, threads=1, evaluate_every=1, **settings_of
    )
    cluster = ClusterConfig(workers=2, max_failures=kills + 1, **cluster_of)
    killer = Killer(kills)
    if SMOKE:
        restarts, iou = _train_alone(settings, cluster, killer)
    else:
        ended = train_on_ray("segmenter", settings, cluster, killer.progress, on_workers=killer.workers)
        restarts, iou = ended.cost.restarts, ended.result["held_mean_iou"]
    state = checkpoints.load(out / "checkpoint.pt")
    return {
        "losses": [row["loss"] for row in state["losses"]],
        "epoch_steps": int(state["losses"][0]["step"]),
        "lost_steps": killer.lost_steps,
        "restarts": restarts,
        "iou": iou,
    }
