"""A network and narrower forms of it that share its weights.

The narrower forms are the first channels of every layer. Each has batch norms of its own, as the statistics of fewer
channels are others (Yu et al., "Slimmable neural networks", arXiv:1812.08928).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import Self

from lineside_converters.pruning.channel_groups import ChannelGroup, remove
from lineside_converters.pruning.torch_graph import count_norms_again
from lineside_converters.training.objective import Outputs, as_tuple
from lineside_converters.training.slimmable.channel_order import channels_at

_SEPARATOR = "/"  # module dictionaries allow no dot in a key


class SharedNetwork(nn.Module):
    """A network, which computes the answer, and narrower forms of it that read its weights.

    Its state is all that is trained: the weights of the whole network, and the batch norms of each form.

    Attributes:
        full: The whole network.
        norms: By the name of a form, its batch norms.
    """

    def __init__(self, full: nn.Module, forms: Mapping[str, nn.Module]) -> None:
        """Takes the network, and copies of it that have the first channels of its layers.

        Args:
            full: The whole network, its channels ordered by importance; is trained in place.
            forms: Copies made by `narrow_copy`, also with layers left out.
        """
        super().__init__()
        self.full = full
        self.norms = nn.ModuleDict()
        self._forms = dict(forms)
        self._frozen = ""
        for key, form in forms.items():
            norms = {name: found for name, found in form.named_modules() if isinstance(found, nn.BatchNorm2d)}
            self.norms[key] = nn.ModuleDict({name.replace(".", _SEPARATOR): norm for name, norm in norms.items()})

    def forward(self, image: Tensor) -> Outputs:
        """Returns the outputs of the whole network."""
        return as_tuple(self.full(image))

    def of_form(self, key: str, image: Tensor) -> Outputs:
        """Returns the outputs of a form; gradients reach the shared weights."""
        form = self._forms[key]
        return as_tuple(functional_call(form, self._shared(form), (image,)))

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

    def copy_of(self, key: str) -> nn.Module:
        """Returns a copy of a form with weights of its own, in evaluation mode."""
        made = copy.deepcopy(self._forms[key])
        with torch.no_grad():
            for name, value in self._shared(made).items():
                made.get_parameter(name).copy_(value)
        return made.eval()

    def _shared(self, form: nn.Module) -> dict[str, Tensor]:
        """Returns the first channels of the whole network's weights, by the name of a form's parameter."""
        own = {
            f"{name}.{which}"
            for name, found in form.named_modules()
            if isinstance(found, nn.BatchNorm2d)
            for which, _ in found.named_parameters()
        }
        whole = dict(self.full.named_parameters())
        return {
            name: whole[name][tuple(slice(0, size) for size in parameter.shape)]
            for name, parameter in form.named_parameters()
            if name not in own
        }


class SlimmableNetwork(SharedNetwork):
    """A network of several widths.

    Attributes:
        widths: Shares of the channels, falling; the first is that of `full`.
    """

    def __init__(
        self, whole: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], widths: Sequence[float]
    ) -> None:
        """Makes the narrower forms.

        Args:
            whole: The whole network, its channels ordered by importance; is trained in place if the first width is 1.
            example: An input; small ones are faster.
            groups: Its groups of channels.
            widths: Shares of the channels, falling.

        Raises:
            PruningError: The network can't be narrowed.
        """
        full = whole if widths[0] == 1 else _at(whole, example, groups, widths[0])
        super().__init__(full, {_key(width): _at(whole, example, groups, width) for width in widths[1:]})
        self.widths = tuple(widths)

    def at(self, width: float, image: Tensor) -> Outputs:
        """Returns the outputs at a width; gradients reach the shared weights."""
        return self(image) if width == self.widths[0] else self.of_form(_key(width), image)

    def form(self, width: float) -> nn.Module:
        """Returns a copy of the network at a width, with weights of its own, in evaluation mode."""
        return copy.deepcopy(self.full).eval() if width == self.widths[0] else self.copy_of(_key(width))


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


def _at(full: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], width: float) -> nn.Module:
    return narrow_copy(full, example, groups, {each.name: channels_at(width, each.width) for each in groups})


def _key(width: float) -> str:
    return f"{width:g}".replace(".", "_")
