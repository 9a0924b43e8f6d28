"""No averaging of gradients: workers train alone, and exchange what has become of their parameters now and then.

`lineside_converters.training.distributed.local_updates` exchanges it. What is here is the warm-up, in which gradients
are averaged in float32 as by every other scheme.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lineside_converters.training.distributed.gradients.codecs import BlockCodec
from lineside_converters.training.distributed.gradients.scheme import GradientBucket, GradientScheme

ROUND_STEPS = 32
"""Steps of a round: each parameter is exchanged once in so many."""


class Local(GradientScheme):
    """Local updates: 4 bits a value and direction, once in a round."""

    name = "local"
    local = True
    codec = BlockCodec(4)

    def average(self, bundled: GradientBucket) -> Tensor:
        """Returns the mean in float32; called during the warm-up alone."""
        return self._plain(bundled)

    @classmethod
    def bytes_of(cls, shapes: Sequence[torch.Size], world: int) -> float:
        """Returns a round's bytes, divided by its steps."""
        return 2 * (world - 1) / world * cls.codec.bytes_of(sum(shape.numel() for shape in shapes)) / ROUND_STEPS
