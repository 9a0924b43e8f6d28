"""An ONNX file as a torch module, by the library onnx2torch, and what that lacks: the operators of quantised files.

They are computed in float, exactly as the file says (round, clip, scale): an INT8 bundle gives on a GPU what it gives
on a CPU, and no faster. Nothing in the file is run as code.

An operator of a domain that ONNX doesn't define is one of the libraries that the model is loaded with: domain ``acme``
and type ``twist`` call ``torch.ops.acme.twist`` with the inputs in their order and the attributes by name. Torch's own
operators can't be called so: some of them open files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast, get_args

import onnx
import onnx2torch
import torch
from onnx import numpy_helper
from onnx2torch.node_converters.registry import add_converter, get_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

from lineside_runtime.backends.common.options import operator_library, unloadable_library
from lineside_runtime.errors import UnsupportedModelError
from lineside_runtime.tensors import DYNAMIC, DType, TensorSpec

QUANTIZED_VERSIONS = (10, 13, 19, 21)
"""Versions of ONNX's QuantizeLinear and DequantizeLinear that are understood (https://onnx.ai/onnx/operators/)."""


@dataclasses.dataclass(frozen=True, slots=True)
class TorchGraph:
    """A graph as a module.

    Attributes:
        module: Takes the inputs in their order; a ``torch.fx.GraphModule``.
        outputs: The file's outputs, in the order in which the module gives them.
        kinds: ONNX operator type by the name of the module's node.
    """

    module: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    kinds: dict[str, str]


def read(path: Path, operators: frozenset[str] = frozenset()) -> TorchGraph:
    """Reads an ONNX file.

    Args:
        operators: Those of other domains that it may have, from `load_operators`.

    Raises:
        UnsupportedModelError: It has what can't be described or converted. What the libraries raise goes on up.
    """
    model = onnx.load(path)
    onnx.checker.check_model(model)
    _fold_weights(model.graph)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in constants)
    outputs = tuple(_spec(value) for value in model.graph.output)
    made = {name: node.name or node.output[0] for node in model.graph.node for name in node.output}
    if len({made.get(spec.name, spec.name) for spec in outputs}) < len(outputs) or any(
        spec.name not in made for spec in outputs
    ):
        raise UnsupportedModelError(f"{path}: two outputs of one operator, or an output that no operator computes")
    _register_custom(model, operators)
    kinds = {name: str(node.operation_type) for name, node in OnnxGraph(model.graph).nodes.items()}
    module = onnx2torch.convert(model).eval().requires_grad_(False)
    return TorchGraph(module, inputs, outputs, kinds)


def _spec(value: Any) -> TensorSpec:
    kind = value.type.tensor_type
    dtype: Any = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name if kind.elem_type else ""
    if dtype not in get_args(DType):
        raise UnsupportedModelError(f"tensor {value.name!r}", expected=sorted(get_args(DType)), actual=dtype)
    shape = tuple(size.dim_value if size.HasField("dim_value") else DYNAMIC for size in kind.shape.dim)
    return TensorSpec(name=value.name, shape=shape, dtype=dtype)


def _fold_weights(graph: Any) -> None:
    """Puts floats in the place of weights that are stored as integers: onnx2torch wants those of Conv as constants."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    folded = [
        node
        for node in graph.node
        if node.op_type == "DequantizeLinear" and all(name in constants for name in node.input)
    ]
    for node in folded:
        arrays = [torch.from_numpy(numpy_helper.to_array(constants[name]).copy()) for name in node.input]
        value = _Dequantize(_axis(node)).forward(*arrays)
        graph.initializer.append(numpy_helper.from_array(value.numpy(), node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(tensor)


def _axis(node: Any) -> int:
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if attributes.get("block_size"):
        raise UnsupportedModelError("weights that are quantised in blocks", action="Use the ort engine.")
    return int(attributes.get("axis", 1))


def _along(values: Any, like: Any, axis: int) -> Any:
    """Returns one number, or one for each channel, in a shape that goes with ``like``."""
    if values.ndim == 0 or values.numel() == 1:
        return values.reshape(())
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.reshape(shape)


class _Dequantize(torch.nn.Module):
    """``(x - zero) * scale``."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Any, scale: Any, zero: Any = None) -> Any:
        """Returns floats; ``x`` holds integers, as integers or floats."""
        shifted = x.to(scale.dtype)
        if zero is not None:
            shifted = shifted - _along(zero, x, self.axis).to(scale.dtype)
        return shifted * _along(scale, x, self.axis)


