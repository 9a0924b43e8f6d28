"""Level 0: a graph that engines and the quantiser read well.

Exports leave Identity and Pad nodes, unfused batch norms and unknown shapes behind; without this step an INT8 ResNet-50
was slower than its float model (0.84 times) instead of 3.6 times faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnxruntime.capi import onnxruntime_pybind11_state as vendor

from lineside_runtime.errors import CalibrationError, GraphError, InputNotFoundError

MODEL_MAX_BYTES = 1 << 30
"""Larger files are refused: a bundle can't hold them."""

VENDOR_TEXT_MAX = 1000
"""Characters of ONNX Runtime's messages that an error repeats."""

PER_CHANNEL_OPSET = 13
"""The first in which ``QuantizeLinear`` has one scale a channel (ONNX, Operators.md)."""


def load_graph(path: Path) -> onnx.ModelProto:
    """Reads and checks an ONNX file.

    Raises:
        InputNotFoundError: There is no such file.
        GraphError: It is not ONNX, too large, keeps weights in other files, or breaks ONNX' rules.
    """
    if not path.is_file():
        raise InputNotFoundError(f"no model at {path}")
    if path.stat().st_size > MODEL_MAX_BYTES:
        raise GraphError(
            f"{path.name} is too large", expected=f"{MODEL_MAX_BYTES} bytes at most", actual=path.stat().st_size
        )
    try:
        # Weights in other files are not followed: their paths come from the model and may point anywhere.
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise GraphError(f"{path.name} is not an ONNX file", action="Export the model again.") from error
    outside = [tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise GraphError(
            f"{path.name} keeps the weights {outside[0]!r} in another file",
            action="Save it as one file: onnx.save(model, path, save_as_external_data=False).",
        )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise GraphError(f"{path.name} breaks ONNX' rules", actual=first_line(error)) from error
    return model


def clean_graph(source: Path, target: Path) -> None:
    """Infers shapes, folds constants and batch norms, and removes what does nothing.

    Args:
        target: ONNX file to write, with the same inputs, outputs and metadata.

    Raises:
        InputNotFoundError: There is no such file.
        GraphError: It can't be read, or has a node that ONNX Runtime doesn't know; the message names the node.
    """
    model = load_graph(source)
    _fix_constant_inputs(model.graph)
    name_nodes(model)
    check_operators(model)
    model = upgraded(model)
    try:
        # The two steps of onnxruntime's quant_pre_process, which logs an error of the first and goes on without it.
        # ONNX' own shape inference gives every tensor of our graphs a shape; the symbolic one, which it also offers,
        # adds none and gives up with a bare Exception on the detector's two additions of resized maps.
        _fold(model, target)
        onnx.save(onnx.shape_inference.infer_shapes(onnx.load(target)), target)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError, *vendor_errors()) as error:
        raise GraphError(f"{source.name} cannot be cleaned", actual=first_line(error)) from error
    cleaned = onnx.load(target)
    if {value.name for value in cleaned.graph.output} != {value.name for value in model.graph.output}:
        raise GraphError(f"{source.name} lost outputs while it was cleaned")
    flatten_biases(cleaned)
    del cleaned.metadata_props[:]
    marks = {entry.key: entry.value for entry in model.metadata_props}
    marks["onnx.infer"] = "onnxruntime.quant"  # the quantiser's own mark, which a file cleaned before has already
    for key, value in marks.items():
        cleaned.metadata_props.add(key=key, value=value)
    onnx.save(cleaned, target)


def _fix_constant_inputs(graph: onnx.GraphProto) -> None:
    """Removes inputs that have a value, which old exporters list beside the image, so that they can be folded."""
    values = {tensor.name for tensor in graph.initializer}
    for entry in [value for value in graph.input if value.name in values]:
        graph.input.remove(entry)


def _fold(model: onnx.ModelProto, target: Path) -> None:
    """Lets ONNX Runtime fold constants, and write the graph while it is still standard ONNX."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4  # what fails is raised
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model in the first opset that has one scale a channel, if it is in an older one.

    One that ONNX' own converter can't bring there stays as it is, and the quantiser refuses it by its opset.
    """
    if opset_of(model) >= PER_CHANNEL_OPSET:
        return model
    try:
        newer = onnx.version_converter.convert_version(model, PER_CHANNEL_OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError):
        return model
    name_nodes(newer)  # what the converter adds has no names
    return newer


def flatten_biases(model: onnx.ModelProto) -> None:
    """Reshapes Gemm's biases from (1, N), as TensorFlow and JAX export them, to (N,).

    ONNX Runtime's quantiser reads a bias channel by channel and fails on the other shape.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        bias = weights.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1:
            flat = model.graph.initializer.add()
            flat.CopyFrom(bias)
            flat.name = f"{bias.name}_of_{node.name}"  # others may use it as it is
            del flat.dims[0]
            node.input[2] = flat.name
    used = set(_names_used(model.graph))
    for tensor in [each for each in model.graph.initializer if each.name not in used]:
        model.graph.initializer.remove(tensor)


def _names_used(graph: onnx.GraphProto) -> Iterator[str]:
    """Yields every value that a node or an output reads, in inner graphs too."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _names_used(inner)


def opset_of(model: onnx.ModelProto) -> int:
    """Returns the version of ONNX' own operators that a model uses; the newest if it uses none."""
    found = (int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return next(found, int(onnx.defs.onnx_opset_version()))


def name_nodes(model: onnx.ModelProto) -> None:
    """Names every node that has no name, so that errors and options can refer to it."""
    for number, node in enumerate(model.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{number}"


def check_operators(model: onnx.ModelProto) -> None:
    """Refuses operators that neither ONNX nor ONNX Runtime defines.

    Raises:
        GraphError: Names the first such node.
    """
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    functions = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        domain = node.domain or "ai.onnx"
        ours = domain.startswith("com.microsoft") or (node.domain, node.op_type) in functions
        standard = domain in versions and onnx.defs.has(node.op_type, versions[domain], node.domain)
        if not ours and not standard:
            raise GraphError(
                f"node {node.name!r} has the operator {node.op_type!r} of {domain!r}, which no engine here knows",
                action="Export the model without it, or with a lower opset.",
            )


def vendor_errors() -> tuple[type[Exception], ...]:
    """Returns what ONNX Runtime raises when it can't read or run a graph."""
    names = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException", "InvalidProtobuf")
    return tuple(getattr(vendor, name) for name in names)


def does_not_run(error: BaseException) -> CalibrationError:
    """Returns the error of a model that does not run on its calibration inputs.

    All lines of ONNX Runtime's text are in it: it names the dimension that is wrong in the second one.
    """
    lines = (line.strip() for line in str(error).splitlines())
    return CalibrationError(
        "the model does not run on the calibration frames",
        actual="; ".join(line for line in lines if line)[:VENDOR_TEXT_MAX].rstrip(".") or type(error).__name__,
        action="Bring the pre-processing (size, colour) in line with the model's input, or export the model with a "
        "free batch dimension and channels first.",
    )


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
