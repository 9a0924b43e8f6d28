"""A network and narrower forms of it that share its weights.

The narrower forms are the first channels of every layer. Each has batch norms of its own, as the statistics of fewer
channels are others (Yu et al., "Slimmable neural networks", arXiv:1812.08928).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from typing_extensions import Self

from lineside_converters.distillation.losses import distillation_loss_for
from lineside_converters.pruning.channel_groups import ChannelGroup, layers_of, remove
from lineside_converters.pruning.sensitivity import rank_channels
from lineside_converters.pruning.torch_graph import count_norms_again
from lineside_converters.training.objective import Outputs, as_tuple
from lineside_converters.training.slimmable.channel_order import channels_at, order_of, sort_layer, sort_tensor


class SlimmableNetwork(nn.Module):
    """A network, which computes the answer, and narrower forms of it that read its weights.

    Its state is all that is trained: the weights of the widest network, and the batch norms of each width.

    Attributes:
        widths: Shares of the channels, falling; the first is that of `full`.
        norms: By narrower width, its batch norms.
    """

    def __init__(
        self, whole: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], widths: Sequence[float]
    ) -> None:
        """Makes the narrower forms.

        Args:
            whole: The whole network, its channels ordered by importance; is trained in place if the first width is 1.
            example: An input; small ones are faster.
            widths: Shares of the channels, falling.

        Raises:
            PruningError: The network can't be narrowed.
        """
        super().__init__()
        self.widths = tuple(widths)
        self.full = whole if widths[0] == 1 else _at(whole, example, groups, widths[0])
        self.norms = nn.ModuleDict()
        self._forms: dict[float, nn.Module] = {}
        self._frozen = ""
        self._groups = [dataclasses.replace(each, width=channels_at(widths[0], each.width)) for each in groups]
        self._layers = _layer_names(self.full, example, self._groups)
        self.narrowed: Tensor
        self.register_buffer("narrowed", torch.zeros((), dtype=torch.int64))
        for width in widths[1:]:
            form = _at(whole, example, groups, width)
            norms = {name: found for name, found in form.named_modules() if isinstance(found, nn.BatchNorm2d)}
            key = f"{width:g}".replace(".", "_")  # module dictionaries allow no dot in a key
            self.norms[key] = nn.ModuleDict({name.replace(".", "/"): norm for name, norm in norms.items()})
            self._forms[width] = form
        self._shared = {width: self._shared_of(form) for width, form in self._forms.items()}

    def forward(self, image: Tensor) -> Outputs:
        """Returns the outputs of the widest network."""
        return as_tuple(self.full(image))

    def at(self, width: float, image: Tensor) -> Outputs:
        """Returns the outputs at a width; gradients reach the shared weights."""
        if width == self.widths[0]:
            return self(image)  # type: ignore[no-any-return]
        form = self._forms[width]
        weights = {name: parameter[part] for name, (parameter, part) in self._shared[width].items()}
        return as_tuple(functional_call(form, weights, (image,), tie_weights=False))

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all forms; frozen layers stay in evaluation mode."""
        super().train(mode)
        for form in (self.full, *self._forms.values()):
            form.train(mode)
            for name, layer in form.named_modules():
                if self._frozen and name.startswith(self._frozen):
                    layer.eval()
        return self

    def freeze(self, prefix: str) -> None:
        """Stops the training of all layers whose names begin with a prefix, and keeps their statistics."""
        self._frozen = prefix
        for module in (self.full, *self._forms.values()):
            for name, parameter in module.named_parameters():
                if name.startswith(prefix):
                    parameter.requires_grad_(False)

    def count_norms(self, inputs: Sequence[Tensor]) -> None:
        """Estimates the statistics of all batch norms on inputs, before any training."""
        for form in (self.full, *self._forms.values()):
            count_norms_again(form, inputs)

    @property
    def is_narrowed(self) -> bool:
        """Whether `narrow` has begun the narrower networks."""
        return bool(self.narrowed)

    def orders(self, inputs: Sequence[Tensor], *, postprocess: str, seed: int) -> dict[str, Tensor]:
        """Returns the channels of each group by their importance to the widest network, the most important first.

        Args:
            postprocess: Name of the decoder of the outputs.
        """
        parameters = list(self.full.parameters())
        trained = [parameter.requires_grad for parameter in parameters]
        self.full.requires_grad_(True)
        with torch.no_grad():
            loss = distillation_loss_for(postprocess, as_tuple(self.full.eval()(inputs[0][:1])))
        ranks = rank_channels(self.full, self._groups, inputs, loss, seed=seed)
        for parameter, was in zip(parameters, trained, strict=True):
            parameter.requires_grad_(was)
        return {name: order_of(each) for name, each in ranks.items()}

    @torch.no_grad()
    def narrow(
        self, orders: Mapping[str, Tensor], inputs: Sequence[Tensor], optimizer: Optimizer | None = None
    ) -> None:
        """Sorts the channels of the widest network, and begins the narrower ones as its first channels.

        Args:
            orders: By group, its channels in their new order.
            inputs: Batches for the statistics of the narrower networks' batch norms.
            optimizer: Whose state of the weights is sorted as well.
        """
        for group, layers in self._layers.items():
            for name, axis in layers:
                layer = self.full.get_submodule(name)
                sort_layer(layer, axis, orders[group])
                if optimizer is not None:
                    for parameter in layer.parameters(recurse=False):
                        for value in optimizer.state.get(parameter, {}).values():
                            sort_tensor(value, axis, orders[group])
        for width, form in self._forms.items():
            for name, norm in form.named_modules():
                if isinstance(norm, nn.BatchNorm2d):
                    whole = self.full.get_submodule(name).state_dict()
                    for which, value in norm.state_dict().items():
                        value.copy_(whole[which][: len(value)] if value.ndim else whole[which])
            count_norms_again(form, inputs, through=NetworkAt(self, width))
        self.narrowed.fill_(1)

    def form(self, width: float) -> nn.Module:
        """Returns a copy of the network at a width, with weights of its own, in evaluation mode."""
        if width == self.widths[0]:
            return copy.deepcopy(self.full).eval()
        made = copy.deepcopy(self._forms[width])
        with torch.no_grad():
            for name, (parameter, part) in self._shared_of(made).items():
                made.get_parameter(name).copy_(parameter[part])
        return made.eval()

    def _shared_of(self, form: nn.Module) -> dict[str, tuple[nn.Parameter, tuple[slice, ...]]]:
        """Returns by a form's parameter the weight of the widest network that it is part of, and which part."""
        own = {
            f"{name}.{which}"
            for name, found in form.named_modules()
            if isinstance(found, nn.BatchNorm2d)
            for which, _ in found.named_parameters()
        }
        whole = dict(self.full.named_parameters())
        return {
            name: (whole[name], tuple(slice(0, size) for size in parameter.shape))
            for name, parameter in form.named_parameters()
            if name not in own
        }


class NetworkAt(nn.Module):
    """A slimmable network at one width, as a module."""

    def __init__(self, network: SlimmableNetwork, width: float) -> None:
        super().__init__()
        self.network, self.width = network, width

    def forward(self, image: Tensor) -> Outputs:
        """Returns the outputs at the width."""
        return self.network.at(self.width, image)


def narrow_copy(
    full: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], channels: Mapping[str, int]
) -> nn.Module:
    """Returns a copy that keeps the first channels of its groups.

    Args:
        channels: By group, how many are kept.
    """
    made = copy.deepcopy(full)
    remove(made, example, {each.name: list(range(channels[each.name], each.width)) for each in groups})
    return made


def _layer_names(full: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> dict[str, list[tuple[str, int]]]:
    names = {id(layer): name for name, layer in full.named_modules()}
    layers = layers_of(full, example, groups)
    return {group: [(names[id(layer)], axis) for layer, axis in found] for group, found in layers.items()}


def _at(full: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], width: float) -> nn.Module:
    return narrow_copy(full, example, groups, {each.name: channels_at(width, each.width) for each in groups})
