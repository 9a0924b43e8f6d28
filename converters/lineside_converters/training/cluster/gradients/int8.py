"""Gradients in one byte a value, with what was rounded away sent in the next step (error feedback).

Each worker owns a share of the values: it gets everybody's bytes for them, sums in float32, rounds the mean again and
sends it to all. So a worker sends ``2 (W - 1) / W`` bytes a value however many workers there are; gathering everybody's
bytes everywhere would send ``W - 1``. The two roundings leave two residuals, and both are kept: that of a worker's own
gradients (Seide et al., Interspeech 2014), and that of the mean with the owner, who adds it to its own next gradients
``W``-fold, because they will be averaged (Tang et al., "DoubleSqueeze", arXiv:1905.05957). Nothing is ever lost: what
has been applied and what is kept add up to the true means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lineside_converters.training.cluster.exchange import Exchange
from lineside_converters.training.cluster.gradients.scheme import Bundled, Residuals, Scheme

BLOCK = 8192
"""Values that share a scale. Smaller ones would cost bytes; what they would round better, the feedback brings."""

STEPS = 127
_SCALE = torch.bfloat16  # a scale in two bytes with float32's range: gradients are often too small for float16


class Int8(Scheme):
    """One byte a value and two a block."""

    name = "int8"

    def __init__(self, exchange: Exchange, *, warm_up_steps: int = 0) -> None:
        super().__init__(exchange, warm_up_steps=warm_up_steps)
        self._residuals = Residuals()

    def average(self, bundled: Bundled) -> Tensor:
        """Returns the rounded mean, the same bits on every worker."""
        kept = self._residuals.of(bundled)
        wanted = bundled.flat.add_(kept)
        block = block_of(wanted.numel(), self.exchange.world)
        rows = _rows(wanted, self.exchange.world, block)
        sent = pack(rows, block)
        kept.copy_((rows - unpack(sent, block)).flatten()[: kept.numel()])
        mean = unpack(self.exchange.swap(sent), block).mean(0, keepdim=True)
        own = pack(mean, block)
        self._keep(kept, (mean - unpack(own, block))[0])
        found = unpack(self.exchange.gather(own[0]), block)
        return bundled.flat.copy_(found.flatten()[: bundled.flat.numel()])

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


def _rows(flat: Tensor, world: int, block: int) -> Tensor:
    """Returns ``(W, n)``, padded with 0 to whole blocks."""
    length = -(-flat.numel() // (world * block)) * block
    return F.pad(flat, (0, world * length - flat.numel())).view(world, length)


def pack(rows: Tensor, block: int) -> Tensor:
    """Rounds to bytes.

    Args:
        rows: ``(R, n) float32``, n a multiple of ``block``.
        block: Values that share a scale.

    Returns:
        ``(R, n + 2 n / block) uint8``: the values, then the scales. A value that is no number makes its block so.
    """
    blocks = rows.view(len(rows), -1, block)
    scales = (blocks.abs().amax(-1) / STEPS).to(_SCALE)
    divisors = torch.where(scales == 0, torch.ones_like(scales), scales).float()[..., None]
    values = (blocks / divisors).round_().clamp_(-STEPS, STEPS).to(torch.int8)
    return torch.cat([values.view(len(rows), -1).view(torch.uint8), scales.view(torch.uint8)], 1)


def unpack(packed: Tensor, block: int) -> Tensor:
    """Returns the values ``(R, n) float32`` of what `pack` made."""
    blocks = packed.shape[1] // (block + _SCALE.itemsize)
    length = blocks * block
    values = packed[:, :length].contiguous().view(torch.int8).view(len(packed), blocks, block).float()
    scales = packed[:, length:].flatten().clone().view(_SCALE)  # a copy: a view as two bytes needs an even offset
    return values.mul_(scales.float().view(len(packed), blocks, 1)).view(len(packed), length)
