"""The surface segmenter: an EfficientNet-Lite0 trunk and a light top-down head; a type for every fourth pixel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lineside_models.networks.detector import TRUNK_CHANNELS, Trunk, efficientnet, pretrained_trunk, separable

EARLY_CHANNELS = 24  # of EfficientNet-Lite0 at stride 4
STRIDE = 4
CHANNELS = 64  # of the head


class SurfaceSegmenter(nn.Module):
    """Grey image in, class maps at a quarter of its size out.

    Attributes:
        num_classes: Number of defect types; the background is one more channel, the first.
    """

    def __init__(self, num_classes: int, *, channels: int = CHANNELS, folded: bool = True) -> None:
        """Builds the network with random weights.

        Args:
            num_classes: Number of defect types.
            channels: Width of the head.
            folded: Whether the early stages have their batch norms folded, as they are in a trained file.
        """
        super().__init__()
        self.num_classes = num_classes
        self.trunk = Trunk(efficientnet())
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), nn.BatchNorm2d(channels))
            for c in (EARLY_CHANNELS, *TRUNK_CHANNELS)
        )
        self.smooth = nn.ModuleList(separable(channels) for _ in TRUNK_CHANNELS)
        self.head = nn.Sequential(separable(channels), nn.Conv2d(channels, num_classes + 1, 1))
        if folded:
            self.trunk.freeze_early()

    def forward(self, image: Tensor) -> Tensor:
        """Computes the class maps.

        Args:
            image: ``(B, 1, H, W) float32``, ``(grey - 127) / 128``; H and W are multiples of 32.

        Returns:
            ``(B, 1 + num_classes, H / 4, W / 4)`` logits; channel 0 is the background.
        """
        early = self.trunk.early(image)
        at8 = self.trunk.stage8(early)
        at16 = self.trunk.stage16(at8)
        features = (early, at8, at16, self.trunk.stage32(at16))
        *finer, mixed = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for feature, smooth in zip(reversed(finer), self.smooth, strict=True):
            mixed = smooth(feature + F.interpolate(mixed, scale_factor=2.0, mode="nearest"))
        maps: Tensor = self.head(mixed)
        return maps


def pretrained_segmenter(num_classes: int, *, channels: int = CHANNELS) -> SurfaceSegmenter:
    """Builds a segmenter, not yet folded, whose trunk has ImageNet's weights.

    Returns:
        The network; call ``trunk.freeze_early()`` once its batch norms have seen the new images.
    """
    model = SurfaceSegmenter(num_classes, channels=channels, folded=False)
    model.trunk = pretrained_trunk()
    return model
