"""Find channels that must be removed together, and remove them.

torch-pruning follows the graph and finds that, say, the three convolutions that meet in an addition must lose the same
channels. What it finds is tried on a copy: a group that changes an output's shape, or breaks the network, stays whole.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from lineside_converters.graph.cleanup import first_line
from lineside_converters.training.objective import as_tuple
from lineside_runtime.errors import PruningError

_ROOTS = (nn.Conv2d, nn.Linear)


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that must be removed together.

    Attributes:
        name: Name of the layer that the group starts from; its number in the network otherwise has no meaning.
        makers: Layers whose outputs they are.
        takers: Layers whose inputs they are.
    """

    name: str
    width: int
    makers: tuple[str, ...]
    takers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelGroups:
    """The groups of a network.

    Attributes:
        groups: Those that can be pruned.
        left: Those that can't, by name, with the reason.
    """

    groups: tuple[ChannelGroup, ...]
    left: dict[str, str]


def find_groups(module: nn.Module, example: Tensor) -> ChannelGroups:
    """Finds the groups of channels that can be pruned.

    Args:
        example: An input; small ones are faster.
    """
    graph = _graph(module, example)
    shapes = _shapes(module, example)
    described = [_describe(found) for found in graph.get_all_groups(root_module_types=list(_ROOTS))]
    left = {group.name: "one channel" for group in described if group.width < 2}
    left |= _refused(module, example, [group for group in described if group.name not in left], shapes)
    groups = [group for group in described if group.name not in left]
    if not groups:
        raise PruningError(
            "no channels of this network can be pruned",
            expected="convolutions or linear layers between the input and the output",
            actual=left or "none",
            action="Use optimization_level=1, or distil it into a smaller network: lineside distill.",
        )
    return ChannelGroups(tuple(groups), left)


def remove(module: nn.Module, example: Tensor, dropped: Mapping[str, Sequence[int]]) -> None:
    """Removes channels of a network, in place.

    Args:
        dropped: By group's name, the indices of the channels to take out.
    """
    graph = _graph(module, example)
    for name, indices in dropped.items():
        if not indices:
            continue
        try:
            layer = module.get_submodule(name)
            found = graph.get_pruning_group(
                layer, graph.get_pruner_of_module(layer).prune_out_channels, sorted(indices)
            )
            if not graph.check_pruning_group(found):
                raise PruningError(f"group {name!r} would lose all of its channels", actual=len(indices))
            found.prune()
        except (AttributeError, ValueError, IndexError, RuntimeError) as error:
            raise PruningError(f"group {name!r} cannot be pruned", actual=first_line(error)) from error


def layers_of(
    module: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]
) -> dict[str, list[tuple[nn.Module, int]]]:
    """Returns by group the layers whose channels are its own, with their axis: 0 for outputs, 1 for inputs.

    Batch norms and depthwise convolutions, whose inputs are their outputs, are listed once, with axis 0.

    Raises:
        PruningError: A layer takes a channel of the group more than once, such as behind a flattened map.
    """
    graph = _graph(module, example)
    found: dict[str, list[tuple[nn.Module, int]]] = {}
    for group in groups:
        root = module.get_submodule(group.name)
        layers: dict[tuple[int, int], tuple[nn.Module, int]] = {}
        for dep, indices in graph.get_pruning_group(
            root, graph.get_pruner_of_module(root).prune_out_channels, list(range(group.width))
        ):
            layer = dep.target.module
            if not list(layer.parameters(recurse=False)):
                continue
            if len(indices) != group.width:
                raise PruningError(f"group {group.name!r}: {dep.target.name} repeats its channels")
            whole = not isinstance(layer, _ROOTS) or (isinstance(layer, nn.Conv2d) and layer.groups > 1)
            axis = 0 if whole or dep.handler.__name__ == "prune_out_channels" else 1
            layers[id(layer), axis] = (layer, axis)
        found[group.name] = list(layers.values())
    return found


def out_channels(layer: nn.Module) -> int:
    """Returns the number of channels that a convolution or linear layer gives."""
    return len(layer.get_parameter("weight"))


def _graph(module: nn.Module, example: Tensor) -> Any:
    module.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of bare parameters, which are tried on a copy below
            return torch_pruning.DependencyGraph().build_dependency(module, example_inputs=example, verbose=False)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise PruningError("the network cannot be followed from output to input", actual=first_line(error)) from error


def _describe(found: Any) -> ChannelGroup:
    makers: list[str] = []
    takers: list[str] = []
    for dep, _ in found:
        layer, name = dep.target.module, dep.target.name.split(" (")[0]
        if isinstance(layer, _ROOTS):
            out = dep.handler.__name__ == "prune_out_channels"
            (makers if out else takers).append(name)
    return ChannelGroup(makers[0], len(found[0].idxs), tuple(dict.fromkeys(makers)), tuple(dict.fromkeys(takers)))


@torch.no_grad()
def _shapes(module: nn.Module, example: Tensor) -> list[tuple[int, ...]]:
    return [tuple(output.shape) for output in as_tuple(module(example))]


def _refused(
    module: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], shapes: list[tuple[int, ...]]
) -> dict[str, str]:
    """Returns the groups that can't be pruned, with the reason: all are tried at once, then halves that fail."""
    reason = _try(module, example, groups, shapes) if groups else ""
    if not reason:
        return {}
    if len(groups) == 1:
        return {groups[0].name: reason}
    half = len(groups) // 2
    return _refused(module, example, groups[:half], shapes) | _refused(module, example, groups[half:], shapes)


def _try(module: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], shapes: list[tuple[int, ...]]) -> str:
    """Returns why the groups can't be pruned together; empty if they can."""
    trial = copy.deepcopy(module)
    try:
        remove(trial, example, {group.name: [0] for group in groups})
        found = _shapes(trial, example)
    except (PruningError, RuntimeError, ValueError, TypeError, IndexError) as error:
        return first_line(error)[:200]
    return "" if found == shapes else "its channels are an output of the network"
