"""Gradients in 8 or 4 bits a value; rounding errors are added in the next step (error feedback).

Each worker owns a share of the values: it gets everybody's bytes for them, sums in float32, rounds the mean again and
sends it to all. So a worker sends ``2 (W - 1) / W`` times the bytes however many workers there are; gathering
everybody's bytes everywhere would send ``W - 1`` times as much. This is the quantised reduce-scatter by an all-to-all
of ZeRO++ (Wang et al., arXiv:2306.10209). The two roundings leave two residuals, and both are kept: that of a worker's
own gradients (Seide et al., Interspeech 2014), and that of the mean with the owner, who adds it to its own next
gradients ``W``-fold, because they will be averaged (Tang et al., "DoubleSqueeze", arXiv:1905.05957). Nothing is ever
lost: what has been applied and what is kept add up to the true means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lineside_converters.training.distributed.exchange import Exchange
from lineside_converters.training.distributed.gradients.codecs import BlockCodec, gather_rows, scatter_mean
from lineside_converters.training.distributed.gradients.scheme import GradientBucket, GradientScheme, Residuals


class _Quantized(GradientScheme):
    bits: ClassVar[int]

    def __init__(self, exchange: Exchange, *, warm_up_steps: int = 0) -> None:
        super().__init__(exchange, warm_up_steps=warm_up_steps)
        self.codec = BlockCodec(self.bits)
        self._residuals = Residuals()

    def average(self, bundled: GradientBucket) -> Tensor:
        """Returns the rounded mean, the same bits on every worker."""
        kept, world, length = self._kept(bundled), self.exchange.world, self._length(bundled)
        mean = scatter_mean(self.codec, self.exchange, kept, length)
        found = gather_rows(self.codec, self.exchange, mean, bundled.flat, length)
        mine = kept[self.exchange.rank * length :][:length]
        mine.add_(mean[: mine.numel()], alpha=world)
        return found

    def scatter(self, bundled: GradientBucket, length: int) -> Tensor:
        """Returns the mean of this worker's row: half of `average`, with one rounding."""
        return scatter_mean(self.codec, self.exchange, self._kept(bundled), length)

    def _kept(self, bundled: GradientBucket) -> Tensor:
        return self._residuals.of(bundled).add_(bundled.flat)

    def _length(self, bundled: GradientBucket) -> int:
        return self.codec.row_length(bundled.flat.numel(), self.exchange.world)

    @classmethod
    def bytes_of(cls, shapes: Sequence[torch.Size], world: int) -> float:
        """Returns the bytes of all values and their scales, twice."""
        values = sum(shape.numel() for shape in shapes)
        return 2 * (world - 1) / world * BlockCodec(cls.bits).bytes_of(values)

    def state(self) -> dict[str, Any]:
        """Returns the residuals of this worker."""
        return {"residuals": self._residuals.state()}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Takes the residuals over."""
        self._residuals.restore(state["residuals"], device)


class Int8(_Quantized):
    """One byte a value."""

    name = "int8"
    bits = 8


class Int4(_Quantized):
    """Half a byte a value."""

    name = "int4"
    bits = 4
