"""Gradients in float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lineside_converters.training.distributed.gradients.codecs import PlainCodec
from lineside_converters.training.distributed.gradients.scheme import GradientBucket, GradientScheme


class Float32(GradientScheme):
    """float32, as DDP does by itself."""

    name = "fp32"
    lossless = True

    def average(self, bundled: GradientBucket) -> Tensor:
        """Returns the mean."""
        return self._plain(bundled)

    @classmethod
    def bytes_of(cls, shapes: Sequence[torch.Size], world: int) -> float:
        """Returns 4 bytes a value by a ring."""
        return 2 * (world - 1) / world * 4 * sum(shape.numel() for shape in shapes)


class BFloat16(GradientScheme):
    """Rounded to bfloat16, and summed so: float32's range with 8 bits of it."""

    name = "bf16"
    codec = PlainCodec(torch.bfloat16)

    def average(self, bundled: GradientBucket) -> Tensor:
        """Returns the mean; divided before it is sent, so that the sum stays as small as a gradient."""
        half = bundled.flat.div_(self.exchange.world).to(torch.bfloat16)
        return bundled.flat.copy_(self.exchange.sum(half))

    @classmethod
    def bytes_of(cls, shapes: Sequence[torch.Size], world: int) -> float:
        """Returns 2 bytes a value by a ring."""
        return (world - 1) / world * 4 * sum(shape.numel() for shape in shapes)
