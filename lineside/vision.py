"""``lineside.vision``: `QualityInspector`, an `ImageInspector` that also reads ``.pt`` files, and `MarkReader`."""

from __future__ import annotations

from pathlib import Path

from lineside.extras import needs
from lineside_models.identification.expected_values import ExpectedValues
from lineside_models.identification.mark_reader import MarkReader
from lineside_models.identification.mark_reading import MarkReading
from lineside_models.identification.rules import CodeRule, TextRule
from lineside_models.vision import ImageInspector

__all__ = ["CodeRule", "ExpectedValues", "MarkReader", "MarkReading", "QualityInspector", "TextRule"]


class QualityInspector(ImageInspector):
    """Finds defects in images; the model is a bundle, an ``.onnx`` or, on a host, a ``.pt`` file.

    ::

        with QualityInspector(model_path="steel.pt", confidence_threshold=0.9, batch_size=16) as inspector:
            for verdict in inspector.predict("photos/"):
                print(verdict.part_id, verdict.passed, verdict.detections)
    """

    def _import_pt(self, path: Path, trust: bool) -> Path:
        with needs("train"):
            import torch  # noqa: F401  first, so that the error names the missing package

            from lineside_converters.loading.torch_import import import_pt
        return import_pt(path, trust)
