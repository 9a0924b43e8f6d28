"""OpenVINO's own format, ``model.xml`` with ``model.bin``.

Two ways to INT8: the QDQ ONNX file taken over as it is, with all that was decided for it, or NNCF's post-training
quantisation with its bias correction. Which is faster depends on the model; both go through the gates.

NNCF's ``PERFORMANCE`` preset (symmetric activations) ran EfficientNet-Lite0 in 3.9 ms where ``MIXED`` took 4.6. For x86
without VNNI its fix of overflows gives all weights 7 bits: otherwise only those of the first layer have it, and sums of
others saturate there.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13

from lineside_converters.formats import ConversionRequest
from lineside_converters.graph.cleanup import first_line
from lineside_runtime.errors import GraphError
from lineside_runtime.tensors import Array

_BETWEEN = re.compile(rb">\s+<")


def make(request: ConversionRequest) -> Path:
    """Converts the quantized form, or the float graph where nothing is quantized."""
    model = _read(request.int8 or request.clean)
    _fold_biases(model)
    return _save(model, request.folder)


def make_nncf(request: ConversionRequest) -> Path:
    """Quantizes the float graph by NNCF."""
    if request.int8 is None:
        raise GraphError("NNCF has nothing to do at level 0", action="")
    if request.float_nodes:
        raise GraphError("layers stay in float, by their names in the ONNX graph, which NNCF doesn't see", action="")
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix

    model = _read(request.clean)
    feeds = [dict(feed) for feed in request.feeds]
    try:
        with _quiet():
            made = nncf.quantize(
                model,
                nncf.Dataset(feeds),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(feeds),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=OverflowFix.ENABLE if request.activation == "u8s7" else None
                ),
            )
    except (nncf.InternalError, nncf.ValidationError, RuntimeError, ValueError, KeyError, IndexError) as error:
        raise GraphError("NNCF can't quantise this graph", actual=first_line(error)) from error
    return _save(made, request.folder)


def _read(path: Path) -> Any:
    try:
        return openvino.convert_model(str(path))
    except (RuntimeError, ValueError, openvino.exceptions.OVError) as error:
        raise GraphError("OpenVINO can't read this graph", actual=first_line(error)) from error


def _fold_biases(model: Any) -> None:
    """Converts biases from INT32 with a scale a channel to float, which OpenVINO computes with anyway.

    As QDQ has them they are five operators and two constants each: 1 % of EfficientNet-Lite0's files, most of it text.
    """
    for operator in model.get_ordered_ops():
        if operator.get_type_name() != "Reshape":
            continue
        bias = _constant(operator.input_value(0))
        if bias is not None:
            shape = list(operator.output(0).get_shape())
            operator.output(0).replace(openvino.opset13.constant(bias.reshape(shape).astype(np.float32)).output(0))


def _constant(output: Any) -> Array | None:
    """Returns the value of a constant, or of an INT32 constant times its scale; ``None`` for anything else."""
    operator = output.get_node()
    kind = operator.get_type_name()
    if kind == "Constant":
        return np.array(operator.get_data())
    inputs = [_constant(one) for one in operator.input_values()] if kind in ("Convert", "Multiply") else [None]
    if kind == "Convert":
        given = inputs[0]
        return None if given is None or given.dtype != np.int32 else given.astype(np.float32)
    if len(inputs) == 2 and inputs[0] is not None and inputs[1] is not None:
        return np.asarray(np.multiply(inputs[0], inputs[1]))
    return None


def _save(model: Any, folder: Path) -> Path:
    named = {name for output in model.outputs for name in output.get_names()}
    for operator in model.get_ordered_ops():
        for output in operator.outputs():
            if operator.get_type_name() not in ("Parameter", "Result") and named.isdisjoint(output.get_names()):
                output.get_tensor().set_names(set())  # nobody asks for an inner tensor by its name
    target = folder / "model.xml"
    openvino.save_model(model, str(target), compress_to_fp16=False)
    # A fifth of the file is indentation.
    target.write_bytes(_BETWEEN.sub(b"><", target.read_bytes()))
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps NNCF's progress bars and notes off stdout, where ``--json`` prints."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
