"""Smaller inputs of a network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

STEP_PX = 8
"""Sides are multiples of it."""


class ResizedNetwork(nn.Module):
    """Network with a smaller input.

    Args:
        module: Takes pictures ``(B, C, H, W)``.
        share: Of their sides, more than 0 and at most 1.
    """

    def __init__(self, module: nn.Module, share: float) -> None:
        super().__init__()
        self.module = module
        self._share = share

    def forward(self, image: Tensor) -> Any:
        """Shrinks the picture and runs the network."""
        return self.module(shrunk(image, self._share))


def side_px(side: int, share: float) -> int:
    """Returns a share of a side."""
    return max(STEP_PX, round(side * share / STEP_PX) * STEP_PX)


def shrunk(image: Tensor, share: float) -> Tensor:
    """Returns pictures ``(B, C, H, W)`` with a share of their sides."""
    if share == 1:
        return image
    return F.interpolate(image, [side_px(side, share) for side in image.shape[2:]], mode="area")
