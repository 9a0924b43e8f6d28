"""A float ONNX graph as a torch module that can be pruned and trained, and back.

- The module computes what the graph computes: both are run and compared, on the way in and on the way out.
- An exported graph has its batch norms folded into the convolutions. They are put back: training needs them, and after
  channels are taken out their statistics, counted again on some frames, repair most of the damage without any training
  (Li et al., EagleEye, arXiv:2007.02491).
- Nothing in the file is run as code: onnx2torch builds the module.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from lineside_converters.graph.cleanup import first_line, vendor_errors
from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.training.objective import as_tuple
from lineside_runtime.backends.pytorch_graph import read
from lineside_runtime.errors import LinesideError, ParityGateError, PruningError

TOLERANCE = 1e-3
"""Largest difference of an output between the graph and the module, relative to the output's largest value."""

SMALL_SIDE = 64

_EPS = 1e-5
_NOT_READ = (NotImplementedError, RuntimeError, ValueError, KeyError, TypeError, AssertionError, IndexError)
_NOT_RUN: tuple[type[Exception], ...] = (RuntimeError, TypeError, *vendor_errors())


@dataclasses.dataclass(slots=True)
class PrunableNetwork:
    """An ONNX graph as a torch module.

    Attributes:
        module: Takes the one input, gives the outputs in order; floats, batch norms behind the convolutions.
        output_names: Names of the graph's outputs, in order.
        dynamic_axes: Which axes of which tensor may vary, and what they are called.
        metadata: The file's own properties.
        example: A small input ``(1, C, H, W)``, to follow the graph with.
    """

    module: nn.Module
    input_name: str
    output_names: tuple[str, ...]
    dynamic_axes: dict[str, dict[int, str]]
    metadata: dict[str, str]
    example: Tensor

    def copy(self) -> PrunableNetwork:
        """Returns a network with a module of its own."""
        return dataclasses.replace(self, module=copy.deepcopy(self.module))


def open_network(path: Path, frames: Sequence[Tensor]) -> PrunableNetwork:
    """Reads a float ONNX file as a module and puts its batch norms back.

    Args:
        path: ONNX file with one input.
        frames: Prepared inputs, each with the batch dimension, to compare on and to count the statistics on.

    Raises:
        PruningError: It has several inputs or an operator that has no module here, or computes something else there.
    """
    import onnx

    try:
        found = read(path)
    except (LinesideError, onnx.checker.ValidationError, *_NOT_READ) as error:
        raise PruningError(f"{path.name} has no form that could be trained", actual=first_line(error)) from error
    if len(found.inputs) != 1:
        raise PruningError(f"{path.name} has several inputs", expected=1, actual=[spec.name for spec in found.inputs])
    model = onnx.load(path)
    module = found.module.requires_grad_(True)
    network = PrunableNetwork(
        module=module,
        input_name=found.inputs[0].name,
        output_names=tuple(spec.name for spec in found.outputs),
        dynamic_axes=_axes((*model.graph.input, *model.graph.output)),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        example=_small(module, frames[0][:1]),
    )
    _prove(path, network, frames)
    put_norms_back(module, frames)
    _prove(path, network, frames)
    return network


def close_network(network: PrunableNetwork, path: Path, frames: Sequence[Tensor]) -> float:
    """Writes the module as ONNX, with the names, free axes and metadata that it came with.

    Returns:
        The largest difference between the graph's and the module's outputs on the frames.

    Raises:
        GraphError: The module cannot be expressed in ONNX.
        ParityGateError: The graph computes something else.
    """
    module = copy.deepcopy(network.module).eval()
    example, *rest = frames
    return export_onnx(
        TupleOutputs(module),
        path,
        example=example,
        input_name=network.input_name,
        output_names=network.output_names,
        dynamic_axes=network.dynamic_axes,
        check=rest,
        metadata=network.metadata,
    )


@torch.no_grad()
def _small(module: nn.Module, frame: Tensor) -> Tensor:
    """Returns the frame shrunk, if the network takes any size: only the graph counts, and small ones are faster."""
    if frame.ndim != 4 or max(frame.shape[2:]) <= SMALL_SIDE:
        return frame
    shrunk = nn.functional.interpolate(frame, (SMALL_SIDE, SMALL_SIDE))
    try:
        module.eval()(shrunk)
    except (RuntimeError, ValueError):
        return frame
    return shrunk


class TupleOutputs(nn.Module):
    """Returns a module's outputs as a tuple: the exporter names its members."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the module's outputs."""
        return as_tuple(self.module(image))


