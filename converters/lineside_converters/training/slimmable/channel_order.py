"""Order the channels of a network by how much they matter, so that a narrower network is its first channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lineside_converters.pruning.channel_groups import ChannelGroup, layers_of
from lineside_converters.training.objective import as_tuple
from lineside_runtime.errors import PruningError

TOLERANCE = 1e-3
"""Largest difference of an output after ordering, relative to the output's largest value."""

STEP = 8
"""Channels of a narrower group are a multiple of this where it has at least four times as many: kernels of INT8
convolutions compute 8 or 16 at once."""


def channels_at(width: float, full: int) -> int:
    """Returns the number of channels that a group of ``full`` channels keeps at a width from 0 to 1."""
    step = STEP if full >= 4 * STEP else STEP // 2
    return min(full, max(step, round(full * width / step) * step))


def order_channels(
    module: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], ranks: Mapping[str, Tensor]
) -> None:
    """Sorts the channels of each group in place, the most important first; the network computes the same as before.

    Args:
        example: An input; small ones are faster.
        ranks: By group, ``(width,)``; larger matters more.

    Raises:
        PruningError: The network computes something else afterwards: a group's layers do not share one order.
    """
    layers = layers_of(module, example, groups)
    with torch.no_grad():
        before = as_tuple(module.eval()(example))
        for group in groups:
            order = order_of(ranks[group.name])
            for layer, axis in layers[group.name]:
                sort_layer(layer, axis, order)
        after = as_tuple(module(example))
    for wanted, found in zip(before, after, strict=True):
        difference = float((wanted - found).abs().max() / wanted.abs().max().clamp(min=1.0))
        if not difference <= TOLERANCE:
            raise PruningError(
                "the channels of this network have no common order",
                expected=f"outputs within {TOLERANCE}",
                actual=f"{difference:.2g}",
                action="Train it without --widths.",
            )


def order_of(ranks: Tensor) -> Tensor:
    """Returns the channels by their ranks, the most important first."""
    return ranks.argsort(descending=True, stable=True)


def sort_layer(layer: nn.Module, axis: int, order: Tensor) -> None:
    """Sorts the tensors of a layer along its output channels (axis 0) or its input channels (axis 1)."""
    tensors = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}
    for tensor in tensors.values():
        sort_tensor(tensor, axis, order)


def sort_tensor(tensor: Tensor, axis: int, order: Tensor) -> None:
    """Sorts a tensor in place along its output channels (axis 0) or its input channels (axis 1), if it has them."""
    if tensor.ndim > axis and (axis == 1 or tensor.shape[0] == len(order)):
        tensor.copy_(tensor.index_select(axis, order))
