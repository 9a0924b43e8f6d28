"""Our loop beside a bare torch loop of the same step: one worker, a step of each in turn.

Both make the same step: forward, loss, gradients, clipping, AdamW, moving average. Ours has around it what a worker
has: the strategy, the communication hook, the measuring, progress.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from benchmarks.converters.training.ranks import together
from benchmarks.smoke import scaled
from lineside_converters.training.distributed.workers import Workers, WorkerSettings
from lineside_converters.training.loop import GRADIENT_NORM, TrainingPlan, average, fit, parameter_groups, start_run
from lineside_models.networks.classifier import resnet18

STEPS, WARM_UP, BATCH, SIDE_PX, TYPES = scaled((60, 10, 32, 64, 12), smoke=(2, 1, 2, 64, 12))
Batch = tuple[Tensor, Tensor]


def run() -> dict[str, Any]:
    """Runs both in one process."""
    with tempfile.TemporaryDirectory() as scratch:
        together(_measure, scratch, world=1)
        found: dict[str, Any] = json.loads((Path(scratch) / "found.json").read_text())
    return found


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _batch() -> Batch:
    images = torch.randn((BATCH, 1, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(0))
    return images, torch.arange(BATCH) % TYPES


class Bare:
    """A loop as torch's pages show it."""

    def __init__(self) -> None:
        model = resnet18(TYPES, width=0.5, seed=0)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, lambda _: 1e-3))
        self.model = DistributedDataParallel(model)

    def step(self, batch: Batch) -> float:
        """Makes a step and returns its seconds."""
        began_s = time.perf_counter()
        total = _loss(self.model, batch)
        value = float(total.detach())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]  # torch's stub
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.averaged.update_parameters(self.model.module)
        if value != value:
            raise RuntimeError("the loss is not a number")
        return time.perf_counter() - began_s


def _measure(scratch: str) -> None:
    bare, batch, out = Bare(), _batch(), Path(scratch)
    workers = Workers(
        WorkerSettings(layout="ddp", scheme="fp32", batch=BATCH), torch.device("cpu"), out, lambda *_: None
    )
    ours_s: list[float] = []
    bare_s: list[float] = []
    resumed_s = time.perf_counter()

    def after(_: object) -> None:
        nonlocal resumed_s
        ours_s.append(time.perf_counter() - resumed_s)
        bare_s.append(bare.step(batch))
        resumed_s = time.perf_counter()

    def batches(first: int, _: object) -> Generator[Batch, None, None]:
        while True:
            yield batch

    model = resnet18(TYPES, width=0.5, seed=0)
    ours = start_run(model, parameter_groups(model, lambda _: 1e-3), strategy=workers)
    steps = STEPS + WARM_UP + 1
    fit(
        ours,
        TrainingPlan(out=out, epochs=1, epoch_steps=steps),
        batches=batches,
        loss=_loss,
        evaluate=lambda _: {"none": 0.0},
        on_progress=after,
        strategy=workers,
    )
    pairs = list(zip(ours_s, bare_s, strict=True))[WARM_UP:-1]  # the last one has the end of the epoch in it
    content = {
        "steps": len(pairs),
        "ours_ms": 1e3 * statistics.median(ours for ours, _ in pairs),
        "bare_ms": 1e3 * statistics.median(plain for _, plain in pairs),
        "median_ratio": statistics.median(ours / plain for ours, plain in pairs),
        "load": os.getloadavg()[0],
    }
    (out / "found.json").write_text(json.dumps(content))
