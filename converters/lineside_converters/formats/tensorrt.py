"""TensorRT: an engine file, compiled on the GPU that is to run it; untested on hardware.

Follows https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html and
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html: INT8 comes from the
Q/DQ nodes of the ONNX file (symmetric, zero points of 0), and FP16 may be used for what stays in float.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lineside_converters.formats import ConversionRequest
from lineside_runtime.errors import GraphError

WORKSPACE_BYTES = 1 << 30


def make(request: ConversionRequest) -> Path:
    """Compiles the quantized form, or the float graph in FP16."""
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse((request.int8 or request.clean).read_bytes()):
        words = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise GraphError("TensorRT can't read this graph", actual=words)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    for flag in ("FP16", *(("INT8",) if request.int8 else ())):  # gone where networks are strongly typed (TensorRT 11)
        if hasattr(tensorrt.BuilderFlag, flag):
            config.set_flag(getattr(tensorrt.BuilderFlag, flag))
    _add_profile(builder, network, config, request)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GraphError("TensorRT can't compile this graph", action="Its log on stderr says why.")
    target = request.folder / "model.plan"
    target.write_bytes(bytes(plan))
    return target


def _add_profile(builder: Any, network: Any, config: Any, request: ConversionRequest) -> None:
    """Gives the compiler the least, usual and largest shape of each free input: those of the frames."""
    free = [network.get_input(number) for number in range(network.num_inputs)]
    free = [tensor for tensor in free if any(size < 0 for size in tensor.shape)]
    if not free:
        return
    profile = builder.create_optimization_profile()
    for tensor in free:
        shapes = sorted(tuple(feed[tensor.name].shape) for feed in request.feeds)
        profile.set_shape(tensor.name, shapes[0], shapes[len(shapes) // 2], shapes[-1])
    config.add_optimization_profile(profile)
