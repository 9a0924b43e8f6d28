"""Large kernels of a network, and a network in which some of them are 3×3.

A smaller kernel is the middle of the large one, as in Cai et al., "Once-for-all" (arXiv:1908.09791), without its
transformation matrices: the batch norms are counted again, and the form is fine-tuned.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

SMALL = 3


def large_kernels(module: nn.Module) -> tuple[str, ...]:
    """Returns the names of convolutions whose kernel can be cropped with the same output size, in their order."""
    return tuple(
        name for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d) and _can_be_cropped(layer)
    )


def _can_be_cropped(conv: nn.Conv2d) -> bool:
    square = len(set(conv.kernel_size)) == 1 and conv.kernel_size[0] % 2 == 1 and conv.kernel_size[0] > SMALL
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and set(conv.dilation) == {1}
    return square and plain and all(int(side) >= _border(conv) for side in conv.padding)


def _border(conv: nn.Conv2d) -> int:
    return (conv.kernel_size[0] - SMALL) // 2


@torch.no_grad()
def crop_kernels(module: nn.Module, names: Collection[str]) -> None:
    """Makes kernels of a module 3×3, in place; names that it does not have are blocks that were left out."""
    for name, layer in list(module.named_modules()):
        if name in names and isinstance(layer, nn.Conv2d) and _can_be_cropped(layer):
            border = _border(layer)
            weight = layer.weight[:, :, border:-border, border:-border].clone()
            layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
            layer.kernel_size = (SMALL, SMALL)
            layer.padding = tuple(int(side) - border for side in layer.padding)
