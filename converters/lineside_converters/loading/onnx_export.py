"""Export a torch network to ONNX, and compare the outputs of both."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from lineside_converters.graph.node_names import shorten_names
from lineside_runtime.errors import GraphError, ParityGateError
from lineside_runtime.files import write_atomic

OPSET = 17  # what every engine of the line reads; nothing in our networks needs a newer one
TOLERANCE = 1e-3


def export_onnx(
    model: nn.Module,
    path: Path,
    *,
    example: Tensor | tuple[Tensor, ...],
    input_name: str | Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
    check: Sequence[Tensor | tuple[Tensor, ...]] = (),
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Exports a module, and compares the graph's outputs with torch's on every input given.

    Args:
        model: Is put into evaluation mode.
        path: The ONNX file to write; only written when the outputs agree.
        example: Input to trace with; a tuple where the module takes several.
        input_name: Its name, or one for each of several.
        dynamic_axes: Per tensor name, which axes may vary and what they are called.
        check: Further inputs to compare on, such as another height and width.
        metadata: Properties to write into the file.

    Returns:
        The largest absolute difference seen.

    Raises:
        GraphError: The model cannot be expressed in ONNX.
        ParityGateError: An output differs by more than 0.001.
    """
    model = model.eval()
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs lack it
    names = [input_name] if isinstance(input_name, str) else list(input_name)
    examples = [_inputs(each) for each in (example, *check)]
    data = _trace(model, examples[0], names, output_names, dynamic_axes, metadata or {})
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    worst = max(_difference(model, session, dict(zip(names, each, strict=True))) for each in examples)
    if not worst <= TOLERANCE:
        raise ParityGateError(
            f"{path.name} does not compute what the torch model does", expected=f"<= {TOLERANCE}", actual=worst
        )
    write_atomic(path, data)
    return worst


def _inputs(given: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.contiguous() for each in ((given,) if isinstance(given, Tensor) else given))


def _trace(
    model: nn.Module,
    example: tuple[Tensor, ...],
    input_names: list[str],
    output_names: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
    metadata: Mapping[str, str],
) -> bytes:
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.onnx")
            # Deprecated, and kept: both exporters write the same nodes for our networks; the new one needs onnxscript
            # and reaches opset 17 only by converting down from 18.
            warnings.simplefilter("ignore", DeprecationWarning)
            # What a trace takes for constant is proved by the comparison on the other sizes below.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # as their docs
            torch.onnx.export(
                model,
                example,
                file,
                input_names=input_names,
                output_names=list(output_names),
                dynamic_axes={name: dict(axes) for name, axes in dynamic_axes.items()},
                opset_version=OPSET,
                dynamo=False,
            )
            graph = onnx.load(file)
            shorten_names(graph)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise GraphError("the model cannot be exported to ONNX", actual=str(error).splitlines()[0]) from error
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(graph, full_check=True)
    return bytes(graph.SerializeToString())


@torch.no_grad()
def _difference(model: nn.Module, session: ort.InferenceSession, inputs: Mapping[str, Tensor]) -> float:
    wanted = model(*inputs.values())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    shapes, found_shapes = [tuple(w.shape) for w in wanted], [f.shape for f in found]
    if shapes != found_shapes:
        raise ParityGateError(
            "the graph's outputs have other shapes",
            expected=shapes,
            actual=found_shapes,
        )
    return max(float(np.abs(w.numpy() - f).max()) for w, f in zip(wanted, found, strict=True))
