"""Classifiers: an EfficientNet-Lite0 with ImageNet's weights, and a ResNet-18 of any width."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from lineside_models.networks.detector import Trunk, efficientnet, pretrained_efficientnet

_CHANNELS = (64, 128, 256, 512)
_LAYERS = (2, 2, 2, 2)


FEATURES = 1280  # of EfficientNet-Lite0 before its classifier


class SurfaceClassifier(nn.Module):
    """Image in, a logit for each class out: EfficientNet-Lite0 (Apache-2.0) with a classifier of its own."""

    def __init__(self, num_classes: int, *, channels: int = 1, folded: bool = True) -> None:
        """Builds the network with random weights.

        Args:
            channels: Of the input: 1 for grey, 3 for colour.
            folded: Whether the early stages have their batch norms folded, as they are in a trained file.
        """
        super().__init__()
        self.num_classes = num_classes
        self._take(efficientnet(channels))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(FEATURES, num_classes)
        if folded:
            self.trunk.freeze_early()

    def _take(self, net: Any) -> None:
        self.trunk = Trunk(net)
        self.top = nn.Sequential(net.blocks[6], net.conv_head, net.bn2)

    def forward(self, image: Tensor) -> Tensor:
        """Computes the logits ``(B, num_classes)``.

        Args:
            image: ``(B, C, H, W) float32``, ``(value - 127) / 128``; H and W are multiples of 32.
        """
        logits: Tensor = self.head(self.pool(self.top(self.trunk(image)[2])))
        return logits


def pretrained_classifier(num_classes: int, *, channels: int = 1, seed: int = 0) -> SurfaceClassifier:
    """Builds a classifier, not yet folded, with ImageNet's weights but for its last layer.

    Args:
        channels: Of the input: 1 for grey, 3 for RGB.
        seed: Of the last layer.

    Returns:
        The network; call ``trunk.freeze_early()`` once its batch norms have seen the new images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SurfaceClassifier(num_classes, channels=channels, folded=False)
    model._take(pretrained_efficientnet(channels))
    return model


def resnet18(num_classes: int, *, width: float = 1.0, channels: int = 1, seed: int = 0) -> nn.Module:
    """Builds a ResNet-18 (He et al., arXiv:1512.03385) with random weights.

    Args:
        width: Factor on all channels; 0.5 has a quarter of the multiply-accumulates.

    Returns:
        A module ``(B, channels, H, W)`` → ``(B, num_classes)`` logits.
    """
    widths = tuple(round(count * width) for count in _CHANNELS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: Any = ResNet(
            BasicBlock,
            _LAYERS,
            num_classes=num_classes,
            in_chans=channels,
            stem_width=widths[0],
            channels=widths,
        )
    module: nn.Module = net
    return module
