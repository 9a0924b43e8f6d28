"""Inspection of images: `QualityInspector`.

On a host, ``lineside.vision`` is the same with ``.pt`` files on top.
"""

from __future__ import annotations

from lineside_models.vision.quality import Examined, QualityInspector

__all__ = ["Examined", "QualityInspector"]
