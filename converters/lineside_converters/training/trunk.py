"""How a trunk that knows ImageNet is brought to grey surfaces: its batch norms at once, its weights slowly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lineside_models.networks.detector import Trunk

TRUNK_RATE = 0.4
"""Share of the learning rate that the trunk gets."""

NORM_BATCHES = 12
"""Batches that its batch norms are estimated on."""


@torch.no_grad()
def see_new_images(trunk: Trunk, images: Iterable[Tensor]) -> None:
    """Estimates the trunk's batch norms again on the images to come: grey surfaces are no photos.

    Args:
        trunk: Changed in place; not yet folded.
        images: Batches ``(B, 1, S, S)``.
    """
    norms = [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches below
    trunk.train()
    for batch in images:
        trunk(batch)
    for norm in norms:
        norm.momentum = 0.1


def rate_of(peak: float) -> Callable[[str], float]:
    """Returns the peak learning rate of a parameter by its name."""
    return lambda name: peak * (TRUNK_RATE if name.startswith("trunk.") else 1.0)
