"""ncnn: ``model.param`` with ``model.bin``, by Tencent's pnnx.

INT8 for the Arm cores of boards (`ncnn_int8`), and weights in FP16 for GPUs: ncnn is the way to a Raspberry Pi's.
"""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import onnx
from onnx import numpy_helper

from lineside_converters.formats import ConversionRequest
from lineside_runtime.errors import GraphError

TIME_MAX_S = 600
FEEDS_MAX = 16
"""Calibration inputs that INT8 ranges are taken from, evenly spread."""


def make(request: ConversionRequest) -> Path:
    """Converts the float graph to weights in FP16."""
    target = request.folder / "model.param"
    _convert(request, target, half=True)
    return target


def make_int8(request: ConversionRequest) -> Path:
    """Converts the float graph, and quantizes it; the nodes that the plan keeps in float stay so."""
    from lineside_converters.formats.ncnn_int8 import quantize_ncnn  # imports ncnn

    plain, target = request.folder / "float.param", request.folder / "model.param"
    _convert(request, plain, half=False)
    feeds = [next(iter(feed.values())) for feed in request.feeds]
    step = -(-len(feeds) // FEEDS_MAX)
    quantize_ncnn(plain, target, feeds[::step], keep_float=_weights(request))
    for path in (plain, plain.with_suffix(".bin")):
        path.unlink()
    return target


def _weights(request: ConversionRequest) -> set[bytes]:
    """Returns the weights of the nodes that stay in float: pnnx keeps neither their names nor their order."""
    graph = onnx.load(request.clean).graph
    arrays = {each.name: each for each in graph.initializer}
    nodes = [node for node in graph.node if node.name in request.float_nodes and len(node.input) > 1]
    return {numpy_helper.to_array(arrays[node.input[1]]).tobytes() for node in nodes if node.input[1] in arrays}


def _convert(request: ConversionRequest, target: Path, *, half: bool) -> None:
    """Converts for the shape that all calibration inputs have, or for free sizes where they differ."""
    arguments = [
        *_shapes(request),
        f"fp16={int(half)}",
        f"ncnnparam={target}",
        f"ncnnbin={target.with_suffix('.bin')}",
        *(f"{name}={request.folder / name}.tmp" for name in ("ncnnpy", "pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx")),
    ]
    source = request.folder / "source.onnx"
    source.symlink_to(request.clean.resolve())  # pnnx writes source.pnnxsim.onnx beside it
    try:
        done = subprocess.run(
            [_program(), str(source), *arguments],
            capture_output=True,
            text=True,
            timeout=TIME_MAX_S,
            cwd=request.folder,
        )
    except subprocess.TimeoutExpired as error:
        raise GraphError(f"pnnx took longer than {TIME_MAX_S} s") from error
    finally:
        for left in (*request.folder.glob("*.tmp"), *request.folder.glob("source.*")):
            left.unlink()
    if done.returncode or not target.is_file() or not target.with_suffix(".bin").is_file():
        words = (done.stderr or done.stdout).strip().splitlines()
        raise GraphError("pnnx can't convert this graph", actual=words[-1] if words else f"status {done.returncode}")


def _shapes(request: ConversionRequest) -> list[str]:
    """Returns pnnx's arguments for the input's shape; with two, the sizes in which they differ are free."""
    shapes = sorted({array.shape for feed in request.feeds for array in feed.values()})
    if any(len(feed) != 1 for feed in request.feeds) or len({len(shape) for shape in shapes}) != 1:
        raise GraphError("pnnx converts for one input", action="Use another engine for a model with several inputs.")
    given = [shapes[0], shapes[-1]] if len(shapes) > 1 else shapes
    text = ["[" + ",".join(map(str, shape)) + "]f32" for shape in given]
    return [f"{name}={shape}" for name, shape in zip(("inputshape", "inputshape2"), text, strict=False)]


def _program() -> str:
    """Returns the program inside the package, without importing that: it imports torch."""
    found = importlib.util.find_spec("pnnx")
    if found is None or found.origin is None:
        raise GraphError("pnnx is not installed", action="Run: pip install pnnx")
    return str(Path(found.origin).parent / "pnnx")
