"""Local updates over real gloo processes: what a round gives, what is kept back, and a worker that dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from lineside_converters.training import checkpoints
from lineside_converters.training.distributed import local_updates
from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients.local import ROUND_STEPS
from lineside_converters.training.distributed.local_updates import FRAGMENTS, MERGE_AFTER, LocalUpdates
from lineside_converters.training.distributed.workers import Workers, WorkerSettings
from lineside_converters.training.loop import TrainingPlan, fit, parameter_groups, start_run
from lineside_converters.training.progress import TrainingProgress
from tests.converters.training.distributed.groups import together

pytestmark = pytest.mark.torch

WORLD, STEPS = 3, 2 * ROUND_STEPS + 5
WARM_UP, KILLED_AT = 2, 2 * ROUND_STEPS + 16
SIZES = (700, 900, 64, 3000, 5, 2000)


def progress(step: int, rank: int) -> list[torch.Tensor]:
    """Returns what a worker's step adds to its parameters."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    return [torch.randn(size, generator=generator) * 1e-2 for size in SIZES]


def trained(updates: LocalUpdates, parameters: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for each, moved in zip(parameters, progress(step, dist.get_rank()), strict=True):
            each.data.add_(moved)
        updates.step_ended(step + 1)


def learn(out: Path, epoch_steps: int, *, killed_at: int = -1, resume: bool = False) -> dict[str, Any]:
    """Trains a small network with local updates; the second worker dies by SIGKILL after a step."""
    how = WorkerSettings(layout="auto", scheme="local", batch=12, warm_up_steps=WARM_UP, round_checkpoints=True)
    strategy = Workers(how, torch.device("cpu"), out, lambda *_: None)

    def batches(first: int, _: object) -> Generator[torch.Tensor, None, None]:
        for step in range(first, 1000):
            rows = torch.randn((12, 8), generator=torch.Generator().manual_seed(step))
            yield rows[strategy.part(step).rows(12)]

    def on_progress(progress: TrainingProgress) -> None:
        if progress.step == killed_at and strategy.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1))
    resumed = checkpoints.load(out / "checkpoint.pt") if resume else None
    run = start_run(model, parameter_groups(model, lambda _: 1e-2), resumed=resumed, strategy=strategy)
    began_at = run.step
    fit(
        run,
        TrainingPlan(out=out, epochs=1, epoch_steps=epoch_steps, warm_up_steps=1),
        batches=batches,
        loss=lambda network, rows: (network(rows)[:, 0] - rows.sum(1)).square().mean(),
        evaluate=lambda _: {"none": 0.0},
        on_progress=on_progress,
        strategy=strategy,
    )
    return {
        "began_at": began_at,
        "step": run.step,
        "loss": run.losses[-1]["loss"],
        "model": strategy.state(run)["model"],
    }


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose second of two workers was killed."""
    out = tmp_path_factory.mktemp("killed")
    with pytest.raises((ProcessExitedException, ProcessRaisedException)):
        together(learn, out, 1000, killed_at=KILLED_AT)
    return out


def work(killed: Path) -> dict[str, Any]:
    went_on = learn(killed, KILLED_AT + 10, resume=True)
    # without an outer optimiser the common values are the mean of what the workers have made
    local_updates.OUTER_RATE, local_updates.OUTER_MOMENTUM = 1.0, 0.0
    merged: list[int] = []
    parameters = [nn.Parameter(torch.zeros(size)) for size in SIZES]
    exchange = Exchange()
    updates = LocalUpdates(exchange, parameters, lambda _parameters, _common, steps: merged.append(steps))
    updates.begin(0)
    trained(updates, parameters, range(STEPS))
    sent = exchange.bytes_sent
    apart = [each.detach().clone() for each in parameters]
    updates.finish(STEPS)
    state = updates.state()
    finished = [each.detach().clone() for each in parameters]
    trained(updates, parameters, range(STEPS, STEPS + ROUND_STEPS))
    updates.finish(STEPS + ROUND_STEPS)
    again = [nn.Parameter(each.clone()) for each in finished]
    resumed = LocalUpdates(Exchange(), again, lambda *_: None)
    resumed.restore(state, STEPS)
    trained(resumed, again, range(STEPS, STEPS + ROUND_STEPS))
    resumed.finish(STEPS + ROUND_STEPS)
    return {
        "apart": apart,
        "finished": finished,
        "residuals": [each["residual"] for each in state["fragments"]],
        "owed": [each["master"] for each in state["fragments"]],
        "merged": merged,
        "sent": sent,
        "went on": [each.detach() for each in parameters],
        "after the kill": went_on,
        "resumed": [each.detach() for each in again],
    }


@pytest.fixture(scope="module")
def ranks(killed: Path) -> list[dict[str, Any]]:
    return together(work, killed, world=WORLD)


def test_workers_are_apart_in_a_round_and_the_same_bits_when_it_is_finished(ranks: list[dict[str, Any]]) -> None:
    assert not torch.equal(ranks[0]["apart"][0], ranks[1]["apart"][0])
    for other in ranks[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ranks[0]["finished"], other["finished"], strict=True))


def test_the_common_values_are_the_mean_of_all_steps_but_for_what_rounding_keeps_back(
    ranks: list[dict[str, Any]],
) -> None:
    true = [torch.zeros(size) for size in SIZES]
    for step in range(STEPS):
        for rank in range(WORLD):
            for into, moved in zip(true, progress(step, rank), strict=True):
                into.add_(moved / WORLD)
    found = torch.cat(ranks[0]["finished"])
    wanted = torch.cat(true)
    assert float((found - wanted).abs().max()) < 0.3 * float(wanted.abs().max())  # 4 bits, in blocks of 1024
    masters, kept, first = [], [], 0
    for number, residual in enumerate(ranks[0]["residuals"]):
        masters.append(torch.cat([rank["owed"][number] for rank in ranks]))
        kept.append(torch.stack([rank["residuals"][number] for rank in ranks]).mean(0))
        used = sum(size for size in _fragment(number))
        exact = masters[-1][:used] - kept[-1][:used]
        torch.testing.assert_close(exact, wanted[first : first + used], rtol=0, atol=1e-5)
        assert float(residual.abs().max()) > 0
        first += used


def _fragment(number: int) -> list[int]:
    parts = local_updates._divided([nn.Parameter(torch.zeros(size)) for size in SIZES])
    return [each.numel() for each in parts[number]]


def test_each_fragment_is_exchanged_once_in_a_round(ranks: list[dict[str, Any]]) -> None:
    merges = ranks[0]["merged"]
    fragments = len(ranks[0]["residuals"])
    assert fragments <= FRAGMENTS and MERGE_AFTER < ROUND_STEPS // FRAGMENTS
    assert merges.count(ROUND_STEPS) >= fragments
    values = sum(SIZES)
    once = 2 * (WORLD - 1) / WORLD * values / 2
    assert once * 2 < ranks[0]["sent"] < once * 3.5


def test_a_state_that_was_kept_goes_on_to_the_same_bits(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert all(torch.equal(a, b) for a, b in zip(rank["went on"], rank["resumed"], strict=True))


def test_a_worker_that_is_killed_costs_less_than_a_round_and_others_go_on_for_it(ranks: list[dict[str, Any]]) -> None:
    found = [rank["after the kill"] for rank in ranks]
    assert 0 < KILLED_AT + 1 - found[0]["began_at"] <= ROUND_STEPS
    assert {each["began_at"] for each in found} == {found[0]["began_at"]}
    assert found[0]["step"] == KILLED_AT + 10 and found[0]["loss"] < 5.0  # of 8 at first
    for other in found[1:]:
        parameters = [name for name in other["model"] if "running" not in name and "num_batches" not in name]
        assert all(torch.equal(found[0]["model"][name], other["model"][name]) for name in parameters)
