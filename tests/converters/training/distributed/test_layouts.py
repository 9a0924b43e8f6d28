"""Two real gloo processes train what one does: replicated, optimiser divided, all divided; and go on."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from lineside_converters.training import checkpoints
from lineside_converters.training.distributed.workers import Workers, WorkerSettings
from lineside_converters.training.loop import TrainingPlan, fit, parameter_groups, start_run
from lineside_converters.training.progress import TrainingProgress
from lineside_converters.training.strategy import ALONE, Strategy
from lineside_runtime.errors import TrainingError
from tests.converters.training.distributed.groups import together

pytestmark = pytest.mark.torch

BATCH, STEPS = 10, 4
CASES = (
    ("ddp", "fp32"),
    ("ddp", "int8"),
    ("zero1", "int4"),
    ("zero1", "low-rank"),
    ("fsdp", "fp32"),
    ("fsdp", "int8"),
)
Batch = tuple[torch.Tensor, torch.Tensor]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 400, 3), nn.ReLU(), nn.Flatten(), nn.Linear(14400, 3)
    )


class KilledError(BaseException):
    """Stands for a kill: nothing in the training may catch it."""


def train(
    strategy: Strategy, out: Path, *, killed_at: int = -1, resume: bool = False, uneven: bool = False
) -> dict[str, Any]:
    """Trains on batches that follow from the step; of each, this worker's rows."""
    if uneven and isinstance(strategy, Workers):
        strategy.schedule.add(0, (0.3, 0.7))

    def batches(first: int, _: object) -> Generator[Batch, None, None]:
        for step in range(first, 1000):
            images = torch.randn((BATCH, 1, 8, 8), generator=torch.Generator().manual_seed(step))
            part = strategy.part(step)
            rows = slice(None) if part is None else part.rows(BATCH)
            yield images[rows], (images.mean((1, 2, 3)) * 9).round().long().clamp(0, 2)[rows]

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    model = network()
    resumed = checkpoints.load(out / "checkpoint.pt") if resume else None
    run = start_run(model, parameter_groups(model, lambda _: 1e-2), resumed=resumed, strategy=strategy)
    plan = TrainingPlan(out=out, epochs=2, epoch_steps=STEPS // 2, warm_up_steps=1, minutes=1000.0 if uneven else None)
    seen: list[float] = []

    def evaluate(averaged: nn.Module) -> dict[str, float]:
        seen.append(float(torch.cat([each.detach().flatten() for each in averaged.parameters()]).norm()))
        return {"norm": seen[-1]}

    def on_progress(progress: TrainingProgress) -> None:
        if progress.step == killed_at:
            raise KilledError

    fit(run, plan, batches=batches, loss=loss, evaluate=evaluate, on_progress=on_progress, strategy=strategy)
    state = strategy.state(run)
    return {"model": state["model"], "losses": run.losses, "curve": run.curve, "best": strategy.best(run)}


def workers(out: Path, layout: str, scheme: str) -> Workers:
    how = WorkerSettings(layout=layout, scheme=scheme, batch=BATCH, warm_up_steps=1)
    return Workers(how, torch.device("cpu"), out, lambda *_: None)


def work(folders: list[str]) -> dict[Any, Any]:
    """Trains every case whole, and again in two parts; each worker has a folder, as on machines of their own."""
    found: dict[Any, Any] = {}
    for number, (layout, scheme) in enumerate(CASES):
        whole, halves = (Path(tempfile.mkdtemp(dir=folders[number])) for _ in range(2))
        found[layout, scheme] = train(workers(whole, layout, scheme), whole)
        with contextlib.suppress(KilledError):
            train(workers(halves, layout, scheme), halves, killed_at=STEPS // 2)  # a step after the checkpoint
        _share_checkpoint(halves, folders[number])
        found[layout, scheme, "halves"] = train(workers(halves, layout, scheme), halves, resume=True)
    uneven = Path(tempfile.mkdtemp(dir=folders[0]))
    found["uneven"] = train(workers(uneven, "ddp", "fp32"), uneven, uneven=True)
    try:
        workers(uneven, "fsdp", "low-rank").prepare(network(), AveragedModel(network()), [])
    except TrainingError as error:
        found["refused"] = str(error)
    return found


def _share_checkpoint(out: Path, folder: str) -> None:
    """Gives every worker the first one's checkpoint, as Ray does."""
    import shutil

    import torch.distributed as dist

    common = Path(folder) / "checkpoint.pt"
    if dist.get_rank() == 0:
        shutil.copy(out / "checkpoint.pt", common)
    dist.barrier()
    shutil.copy(common, out / "checkpoint.pt")
    dist.barrier()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folders = [str(tmp_path_factory.mktemp("case")) for _ in CASES]
    return together(work, folders)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(ALONE, tmp_path_factory.mktemp("alone"))


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


@pytest.mark.parametrize(("layout", "scheme"), CASES)
def test_workers_learn_what_one_process_learns_with_the_same_weights_and_figures(
    ranks: list[dict[Any, Any]], alone: dict[str, Any], layout: str, scheme: str
) -> None:
    ours, theirs = (rank[layout, scheme] for rank in ranks)
    moved = apart(alone["model"], network().state_dict())
    tolerance = 2e-2 if scheme == "fp32" else 2.0  # Adam turns any gradient that is nearly none into a whole step
    assert apart(ours["model"], alone["model"]) < moved * tolerance
    lossless = pytest.approx(alone["losses"][-1]["loss"], rel=1e-3 if scheme == "fp32" else 0.2)
    assert ours["losses"][-1]["loss"] == lossless
    if layout == "ddp":
        assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in ours["model"])
    figures = [[row["norm"] for row in each["curve"]] for each in (ours, theirs)]
    assert figures[0] == figures[1] and ours["losses"] == theirs["losses"]


@pytest.mark.parametrize(("layout", "scheme"), CASES)
def test_a_run_in_two_parts_ends_in_the_same_bits_with_what_compression_kept(
    ranks: list[dict[Any, Any]], layout: str, scheme: str
) -> None:
    whole, halves = ranks[0][layout, scheme], ranks[0][layout, scheme, "halves"]
    if (layout, scheme) == ("ddp", "int8"):  # DDP bundles otherwise in its first step, so that other blocks are rounded
        assert halves["losses"][-1]["loss"] == pytest.approx(whole["losses"][-1]["loss"], rel=0.05)
        return
    assert all(torch.equal(whole["model"][name], halves["model"][name]) for name in whole["model"])
    assert whole["losses"] == halves["losses"]


def test_unequal_parts_weigh_by_their_samples_and_a_process_alone_goes_on_from_sharded_checkpoints(
    ranks: list[dict[Any, Any]], alone: dict[str, Any]
) -> None:
    model = network()
    begun = network().state_dict()
    assert apart(ranks[0]["uneven"]["model"], alone["model"]) < 1e-2 * apart(alone["model"], begun)
    best = ranks[0]["fsdp", "fp32"]["best"]
    model.load_state_dict(best)
    assert apart(best, alone["best"]) < 2e-2 * apart(alone["best"], begun)
    assert "does not work with fully sharded parameters" in ranks[0]["refused"]
