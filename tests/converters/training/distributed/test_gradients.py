"""Averaging gradients over three real gloo processes: what is exact, what is kept back, what is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import torch
import torch.distributed as dist

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients import SCHEMES
from lineside_converters.training.distributed.gradients.codecs import BlockCodec, rows_of
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
        bundle = GradientBucket(gradient("conv", 0, dist.get_rank()), ("conv",), (torch.Size(SHAPES["conv"]),))
        length = scheme.codec.row_length(bundle.flat.numel(), WORLD)
        scattered = kind(Exchange()).scatter(bundle, length)
        first = [averaged(scheme, step, BEFORE) for step in range(STEPS // 2)]
        state = scheme.state()
        sent = exchange.bytes_sent
        rest = [averaged(scheme, step, AFTER) for step in range(STEPS // 2, STEPS)]
        again = kind(Exchange())
        again.restore(state, torch.device("cpu"))
        resumed = [averaged(again, step, AFTER) for step in range(STEPS // 2, STEPS)]
        found[name] = {
            "scattered": scattered,
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
def test_every_worker_gets_the_same_bits_and_a_kept_state_goes_on_with_other_bundles_to_the_same(
    ranks: list[dict[str, Any]], name: str
) -> None:
    for other in ranks:
        for part, whole in (("applied", ranks[0][name]["applied"]), ("resumed", other[name]["rest"])):
            for ours, theirs in zip(whole, other[name][part], strict=True):
                assert all(torch.equal(ours[each], theirs[each]) for each in SHAPES)


@pytest.mark.parametrize(("name", "tolerance"), [("fp32", 1e-6), ("bf16", 2**-6)])
def test_schemes_that_keep_nothing_give_the_mean(ranks: list[dict[str, Any]], name: str, tolerance: float) -> None:
    for step, found in enumerate(ranks[0][name]["applied"]):
        for each in SHAPES:
            true = torch.stack([gradient(each, step, rank) for rank in range(WORLD)]).mean(0)
            torch.testing.assert_close(found[each], true, rtol=tolerance, atol=tolerance * float(true.abs().max()))


@pytest.mark.parametrize(("name", "tolerance"), [("fp32", 1e-6), ("bf16", 2**-7), ("int8", 0.02), ("int4", 0.2)])
def test_each_owner_of_a_row_gets_its_mean(ranks: list[dict[str, Any]], name: str, tolerance: float) -> None:
    true = torch.stack([gradient("conv", 0, rank) for rank in range(WORLD)]).mean(0)
    length = len(ranks[0][name]["scattered"])
    for rank, row in enumerate(rows_of(true, WORLD, length)):
        found = ranks[rank][name]["scattered"][: len(row)]
        torch.testing.assert_close(found, row, rtol=0, atol=tolerance * float(true.abs().max()))


@pytest.mark.parametrize("name", ["int8", "int4", "low-rank"])
def test_what_was_applied_and_what_is_kept_back_add_up_to_the_true_means(
    ranks: list[dict[str, Any]], name: str
) -> None:
    for each in SHAPES:
        true = torch.stack([gradient(each, s, r) for s in range(STEPS) for r in range(WORLD)]).sum(0) / WORLD
        applied = torch.stack([step[each] for step in ranks[0][name]["applied"]]).sum(0)
        kept = torch.stack([rank[name]["kept"][each] for rank in ranks]).mean(0)
        torch.testing.assert_close(applied + kept, true, rtol=1e-4, atol=1e-4)
        bound = {"int8": 0.05, "int4": 0.5}.get(name)
        assert bound is None or float((applied - true).abs().max()) < bound * float(true.abs().max())


def test_low_rank_finds_the_few_directions_that_the_gradients_have(ranks: list[dict[str, Any]]) -> None:
    true = torch.stack([gradient("wide", STEPS - 1, rank) for rank in range(WORLD)]).mean(0)
    found = ranks[0]["low-rank"]["applied"][-1]["wide"]
    assert float((found - true).norm() / true.norm()) < 0.2
    assert torch.linalg.matrix_rank(found.view(96, 70), rtol=1e-4) <= 4


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"local"}))
def test_bytes_are_those_that_were_foretold(ranks: list[dict[str, Any]], name: str) -> None:
    foretold = SCHEMES[name].bytes_of([torch.Size(shape) for shape in SHAPES.values()], WORLD)
    assert ranks[0][name]["sent_a_step"] == pytest.approx(foretold, rel=0.02)


def reference(values: Any, bits: int, block: int) -> Any:
    """Returns what is left of a row of float32 after a trip as integers in blocks, by numpy."""
    steps = 2 ** (bits - 1) - 1
    found = np.zeros_like(values)
    for first in range(0, len(values), block):
        part = values[first : first + block]
        largest = np.float32(np.abs(part).max()) * np.float32((1 + 2**-7) / steps)
        bits_of = np.float32(largest).view(np.uint32)  # bfloat16: the upper half, to the nearest, ties to even
        rounded = (bits_of + 0x7FFF + ((bits_of >> 16) & 1)) & np.uint32(0xFFFF0000)
        scale = np.uint32(rounded).view(np.float32)
        if scale > 0:
            found[first : first + block] = np.round(part * (np.float32(1) / scale)) * scale
    return found


@pytest.mark.parametrize(("bits", "values"), [(8, 20_000), (8, 77), (4, 5000), (4, 77)])
def test_a_block_codec_is_the_plain_reference_and_leaves_the_rest(bits: int, values: int) -> None:
    codec = BlockCodec(bits)
    length = codec.row_length(values, 1)
    row = torch.randn(values, generator=torch.Generator().manual_seed(values)) * 1e-3
    row[: values // 2] *= 1e4
    row[values - 5 :] = 0
    padded = np.pad(row.numpy(), (0, length - values))
    kept = row.clone()
    packed = codec.pack([kept], length)
    assert packed.shape[1] == length * bits // 8 + 2 * (length // codec.block_of(length))
    found = codec.unpack(packed[0], torch.empty(values), length)
    np.testing.assert_array_equal(found.numpy(), reference(padded, bits, codec.block_of(length))[:values])
    torch.testing.assert_close(found + kept, row, rtol=0, atol=1e-6)  # what was rounded away is what stays
    assert float(kept.abs().max()) > 0
    twice = codec.unpack(packed[0], found.clone(), length, add=True)
    torch.testing.assert_close(twice, 2 * found)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_block_with_what_is_no_number_is_none_and_one_of_nothing_is_zeros(bits: int) -> None:
    codec = BlockCodec(bits)
    size = codec.block_of(1 << 20)
    row = torch.randn(3 * size)
    row[5] = float("nan")
    row[size : 2 * size] = 1e-42
    found = codec.unpack(codec.pack([row.clone()], 3 * size)[0], torch.empty(3 * size), 3 * size)
    assert found[:size].isnan().all() and not found[size:].isnan().any()
    assert not found[size : 2 * size].any()


def test_rows_that_are_shorter_are_packed_as_if_zeros_followed() -> None:
    codec, values = BlockCodec(8), torch.randn(50, generator=torch.Generator().manual_seed(1))
    packed = codec.pack([values.clone(), torch.nn.functional.pad(values, (0, 14)), values[:0]], 64)
    assert torch.equal(packed[0], packed[1])
    assert not packed[2].any()
