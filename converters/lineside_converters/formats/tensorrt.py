"""TensorRT: an engine file, compiled on the GPU that is to run it; untested on hardware.

Follows https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html and
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html: INT8 comes from the
Q/DQ nodes of the ONNX file (symmetric, zero points of 0), and FP16 may be used for what stays in float. The compiler
gets the form of the graph that keeps its rules (`lineside_converters.graph.tensorrt_rules`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from lineside_converters.formats import ConversionRequest, SourceCheck
from lineside_converters.graph.tensorrt_rules import conforming, describe, violations, write_conforming
from lineside_converters.quantization.static import Feed
from lineside_runtime.errors import GraphError

WORKSPACE_BYTES = 1 << 30


def make(request: ConversionRequest) -> Path:
    """Compiles the quantized form, or the float graph in FP16.

    Raises:
        GraphError: The quantized form breaks a rule of TensorRT's, or TensorRT refuses the graph.
    """
    target = request.folder / "model.plan"
    if request.int8 is None:
        return _compile(request.clean, target, request.feeds, int8=False)
    return compile_file(request.int8, target, request.feeds)


def compile_file(source: Path, target: Path, feeds: Sequence[Feed]) -> Path:
    """Compiles a QDQ graph for this machine's GPU, and returns ``target``.

    Args:
        source: ONNX file.
        feeds: Inputs by name; their least, usual and largest shapes are what the engine takes.

    Raises:
        GraphError: As for `make`.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _compile(write_conforming(source, Path(folder) / "model.onnx"), target, feeds, int8=True)


def check_source(int8: Path) -> SourceCheck:
    """Returns whether TensorRT can compile a QDQ graph in INT8, by its rules; it need not be installed."""
    model = onnx.load(int8)
    left = violations(conforming(model))
    if left:
        return SourceCheck(False, f"its INT8 graph breaks TensorRT's rules: {describe(left)}")
    mended = describe(violations(model))
    once = f"; mended when it is compiled: {mended}" if mended else ""
    return SourceCheck(True, f"its INT8 graph keeps TensorRT's rules{once}")


def _compile(source: Path, target: Path, feeds: Sequence[Feed], *, int8: bool) -> Path:
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(source.read_bytes()):
        words = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise GraphError("TensorRT can't read this graph", actual=words)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    for flag in ("FP16", *(("INT8",) if int8 else ())):  # gone where networks are strongly typed (TensorRT 11)
        if hasattr(tensorrt.BuilderFlag, flag):
            config.set_flag(getattr(tensorrt.BuilderFlag, flag))
    _add_profile(builder, network, config, feeds)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GraphError("TensorRT can't compile this graph", action="Its log on stderr says why.")
    target.write_bytes(bytes(plan))
    return target


def _add_profile(builder: Any, network: Any, config: Any, feeds: Sequence[Feed]) -> None:
    """Gives the compiler the least, usual and largest shape of each free input: those of the frames."""
    free = [network.get_input(number) for number in range(network.num_inputs)]
    free = [tensor for tensor in free if any(size < 0 for size in tensor.shape)]
    if not free:
        return
    profile = builder.create_optimization_profile()
    for tensor in free:
        shapes = sorted(tuple(feed[tensor.name].shape) for feed in feeds)
        profile.set_shape(tensor.name, shapes[0], shapes[len(shapes) // 2], shapes[-1])
    config.add_optimization_profile(profile)
