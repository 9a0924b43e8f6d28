"""Time of each layer, and its prediction for other widths.

The engine's own clock times every operator of the whole network once. What a layer takes with fewer channels is taken
to be in proportion to its blocks of channels in and out: engines work in blocks, so that part of a block costs a whole
one. What was predicted is measured at the end; nothing is claimed from here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from lineside_converters.gates.checks import time_together
from lineside_converters.pruning.channel_groups import ChannelGroup
from lineside_converters.pruning.torch_graph import PrunableNetwork, close_network
from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.backends.ort.backend import OrtBackend

BLOCK = 16
"""Channels that ONNX Runtime's blocked convolutions work on at once where the processor has AVX-512; 8 with AVX2."""

_PROFILES, _RUNS = 5, 10
_QUIET = 20  # percentile of the times: what a busy machine adds comes in bursts
_SUFFIX = re.compile(r"(_nchwc|_token_\d+)$")  # what ONNX Runtime adds to the name of what it rewrote
_PASSING = ("Relu", "Clip", "Add", "HardSwish", "Sigmoid", "LeakyRelu", "Mul")


@dataclasses.dataclass(frozen=True, slots=True)
class LayerCosts:
    """Microseconds of one frame.

    Attributes:
        layers_us: By layer's name, of what was measured.
        other_us: Time of all operators that belong to no layer.
        makers: The group that a layer's outputs are, if any.
        takers: The group that a layer's inputs are, if any.
        full: Width of every group.
    """

    layers_us: dict[str, float]
    other_us: float
    makers: dict[str, str]
    takers: dict[str, str]
    full: dict[str, int]

    def predict_us(self, widths: Mapping[str, int]) -> float:
        """Returns the time of a frame with other widths of the groups; groups not named are whole."""
        return self.other_us + self.layers_time_us(self.layers_us, widths)

    def layers_time_us(self, layers: Iterable[str], widths: Mapping[str, int]) -> float:
        """Returns the time of some layers with these widths of the groups."""
        return sum(self.layers_us[layer] * self._share(layer, widths) for layer in layers)

    def layers_of_groups(self) -> dict[str, list[str]]:
        """Returns the timed layers that make or take the channels of each group."""
        found: dict[str, list[str]] = {name: [] for name in self.full}
        for layer in self.layers_us:
            for name in {self.makers.get(layer), self.takers.get(layer)} - {None}:
                found[str(name)].append(layer)
        return found

    @property
    def total_us(self) -> float:
        """Of the whole network."""
        return self.other_us + sum(self.layers_us.values())

    def _share(self, layer: str, widths: Mapping[str, int]) -> float:
        share = 1.0
        for group in {self.makers.get(layer), self.takers.get(layer)} - {None}:
            name = str(group)
            share *= _blocks(widths.get(name, self.full[name])) / _blocks(self.full[name])
        return share


def _blocks(width: int) -> int:
    return math.ceil(width / BLOCK) if width >= BLOCK else 1


def measure_costs(
    network: PrunableNetwork,
    groups: Sequence[ChannelGroup],
    frame: Tensor,
    *,
    make_int8: Callable[[Path], Path] | None = None,
) -> LayerCosts:
    """Times every operator of the network in ONNX Runtime, one thread.

    Args:
        make_int8: Makes the form that is to be fast out of the float file, such as INT8, keeping the nodes' names; the
            float file itself is timed if not given.
    """
    with tempfile.TemporaryDirectory(prefix="lineside-prune-") as folder:
        path = Path(folder, "whole.onnx")
        close_network(network, path, [frame])
        times = _profile(make_int8(path) if make_int8 else path, network.input_name, frame)
        owners = _owners(onnx.load(path), called(network.module, frame))
    layers: dict[str, float] = {}
    other = 0.0
    for name, us in times.items():
        owner = owners.get(_SUFFIX.sub("", name), owners.get(name))
        if owner is None:
            other += us
        else:
            layers[owner] = layers.get(owner, 0.0) + us
    return LayerCosts(
        layers_us=layers,
        other_us=other,
        makers={layer: group.name for group in groups for layer in group.makers},
        takers={layer: group.name for group in groups for layer in group.takers},
        full={group.name: group.width for group in groups},
    )


def _profile(path: Path, input_name: str, frame: Tensor) -> dict[str, float]:
    """Returns microseconds of a frame by operator: the least of several profiles, as other load only adds."""
    least: dict[str, float] = {}
    for _ in range(_PROFILES):
        for name, us in _profile_once(path, input_name, frame).items():
            least[name] = min(us, least.get(name, us))
    return least


def _profile_once(path: Path, input_name: str, frame: Tensor) -> dict[str, float]:
    with loaded(path, profile=True) as executable:
        for _ in range(_RUNS):
            executable.run({input_name: frame.numpy()})
        return {each.name: each.mean_us * each.calls / _RUNS for each in executable.operators()}


def time_whole(
    whole: PrunableNetwork,
    pruned: PrunableNetwork,
    frames: Sequence[Tensor],
    *,
    make_int8: Callable[[Path], Path] | None = None,
) -> float:
    """Measures how many times faster a pruned network is: lower percentiles, geometric mean over the frames.

    The better of interleaved rounds, and not the median: widths are chosen by this, and a busy machine must not choose.

    Args:
        frames: Inputs, one of each size that matters.
    """
    with tempfile.TemporaryDirectory(prefix="lineside-prune-") as folder, contextlib.ExitStack() as stack:
        runs = {}
        for name, network in (("whole", whole), ("pruned", pruned)):
            path = Path(folder, name, "float.onnx")
            path.parent.mkdir()
            close_network(network, path, [frames[0]])
            runs[name] = stack.enter_context(loaded(make_int8(path) if make_int8 else path)).run
        ratios = []
        for frame in frames:
            times = time_together(runs, [{whole.input_name: frame.numpy()}])
            whole_ms, pruned_ms = (np.percentile(times[name].samples_ms, _QUIET) for name in ("whole", "pruned"))
            ratios.append(float(whole_ms / pruned_ms))
    return float(np.exp(np.mean(np.log(ratios))))


@contextlib.contextmanager
def loaded(path: Path, *, profile: bool = False) -> Iterator[Executable]:
    """Loads a file into ONNX Runtime on one thread."""
    backend = OrtBackend()
    cpu = next(device for device in backend.probe() if device.kind == "cpu")
    executable = backend.load(path, cpu, LoadOptions(threads=1, profile=profile))
    try:
        yield executable
    finally:
        executable.close()


@torch.no_grad()
def called(module: nn.Module, frame: Tensor) -> list[str]:
    """Returns the convolutions and linear layers in the order of their calls."""
    names: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, _o, name=name: names.append(name))
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    try:
        module.eval()(frame)
    finally:
        for hook in hooks:
            hook.remove()
    return names


def _owners(model: onnx.ModelProto, called: Sequence[str]) -> dict[str, str]:
    """Maps names of nodes and tensors to the layer that they belong to.

    The exporter writes the layers in the order of their calls. The engine fuses what follows a layer into it, and names
    what comes out after the last tensor.
    """
    working = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    if len(working) != len(called):
        return {}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    owners: dict[str, str] = {}
    for node, layer in zip(working, called, strict=True):
        at: onnx.NodeProto | None = node
        while at is not None:
            owners.setdefault(at.name, layer)
            owners.setdefault(at.output[0], layer)
            following = [user for user in users.get(at.output[0], []) if user.op_type in _PASSING]
            at = following[0] if following and following[0].output[0] not in owners else None
    return owners
