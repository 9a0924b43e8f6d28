"""A ResNet-18 for small grey pictures, at any width: timm's own definition with other numbers of channels."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

_CHANNELS = (64, 128, 256, 512)
_LAYERS = (2, 2, 2, 2)


def resnet18(num_classes: int, *, width: float = 1.0, seed: int = 0) -> nn.Module:
    """Builds a ResNet-18 (He et al., arXiv:1512.03385) with one input channel and random weights.

    Args:
        num_classes: Number of classes.
        width: Factor on all channels; 0.5 has a quarter of the multiply-accumulates.
        seed: Of the weights.

    Returns:
        A module ``(B, 1, H, W)`` → ``(B, num_classes)`` logits.
    """
    channels = tuple(round(count * width) for count in _CHANNELS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: Any = ResNet(
            BasicBlock,
            _LAYERS,
            num_classes=num_classes,
            in_chans=1,
            stem_width=channels[0],
            channels=channels,
        )
    module: nn.Module = net
    return module
