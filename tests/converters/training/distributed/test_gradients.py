"""Averaging gradients over three real gloo processes: what is exact, what is kept back, what is sent."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import torch
import torch.distributed as dist

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients import SCHEMES
from lineside_converters.training.distributed.gradients.int8 import pack, unpack
from lineside_converters.training.distributed.gradients.scheme import GradientBucket
from tests.converters.training.distributed.groups import together

pytestmark = pytest.mark.torch

WORLD = 3
SHAPES = {"wide": (96, 70), "conv": (64, 8, 3, 3), "bias": (13,)}
BEFORE, AFTER = (("wide", "bias"), ("conv",)), (("conv", "wide"), ("bias",))  # DDP bundles anew after its first step
STEPS = 6
Flats = dict[str, torch.Tensor]


def gradient(name: str, step: int, rank: int) -> torch.Tensor:
    """Returns a gradient that is the sum of what all workers agree on, few directions of it, and noise."""
    shape = torch.Size(SHAPES[name])
    common = torch.Generator().manual_seed(sum(name.encode()))
    rows = torch.randn((shape[0], 2), generator=common)
    columns = torch.randn((2, shape.numel() // shape[0]), generator=common)
    own = torch.Generator().manual_seed(1000 * step + 10 * rank + len(name))
    return (rows @ columns).flatten() + 0.1 * torch.randn(shape.numel(), generator=own)


def averaged(scheme: Any, step: int, groups: tuple[tuple[str, ...], ...]) -> Flats:
    """Averages one step's gradients, bundle by bundle."""
    found: Flats = {}
    for names in groups:
        flat = torch.cat([gradient(name, step, dist.get_rank()) for name in names])
        shapes = tuple(torch.Size(SHAPES[name]) for name in names)
        mean = scheme.average(GradientBucket(flat, names, shapes))
        found |= {n: p.clone() for n, p in zip(names, mean.split([s.numel() for s in shapes]), strict=True)}
    return found


def work() -> dict[str, Any]:
    found = {}
    for name, kind in SCHEMES.items():
        exchange = Exchange()
        scheme = kind(exchange)
        first = [averaged(scheme, step, BEFORE) for step in range(STEPS // 2)]
        state = scheme.state()
        sent = exchange.bytes_sent
        rest = [averaged(scheme, step, AFTER) for step in range(STEPS // 2, STEPS)]
        again = kind(Exchange())
        again.restore(state, torch.device("cpu"))
        resumed = [averaged(again, step, AFTER) for step in range(STEPS // 2, STEPS)]
        found[name] = {
            "applied": [*first, *rest],
            "rest": rest,
            "resumed": resumed,
            "kept": scheme.state().get("residuals", {}),
            "sent_a_step": sent / (STEPS // 2),
        }
    return found


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return together(work, world=WORLD)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_worker_gets_the_same_bits(ranks: list[dict[str, Any]], name: str) -> None:
    for others in ranks[1:]:
        for ours, theirs in zip(ranks[0][name]["applied"], others[name]["applied"], strict=True):
            assert all(torch.equal(ours[each], theirs[each]) for each in SHAPES)


@pytest.mark.parametrize(("name", "tolerance"), [("fp32", 1e-6), ("bf16", 2**-6)])
def test_schemes_that_keep_nothing_give_the_mean(ranks: list[dict[str, Any]], name: str, tolerance: float) -> None:
    for step, found in enumerate(ranks[0][name]["applied"]):
        for each in SHAPES:
            true = torch.stack([gradient(each, step, rank) for rank in range(WORLD)]).mean(0)
            torch.testing.assert_close(found[each], true, rtol=tolerance, atol=tolerance * float(true.abs().max()))


@pytest.mark.parametrize("name", ["int8", "low-rank"])
def test_what_was_applied_and_what_is_kept_back_add_up_to_the_true_means(
    ranks: list[dict[str, Any]], name: str
) -> None:
    for each in SHAPES:
        true = torch.stack([gradient(each, s, r) for s in range(STEPS) for r in range(WORLD)]).sum(0) / WORLD
        applied = torch.stack([step[each] for step in ranks[0][name]["applied"]]).sum(0)
        kept = torch.stack([rank[name]["kept"][each] for rank in ranks]).mean(0)
        torch.testing.assert_close(applied + kept, true, rtol=1e-4, atol=1e-4)
        assert name == "low-rank" or float((applied - true).abs().max()) < 0.05 * float(true.abs().max())


def test_low_rank_finds_the_few_directions_that_the_gradients_have(ranks: list[dict[str, Any]]) -> None:
    true = torch.stack([gradient("wide", STEPS - 1, rank) for rank in range(WORLD)]).mean(0)
    found = ranks[0]["low-rank"]["applied"][-1]["wide"]
    assert float((found - true).norm() / true.norm()) < 0.2
    assert torch.linalg.matrix_rank(found.view(96, 70), rtol=1e-4) <= 4


@pytest.mark.parametrize("name", SCHEMES)
def test_a_state_that_was_kept_goes_on_with_other_bundles_to_the_same_bits(
    ranks: list[dict[str, Any]], name: str
) -> None:
    for rank in ranks:
        for ours, theirs in zip(rank[name]["rest"], rank[name]["resumed"], strict=True):
            assert all(torch.equal(ours[each], theirs[each]) for each in SHAPES)


@pytest.mark.parametrize("name", SCHEMES)
def test_bytes_are_those_that_were_foretold(ranks: list[dict[str, Any]], name: str) -> None:
    foretold = SCHEMES[name].bytes_of([torch.Size(shape) for shape in SHAPES.values()], WORLD)
    assert ranks[0][name]["sent_a_step"] == pytest.approx(foretold, rel=0.02)


def test_bytes_round_to_half_a_step_of_their_block_and_keep_what_is_no_number() -> None:
    values = torch.randn((2, 64), generator=torch.Generator().manual_seed(0))
    values[1, 3] = float("nan")
    values[0, :16] = 0
    kept = values.clone()
    found = torch.stack([unpack(each, torch.empty(64), 16) for each in pack(list(kept), 64, 16)])
    step = values[0].view(4, 16).abs().amax(1, keepdim=True) / 127
    assert ((found[0] - values[0]).view(4, 16).abs() <= step * (0.5 + 127 * 2**-8)).all()
    assert found[1, :16].isnan().all() and not found[1, 16:].isnan().any()
    assert torch.equal(found[0, :16], values[0, :16])
    torch.testing.assert_close(found[0] + kept[0], values[0])  # what was rounded away is what stays
    assert float(kept[0, 16:].abs().min()) > 0


def test_a_shorter_row_is_packed_as_if_zeros_followed() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(1))
    packed = pack([values.clone(), torch.nn.functional.pad(values, (0, 14)), values[:0]], 64, 16)
    assert torch.equal(packed[0], packed[1])
    assert torch.equal(unpack(packed[0], torch.empty(50), 16), unpack(packed[1], torch.empty(64), 16)[:50])
    assert not packed[2].any()
