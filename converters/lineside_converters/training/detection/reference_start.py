"""A detector of single frames as the start of one that compares frames with a reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lineside_converters.pruning.torch_graph import PrunableNetwork
from lineside_converters.training.initial_weights import InitialModel, facts_of_start, open_start
from lineside_runtime.errors import TrainingError


def open_comparing(model: Path, frames: Sequence[Tensor]) -> InitialModel:
    """Returns a model to start from that takes frames composed with a reference.

    A model of grey frames gets two more input channels with weights of 0, so that it finds at first what it found in
    the frame.

    Args:
        model: As for `open_start`.
        frames: Prepared composed inputs ``(B, 3, H, W)``.

    Raises:
        TrainingError: Its first layer is no convolution.
    """
    preprocess = facts_of_start(model).preprocess
    if preprocess is not None and preprocess.colour != "grey":
        return open_start(model, frames)
    found = open_start(model, [frame[:, :1].contiguous() for frame in frames])
    _widen(found.network, frames[0])
    return found


@torch.no_grad()
def _widen(network: PrunableNetwork, frame: Tensor) -> None:
    """Gives the first convolution the channels of ``frame``; the new ones have weights of 0."""
    parent, name = _first_conv(network.module)
    old = parent.get_submodule(name)
    if not isinstance(old, nn.Conv2d) or old.in_channels != 1:
        raise TrainingError("the network's first layer can't take a reference", expected="a convolution of grey images")
    new = nn.Conv2d(
        frame.shape[1],
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]  # torch's stubs know tuples of two only
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    new.weight.zero_()
    new.weight[:, :1] = old.weight
    if old.bias is not None:
        new.get_parameter("bias").copy_(old.bias)
    setattr(parent, name, new)
    side = network.example.shape[2:]
    network.example = nn.functional.interpolate(frame[:1], (int(side[0]), int(side[1])))


def _first_conv(module: nn.Module) -> tuple[nn.Module, str]:
    """Returns the module that holds the first convolution, and its name there."""
    for path, each in module.named_modules():
        if isinstance(each, nn.Conv2d):
            parent, _, name = path.rpartition(".")
            return module.get_submodule(parent), name
    raise TrainingError("the network has no convolution")
