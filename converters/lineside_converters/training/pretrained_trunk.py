"""Adapt an ImageNet trunk to grey surfaces: batch norms at once, weights slowly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

TRUNK_RATE = 0.4
"""Share of the learning rate that the trunk gets."""

NORM_BATCHES = 12
"""Batches that its batch norms are estimated on."""


@torch.no_grad()
def see_new_images(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Estimates a network's batch norms again on the images to come: surfaces are no photos.

    Args:
        network: Changed in place; not yet folded.
        images: Batches of its input.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches below
    network.train()
    for batch in images:
        network(batch)
    for norm in norms:
        norm.momentum = 0.1


def rate_of(peak: float) -> Callable[[str], float]:
    """Returns the peak learning rate of a parameter by its name: less for what knows ImageNet."""
    return lambda name: peak * (TRUNK_RATE if name.startswith(("trunk.", "top.")) else 1.0)
