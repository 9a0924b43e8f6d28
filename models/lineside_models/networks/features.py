"""Features of patches: of an EfficientNet-Lite0 with ImageNet's weights, at two scales. Host only.

Trained on photographs of anything, not on defects: what a part looks like where it is good is learnt elsewhere, from
its own frames (`lineside_models.anomaly`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lineside_models.networks.detector import Trunk, pretrained_detector

LEVELS = (16, 32)
"""Strides at which features are taken."""

NEIGHBOURHOOD = 3
"""Cells on a side that are averaged to one feature, as in PatchCore (arXiv:2106.08265, section 3.1)."""


class PatchFeatures(nn.Module):
    """Grey image in, one feature a cell out, at every stride of `LEVELS`."""

    def __init__(self, trunk: Trunk | None = None) -> None:
        """Takes a trunk, or builds one with ImageNet's weights."""
        super().__init__()
        self.trunk = pretrained_detector(1).trunk if trunk is None else trunk

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Computes the features.

        Args:
            image: ``(B, 1, H, W) float32``, ``(grey - 127) / 128``; H and W are multiples of 32.

        Returns:
            ``(B, 112, H/16, W/16)`` and ``(B, 192, H/32, W/32)``.
        """
        _, at16, at32 = self.trunk(image)
        return _smooth(at16), _smooth(at32)


def _smooth(features: Any) -> Tensor:
    side = NEIGHBOURHOOD
    return F.avg_pool2d(features, side, stride=1, padding=side // 2, count_include_pad=False)
