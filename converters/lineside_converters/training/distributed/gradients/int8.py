"""Gradients in one byte a value; rounding errors are added in the next step (error feedback).

Each worker owns a share of the values: it gets everybody's bytes for them, sums in float32, rounds the mean again and
sends it to all. So a worker sends ``2 (W - 1) / W`` bytes a value however many workers there are; gathering everybody's
bytes everywhere would send ``W - 1``. The two roundings leave two residuals, and both are kept: that of a worker's own
gradients (Seide et al., Interspeech 2014), and that of the mean with the owner, who adds it to its own next gradients
``W``-fold, because they will be averaged (Tang et al., "DoubleSqueeze", arXiv:1905.05957). Nothing is ever lost: what
has been applied and what is kept add up to the true means.

All of it is done in pieces that stay in a core's cache: whole passes over a network's gradients, with a new tensor for
each, took eight times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients.scheme import GradientBucket, GradientScheme, Residuals

BLOCK = 8192
"""Values that share a scale. Smaller ones would cost bytes; what they would round better, the feedback brings."""

STEPS = 127
PIECE = 65536
"""Values that are worked on at once: 256 KiB of them, so that they and what is made of them stay in the cache."""

_SCALE = torch.bfloat16  # a scale in two bytes with float32's range: gradients are often too small for float16


class Int8(GradientScheme):
    """One byte a value and two a block."""

    name = "int8"

    def __init__(self, exchange: Exchange, *, warm_up_steps: int = 0) -> None:
        super().__init__(exchange, warm_up_steps=warm_up_steps)
        self._residuals = Residuals()

    def average(self, bundled: GradientBucket) -> Tensor:
        """Returns the rounded mean, the same bits on every worker."""
        kept, world = self._residuals.of(bundled).add_(bundled.flat), self.exchange.world
        block = block_of(kept.numel(), world)
        length = -(-kept.numel() // (world * block)) * block
        mean = mean_of(self.exchange.swap(pack(_rows(kept, world, length), length, block)), block)
        own = pack([mean], length, block)[0]
        self._keep(kept, mean)
        for packed, row in zip(self.exchange.gather(own), _rows(bundled.flat, world, length), strict=True):
            unpack(packed, row, block)
        return bundled.flat

    def _keep(self, kept: Tensor, residual: Tensor) -> None:
        first = self.exchange.rank * residual.numel()
        own = kept[first : first + residual.numel()]
        own.add_(residual[: own.numel()], alpha=self.exchange.world)

    @classmethod
    def bytes_of(cls, shapes: Sequence[torch.Size], world: int) -> float:
        """Returns a byte a value, two a block, twice."""
        return 2 * (world - 1) / world * (1 + 2 / BLOCK) * sum(shape.numel() for shape in shapes)

    def state(self) -> dict[str, Any]:
        """Returns the residuals of this worker."""
        return {"residuals": self._residuals.state()}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Takes the residuals over."""
        self._residuals.restore(state["residuals"], device)


def block_of(values: int, world: int) -> int:
    """Returns the length of a block: shorter where there are few values, so that padding stays small."""
    return max(1, min(BLOCK, -(-values // world)))


def _rows(flat: Tensor, world: int, length: int) -> list[Tensor]:
    """Returns the part of each worker, ``(length,)``; the last ones are shorter."""
    return [flat[rank * length : (rank + 1) * length] for rank in range(world)]


def pack(rows: Sequence[Tensor], length: int, block: int) -> Tensor:
    """Rounds rows to bytes, and leaves the rounding errors in their place.

    Args:
        rows: R of ``(length,) float32`` or shorter, then as if zeros followed.
        length: A multiple of ``block``.
        block: Values that share a scale.

    Returns:
        ``(R, length + 2 length / block) uint8``: the values, then the scales. A value that is no number makes its
        block so.
    """
    packed = torch.empty(
        (len(rows), length + length // block * _SCALE.itemsize), dtype=torch.uint8, device=rows[0].device
    )
    for row, into in zip(rows, packed, strict=True):
        if row.numel() == length:
            _pack_row(row, into, block)
        else:
            padded = F.pad(row, (0, length - row.numel()))
            _pack_row(padded, into, block)
            row.copy_(padded[: row.numel()])
    return packed


def _pack_row(row: Tensor, packed: Tensor, block: int) -> None:
    blocks, values = row.view(-1, block), packed[: row.numel()].view(torch.int8).view(-1, block)
    scales, room = torch.empty(len(blocks), dtype=_SCALE, device=row.device), _room(blocks)
    for at in _pieces(len(blocks), block):
        part = blocks[at]
        rounded = torch.abs(part, out=room[: len(part)])
        scales[at] = rounded.amax(-1).div_(STEPS)
        steps = torch.where(scales[at] == 0, 1, scales[at]).float()[:, None]
        values[at] = torch.div(part, steps, out=rounded).round_().clamp_(-STEPS, STEPS)
        part.sub_(rounded.mul_(steps))
    packed[row.numel() :] = scales.view(torch.uint8)


def unpack(packed: Tensor, row: Tensor, block: int) -> Tensor:
    """Writes the values of one packed row to ``(n,) float32``, which may be shorter, and returns it."""
    values, scales = _parts_of(packed, block)
    if row.numel() < values.numel():
        return row.copy_(mean_of(packed[None], block)[: row.numel()])
    blocks = row.view(-1, block)
    for at in _pieces(len(blocks), block):
        blocks[at].copy_(values[at]).mul_(scales[at])
    return row


def mean_of(packed: Tensor, block: int) -> Tensor:
    """Returns the mean of packed rows, ``(length,) float32``."""
    rows = [_parts_of(each, block) for each in packed]
    found = torch.empty(rows[0][0].shape, dtype=torch.float32, device=packed.device)
    room = _room(found)
    for at in _pieces(len(found), block):
        total = found[at].copy_(rows[0][0][at]).mul_(rows[0][1][at])
        for values, scales in rows[1:]:
            total.addcmul_(room[: len(total)].copy_(values[at]), scales[at])
        total.div_(len(rows))
    return found.flatten()


def _parts_of(packed: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Returns the values ``(blocks, block) int8`` and their scales ``(blocks, 1) float32``."""
    blocks = packed.numel() // (block + _SCALE.itemsize)
    values = packed[: blocks * block].view(torch.int8).view(blocks, block)
    scales = packed[blocks * block :].clone().view(_SCALE)  # a copy: a view as two bytes needs an even offset
    return values, scales.float()[:, None]


def _room(blocks: Tensor) -> Tensor:
    """Returns room for what is made of one piece."""
    return torch.empty_like(blocks[: max(1, PIECE // blocks.shape[1])])


def _pieces(blocks: int, block: int) -> Iterator[slice]:
    """Yields which blocks are worked on at once."""
    size = max(1, PIECE // block)
    return (slice(first, first + size) for first in range(0, blocks, size))
