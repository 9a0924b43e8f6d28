"""LiteRT (``.tflite``): the ONNX graph as a torch module, `litert_torch` from there, INT8 by `ai_edge_quantizer`.

For graphs that `litert_qdq` does not translate. ``onnx2tf`` did not serve: for our Pythons it pins TensorFlow 2.19,
numpy 1.26 and an onnxruntime of last year. `litert_torch` brings jax and transformers (2 GB), so it is an extra of its
own. The file is for one size of input. A graph with a Resize is refused: ``onnx2torch`` reads its scale as data, which
``torch.export`` does not follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_quantizer import quantizer, recipe

from lineside_converters.formats import ConversionRequest, shaped_input
from lineside_converters.graph.cleanup import first_line
from lineside_runtime.errors import GraphError

SIGNATURE = "serving_default"


def make(request: ConversionRequest) -> Path:
    """Converts, and quantizes if the level does (static, 8-bit weights and activations)."""
    shape = shaped_input(request)
    if shape is None:
        raise GraphError("LiteRT takes one input of one shape", action="Give frames that become one shape.")
    plain = request.folder / "float.tflite"
    _convert(request.clean, plain, shape)
    target = request.folder / "model.tflite"
    if request.int8 is None:
        return plain.rename(target)
    _quantize(plain, target, [next(iter(feed.values())) for feed in request.feeds])
    plain.unlink()
    return target


def _convert(model: Path, target: Path, shape: Sequence[int]) -> None:
    import litert_torch
    import onnx2torch
    import torch

    try:
        net = onnx2torch.convert(str(model)).eval()
        litert_torch.convert(net, (torch.zeros(*shape),)).export(str(target))
    except (RuntimeError, NotImplementedError, ValueError, KeyError, TypeError) as error:
        raise GraphError("this graph has no form in LiteRT", actual=first_line(error)) from error


def _quantize(plain: Path, target: Path, tensors: Sequence[np.ndarray[Any, Any]]) -> None:
    work = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    name = _input_name(plain)
    try:
        ranges = work.calibrate({SIGNATURE: [{name: tensor} for tensor in tensors]})
        work.quantize(ranges).export_model(str(target), overwrite=True)
    except (RuntimeError, ValueError, KeyError) as error:
        raise GraphError("LiteRT's quantiser gives up", actual=first_line(error)) from error


def _input_name(plain: Path) -> str:
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(str(plain)).get_signature_list()
    return str(signatures[SIGNATURE]["inputs"][0])
