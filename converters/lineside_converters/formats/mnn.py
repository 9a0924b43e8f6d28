"""MNN: ``model.mnn``, by the converter and the quantizer in Alibaba's package ``MNN``.

Both are called in a process of their own through the extension module ``_tools``: the package's programs ``mnnconvert``
and ``mnnquant`` install a further package and send statistics to their vendor, and ``mnnquant`` of 3.6 crashes
(https://github.com/alibaba/MNN/issues/2849). The converter reads QDQ graphs and computes garbage from them, so that
INT8 is made from the float graph.
"""

from __future__ import annotations

import collections
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from lineside_converters.formats import ConversionRequest
from lineside_converters.quantization.static import Feed
from lineside_runtime.errors import GraphError

TIME_MAX_S = 600
FEEDS_MAX = 16
"""Calibration inputs that INT8 ranges are taken from, evenly spread."""

_UUID = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")

_CODE = "import sys, _tools; getattr(_tools, sys.argv[1])(sys.argv[1:])"


def make(request: ConversionRequest) -> Path:
    """Converts the float graph."""
    target = request.folder / "model.mnn"
    convert_mnn(request.clean, target)
    return target


def make_int8(request: ConversionRequest) -> Path:
    """Converts the float graph, and quantizes its convolutions; the nodes that the plan keeps in float stay so."""
    plain, target = request.folder / "float.mnn", request.folder / "model.mnn"
    convert_mnn(request.clean, plain)
    feeds = _one_size(request.feeds)
    step = -(-len(feeds) // FEEDS_MAX)
    graph = onnx.load(request.clean, load_external_data=False).graph
    kept = [output for node in graph.node if node.name in request.float_nodes for output in node.output]
    quantize_mnn(plain, target, feeds[::step], [output.name for output in graph.output], keep_float=kept)
    plain.unlink()
    return target


def _one_size(feeds: Sequence[Feed]) -> list[Feed]:
    """Returns the feeds of the commonest sizes: the quantizer crashes on several."""
    sizes = [tuple(sorted((name, array.shape) for name, array in feed.items())) for feed in feeds]
    ((commonest, _),) = collections.Counter(sizes).most_common(1)
    return [feed for feed, size in zip(feeds, sizes, strict=True) if size == commonest]


def convert_mnn(source: Path, target: Path) -> None:
    """Converts a float ONNX file.

    Raises:
        GraphError: It can't be converted.
    """
    arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target), "--bizCode", "lineside"]
    _call("mnnconvert", arguments, target)
    target.write_bytes(_reproducible(target.read_bytes()))


def quantize_mnn(
    source: Path, target: Path, feeds: Sequence[Feed], outputs: Sequence[str], *, keep_float: Sequence[str] = ()
) -> None:
    """Quantizes a float ``.mnn`` file: signed INT8, weights a scale a channel, ranges by Kullback-Leibler divergence.

    Args:
        feeds: Calibration inputs by name, float32, all of one size.
        outputs: Names of the model's outputs.
        keep_float: Names of operators that stay in float; the converter names one after its first output.

    Raises:
        GraphError: It can't be quantized.
    """
    with tempfile.TemporaryDirectory(prefix="lineside-mnn-") as scratch:
        samples = Path(scratch, "samples")
        for number, feed in enumerate(feeds):
            folder = samples / f"{number:04d}"
            folder.mkdir(parents=True)
            inputs = [{"name": name, "shape": list(array.shape)} for name, array in feed.items()]
            (folder / "input.json").write_text(json.dumps({"inputs": inputs, "outputs": list(outputs)}))
            for name, array in feed.items():
                np.savetxt(folder / f"{name}.txt", np.asarray(array, np.float32).ravel(), fmt="%.9g")
        settings = {
            "input_type": "sequence",
            "path": f"{samples}/",
            "used_sample_num": len(feeds),
            "batch_size": 1,
            "quant_bits": 8,
            "feature_quantize_method": "KL",
            "weight_quantize_method": "MAX_ABS",
            "skip_quant_op_names": list(keep_float),
            "inputs": [{"name": name, "shape": list(array.shape)} for name, array in feeds[0].items()],
        }
        Path(scratch, "settings.json").write_text(json.dumps(settings))
        written = Path(scratch, "model.mnn")  # the quantizer writes its scales beside it
        _call("mnnquant", [str(source), str(written), str(Path(scratch, "settings.json"))], written)
        target.write_bytes(_reproducible(written.read_bytes()))


def _reproducible(data: bytes) -> bytes:
    """Replaces the random identifier of a file by one of its content, so that the same model gives the same file."""
    found = _UUID.findall(data)
    if len(found) != 1:
        return data
    plain = data.replace(found[0], bytes(len(found[0])))
    return data.replace(found[0], str(uuid.UUID(bytes=hashlib.sha256(plain).digest()[:16])).encode())


def _call(function: str, arguments: Sequence[str], target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CODE, function, *arguments], capture_output=True, text=True, timeout=TIME_MAX_S
        )
    except subprocess.TimeoutExpired as error:
        raise GraphError(f"MNN's {function} took longer than {TIME_MAX_S} s") from error
    if done.returncode or not target.is_file():
        words = (done.stderr or done.stdout).strip().splitlines()
        raise GraphError(
            f"MNN's {function} can't convert this graph", actual=words[-1] if words else f"status {done.returncode}"
        )