def _axes(values: Sequence[Any]) -> dict[str, dict[int, str]]:
    axes: dict[str, dict[int, str]] = {}
    for value in values:
        sizes = value.type.tensor_type.shape.dim
        free = {i: size.dim_param or f"axis_{i}" for i, size in enumerate(sizes) if not size.HasField("dim_value")}
        if free:
            axes[value.name] = free
    return axes


@torch.no_grad()
def _prove(path: Path, network: PrunableNetwork, frames: Sequence[Tensor]) -> None:
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        network.module.eval()
        for frame in frames[:4]:
            wanted = session.run(list(network.output_names), {network.input_name: frame.numpy()})
            found = as_tuple(network.module(frame))
            for name, theirs, ours in zip(network.output_names, wanted, found, strict=True):
                _compare(path, name, theirs, ours.numpy())
    except _NOT_RUN as error:
        raise PruningError(f"{path.name} does not run as a module", actual=first_line(error)) from error


def _compare(path: Path, name: str, wanted: Any, found: Any) -> None:
    if np.shape(wanted) != np.shape(found):
        raise ParityGateError(f"{path.name}: {name}", expected=np.shape(wanted), actual=np.shape(found))
    difference = float(np.abs(wanted - found).max() / max(1.0, float(np.abs(wanted).max())))
    if not difference <= TOLERANCE:
        raise ParityGateError(
            f"{path.name}: {name} differs as a module", expected=f"<= {TOLERANCE}", actual=f"{difference:.2g}"
        )


@torch.no_grad()
def put_norms_back(module: nn.Module, frames: Iterable[Tensor]) -> None:
    """Puts a batch norm behind every convolution that has none, so that nothing changes in evaluation mode.

    A convolution whose answer is an output of the network keeps its bias and gets none: a detector's scores must not
    depend on the other frames of a batch.

    Args:
        module: A ``torch.fx.GraphModule``; changed in place.
        frames: Inputs on which the statistics are counted.
    """
    convs = {name: found for name, found in module.named_modules() if isinstance(found, nn.Conv2d)}
    for name in _normed(module) | answering(module):
        convs.pop(name, None)
    moments = {name: _Moments(conv.out_channels) for name, conv in convs.items()}
    hooks = [
        conv.register_forward_hook(lambda _m, _i, out, sums=moments[name]: sums.add(out))
        for name, conv in convs.items()
    ]
    try:
        module.eval()
        for frame in frames:
            module(frame)
    finally:
        for hook in hooks:
            hook.remove()
    for name, conv in convs.items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, nn.Sequential(*_with_norm(conv, moments[name])))


class _Moments:
    """Mean and variance of each channel over all frames."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sum = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, output: Tensor) -> None:
        values = output.double().transpose(0, 1).flatten(1)
        self.count += values.shape[1]
        self.sum += values.sum(1)
        self.squares += values.square().sum(1)

    def result(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / max(1, self.count)
        variance = (self.squares / max(1, self.count) - mean.square()).clamp(min=1e-8)
        return mean.float(), variance.float()


def _with_norm(conv: nn.Conv2d, moments: _Moments) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    mean, variance = moments.result()
    bias = torch.zeros_like(mean) if conv.bias is None else conv.bias.detach()
    norm = nn.BatchNorm2d(conv.out_channels, eps=_EPS)
    norm.weight.copy_((variance + _EPS).sqrt())
    norm.bias.copy_(mean)
    norm.get_buffer("running_mean").copy_(mean - bias)
    norm.get_buffer("running_var").copy_(variance)
    conv.bias = None
    return conv, norm.eval()


def _normed(module: nn.Module) -> set[str]:
    """Returns the convolutions that a batch norm follows already."""
    graph = getattr(module, "graph", None)
    if graph is None:
        return set()
    found = set()
    for node in graph.nodes:
        followers = [user for user in node.users if user.op == "call_module"]
        if node.op == "call_module" and any(
            isinstance(module.get_submodule(str(user.target)), nn.BatchNorm2d) for user in followers
        ):
            found.add(str(node.target))
    return found


def answering(module: nn.Module) -> set[str]:
    """Returns the names of modules of a ``torch.fx.GraphModule`` whose result is an output of the network."""
    graph = getattr(module, "graph", None)
    if graph is None:
        return set()
    return {
        str(node.target)
        for node in graph.nodes
        if node.op == "call_module" and any(user.op == "output" for user in node.users)
    }


@torch.no_grad()
def count_norms_again(module: nn.Module, batches: Iterable[Tensor], *, through: nn.Module | None = None) -> None:
    """Re-estimates the statistics of all batch norms: a plain average over the batches.

    Args:
        through: Computes the answers of the module, if they are not those of its own weights.
    """
    norms = [found for found in module.modules() if isinstance(found, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    module.train()
    for batch in batches:
        (through or module)(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
