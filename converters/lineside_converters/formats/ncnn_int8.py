"""Quantize an ncnn model: signed INT8 weights with a scale a channel, and one scale for each layer's input.

No Python package brings ncnn's own tools for it, so the two files are read and written here. A ``.param`` line names a
layer and its parameters; the ``.bin`` holds the weights of the layers in their order, each array behind a tag that says
its type, then bias and scales as plain float32:
https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import GraphError

Floats = npt.NDArray[np.float32]

FLOAT_TAG, INT8_TAG = 0, 0x000D4B38
"""Tags of an array in the ``.bin``: plain float32, and INT8 padded to four bytes."""

SCALE_TERM = "8"
"""Parameter that says which scales follow: 1 for depthwise layers, 2 for the others, with one scale a channel."""

SAMPLES = 20_000
"""Values of a layer's input that are kept of each frame for choosing its range."""

CLIPS = np.linspace(0.3, 1.0, 29)
"""Shares of the largest value at which a range may end."""

STEPS = 127.0


@dataclasses.dataclass(slots=True)
class _Weighted:
    """A layer with weights.

    Attributes:
        line: Its place in the ``.param``.
        bottom: Name of its input blob.
        channels: Weights with a scale of their own.
        depthwise: Whether it is a depthwise convolution.
    """

    line: int
    bottom: str
    channels: int
    depthwise: bool
    weights: Floats
    bias: Floats


def quantize_ncnn(
    param: Path, target: Path, feeds: Sequence[npt.NDArray[Any]], *, keep_float: Collection[bytes] = ()
) -> None:
    """Writes the INT8 form of a float32 model beside ``target``.

    Args:
        param: The float model; its weights lie beside it.
        target: ``.param`` of the INT8 model.
        feeds: Calibration inputs of the only input, ``(1, …) float32``.
        keep_float: Bytes of the weights of layers that stay in float.

    Raises:
        GraphError: A layer of another kind has weights, or nothing can be quantized.
    """
    lines = param.read_text(encoding="ascii").splitlines()
    layers = _read(lines, param.with_suffix(".bin").read_bytes())
    chosen = [layer for layer in layers if layer.weights.tobytes() not in keep_float]
    if not chosen:
        raise GraphError("no layer of this graph is quantized in ncnn")
    scales = _input_scales(param, lines, {layer.bottom for layer in chosen}, feeds)
    pieces: list[bytes] = []
    for layer in layers:
        if layer not in chosen:
            pieces += [np.uint32(FLOAT_TAG).tobytes(), layer.weights.tobytes(), layer.bias.tobytes()]
            continue
        int8, own = _quantized(layer.weights.reshape(layer.channels, -1))
        padding = bytes(-int8.size % 4)
        pieces += [np.uint32(INT8_TAG).tobytes(), int8.tobytes(), padding, layer.bias.tobytes(), own.tobytes()]
        pieces.append(np.float32(scales[layer.bottom]).tobytes())
        lines[layer.line] += f" {SCALE_TERM}={1 if layer.depthwise else 2}"
    target.with_suffix(".bin").write_bytes(b"".join(pieces))
    target.write_text("\n".join(lines) + "\n", encoding="ascii")


def _read(lines: Sequence[str], data: bytes) -> list[_Weighted]:
    """Reads the weights of all layers; the end of the file tells whether a layer of another kind has some."""
    found: list[_Weighted] = []
    at = 0
    for number, line in enumerate(lines[2:], 2):
        kind, _, bottoms, tops, *rest = line.split()
        facts = dict(item.split("=", 1) for item in rest[int(bottoms) + int(tops) :])
        if kind in ("Convolution", "ConvolutionDepthWise"):
            count, biased, depthwise = int(facts["6"]), int(facts.get("5", 0)), kind == "ConvolutionDepthWise"
        elif kind == "InnerProduct":
            count, biased, depthwise = int(facts["2"]), int(facts.get("1", 0)), False
        else:
            continue
        outputs = int(facts["0"])
        size = count + outputs * bool(biased)
        if at + 4 + 4 * size > len(data) or int.from_bytes(data[at : at + 4], "little") != FLOAT_TAG:
            raise _other_weights(f"no float32 weights of {line.split()[1]}")
        floats = np.frombuffer(data, np.float32, size, at + 4)
        channels = int(facts["7"]) if depthwise else outputs
        found.append(_Weighted(number, rest[0], channels, depthwise, floats[:count], floats[count:]))
        at += 4 + floats.nbytes
    if at != len(data):
        raise _other_weights(f"{len(data) - at} bytes more than these have")
    return found


def _other_weights(actual: str) -> GraphError:
    return GraphError(
        "this graph has weights in other layers than convolutions and inner products",
        actual=actual,
        action="Use ncnn in FP16, or another engine's INT8.",
    )


def _quantized(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Returns INT8 weights, and for each row the factor that made them."""
    largest = np.abs(weights).max(axis=1)
    factors = np.where(largest > 0, STEPS / np.maximum(largest, 1e-12), 1.0).astype(np.float32)
    return np.clip(np.rint(weights * factors[:, None]), -STEPS, STEPS).astype(np.int8), factors


def _input_scales(
    param: Path, lines: Sequence[str], blobs: Collection[str], feeds: Sequence[npt.NDArray[Any]]
) -> Mapping[str, float]:
    """Runs the float model on the calibration inputs, and chooses the range of each blob."""
    net = ncnn.Net()
    net.opt.lightmode = False  # it would free each blob that it has used
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(param)) != 0 or net.load_model(str(param.with_suffix(".bin"))) != 0:
        raise GraphError("ncnn can't read what pnnx made")
    (entry,) = net.input_names()
    ordered = [name for line in lines[2:] for name in line.split()[4:] if name in blobs]
    seen: dict[str, list[Floats]] = {name: [] for name in dict.fromkeys(ordered)}
    chance = np.random.default_rng(0)
    for feed in feeds:
        whole = np.ascontiguousarray(feed[0], np.float32)  # held by a name: the Mat only points at it
        extractor = net.create_extractor()
        extractor.input(entry, ncnn.Mat(whole).clone())
        for name, values in seen.items():
            status, mat = extractor.extract(name)
            if status != 0:
                raise GraphError(f"ncnn can't compute {name}", actual=status)
            flat = np.abs(np.array(mat)).ravel()
            some = flat[chance.integers(0, flat.size, SAMPLES)] if flat.size > SAMPLES else flat
            values.append(np.append(some, flat.max()).astype(np.float32))
    return {name: _scale(np.concatenate(values)) for name, values in seen.items()}


def _scale(values: Floats) -> float:
    """Returns the factor to INT8 whose range has the least squared error on these absolute values."""
    largest = float(values.max())
    if largest <= 0:
        return 1.0
    errors = []
    for clip in CLIPS:
        factor = STEPS / (largest * clip)
        errors.append(np.square(np.minimum(np.rint(values * factor), STEPS) / factor - values).mean())
    return float(STEPS / (largest * CLIPS[int(np.argmin(errors))]))