class _Quantize(torch.nn.Module):
    """``clip(round(x / scale) + zero)``, left as floats: what follows takes them as they are."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Any, scale: Any, zero: Any = None) -> Any:
        """Returns whole numbers in the range of ``zero``'s type, which is unsigned bytes where there is none."""
        limits = torch.iinfo(torch.uint8 if zero is None else zero.dtype)
        rounded = torch.round(x / _along(scale, x, self.axis))
        if zero is not None:
            rounded = rounded + _along(zero, x, self.axis).to(x.dtype)
        return torch.clamp(rounded, limits.min, limits.max)


def _register(operator: str, module: type[Any]) -> None:
    """Registers an operator with onnx2torch, unless the installed release has it."""

    def convert(node: Any, graph: Any) -> OperationConverterResult:
        del graph
        attributes = node.attributes
        if attributes.get("block_size"):
            raise UnsupportedModelError("values that are quantised in blocks", action="Use the ort engine.")
        return OperationConverterResult(module(int(attributes.get("axis", 1))), onnx_mapping_from_node(node))

    for version in QUANTIZED_VERSIONS:
        try:
            get_converter(operator, version)
        except NotImplementedError:  # noqa: PERF203  eight times, once
            add_converter(operator, version)(convert)


_register("QuantizeLinear", _Quantize)
_register("DequantizeLinear", _Dequantize)


class _Custom(torch.nn.Module):
    """An operator of a library that was loaded into torch."""

    def __init__(self, operator: Any, attributes: dict[str, Any]) -> None:
        super().__init__()
        self.operator = operator
        self.attributes = attributes

    def forward(self, *inputs: Any) -> Any:
        """Returns what the library computes."""
        return self.operator(*inputs, **self.attributes)


def _register_custom(model: Any, operators: frozenset[str]) -> None:
    """Teaches onnx2torch the operators of other domains that a model has.

    Raises:
        UnsupportedModelError: One of them is in no library of ``operators``.
    """
    versions = {one.domain: one.version for one in model.opset_import}
    official = {schema.domain for schema in onnx.defs.get_all_schemas()}
    wanted = {(node.domain, node.op_type) for node in model.graph.node if node.domain not in official}
    for domain, name in sorted(wanted):
        if f"{domain}::{name}" not in operators:
            raise UnsupportedModelError(
                f"no library that torch was given has the operator {domain}::{name}",
                action="Name the library that registers it in Config.operator_libraries, under torch.",
            )
        with contextlib.suppress(ValueError):  # an earlier model had it
            add_converter(name, versions.get(domain, 1), domain)(_convert_custom)


def _convert_custom(node: Any, graph: Any) -> OperationConverterResult:
    del graph
    operator = getattr(getattr(torch.ops, node.domain), node.operation_type)
    return OperationConverterResult(_Custom(operator, dict(node.attributes)), onnx_mapping_from_node(node))


class _Libraries:
    """The libraries of operators that were loaded into torch, which keeps them as long as the process lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[Path, frozenset[str]] = {}

    def load(self, path: Path) -> frozenset[str]:
        with self._lock:
            if path not in self._loaded:
                before, operators = self._names(), cast("Any", torch.ops)  # its types are not all declared
                with operator_library(path, "torch", OSError, RuntimeError):
                    operators.load_library(str(path))
                self._loaded[path] = self._names() - before
            if not self._loaded[path]:
                raise unloadable_library(path, "torch", "it registers no operator that torch doesn't have")
            return self._loaded[path]

    @staticmethod
    def _names() -> frozenset[str]:
        return frozenset(name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names())


_LIBRARIES = _Libraries()


def load_operators(paths: Iterable[Path]) -> frozenset[str]:
    """Loads libraries of operators into torch, each once in a process.

    Returns:
        What they registered, such as ``acme::twist``.

    Raises:
        ConfigError: One can't be loaded, or registers nothing.
    """
    return frozenset().union(*(_LIBRARIES.load(path.resolve()) for path in paths))
