"""What TensorRT's compiler can make of the INT8 ONNX variants of a bundle."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from lineside_runtime.bundle import Bundle, Variant

if TYPE_CHECKING:
    from lineside_converters.formats import SourceCheck


def tensorrt_sources(bundle: Bundle) -> dict[str, SourceCheck]:
    """Returns the check of each INT8 ONNX variant, by its name; empty where the package ``onnx`` is not installed."""
    if importlib.util.find_spec("onnx") is None:
        return {}
    from lineside_converters.formats import makers_for

    (maker,) = makers_for("tensorrt")
    checks = {one.name: maker.check_source(bundle.file(one.file)) for one in bundle.manifest.variants if _is_int8(one)}
    return {name: check for name, check in checks.items() if check is not None}


def _is_int8(variant: Variant) -> bool:
    return variant.format == "onnx" and variant.precision == "int8" and not variant.stages
