"""Inspection of images: `ImageInspector`.

``lineside.vision.QualityInspector`` also reads ``.pt`` files, which needs torch.
"""

from __future__ import annotations

from lineside_models.vision.image_inspector import ExaminedImage, ImageInspector

__all__ = ["ExaminedImage", "ImageInspector"]
