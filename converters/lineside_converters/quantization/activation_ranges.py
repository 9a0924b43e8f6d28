"""Ranges of the values inside a float graph, by ONNX Runtime's calibrator."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater

from lineside_runtime.tensors import Array


class _One(CalibrationDataReader):  # type: ignore[misc]  # the base is untyped
    def __init__(self, feed: Mapping[str, Array]) -> None:
        self._left = [dict(feed)]

    def get_next(self) -> dict[str, Array] | None:
        return self._left.pop() if self._left else None


def largest_values(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns each inner tensor's largest absolute value: on the first input, and on all of them.

    Args:
        feeds: Inputs; they may differ in size.
    """
    with tempfile.TemporaryDirectory(prefix="lineside-ranges-") as folder:
        plain = Path(folder) / "shaped.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), plain)
        seen = MinMaxCalibrater(plain, augmented_model_path=str(plain.with_name("counted.onnx")))
        seen.augment_graph()
        seen.create_inference_session()
        first: dict[str, float] = {}
        for feed in feeds:
            seen.collect_data(_One(feed))
            first = first or _absolute(seen)
        return first, _absolute(seen)


def _absolute(seen: MinMaxCalibrater) -> dict[str, float]:
    return {name: float(np.abs(np.stack(data.range_value)).max()) for name, data in seen.compute_data().items()}
