"""Training of several widths at once.

Each step trains the widest network on the annotations, and the narrowest and one other width on the widest one's
answers (sandwich rule and in-place distillation: Yu and Huang, arXiv:1903.05134). The two narrower ones see half of the
batch, which makes a step of four widths about one and a half times as long as one of the widest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lineside_converters.distillation.losses import DistillationLoss, distillation_loss_for
from lineside_converters.pruning.channel_groups import find_groups
from lineside_converters.pruning.sensitivity import rank_channels
from lineside_converters.training.objective import LabelledObjective, Outputs, as_tuple
from lineside_converters.training.slimmable.channel_order import order_channels
from lineside_converters.training.slimmable.network import NetworkAt, SlimmableNetwork
from lineside_converters.training.slimmable.settings import graph_of

NARROW_SHARE = 0.5
"""Share of a batch that the narrower networks see."""

RANK_BATCHES = 4

FULL = "full."


def slimmable(
    module: nn.Module, inputs: Sequence[Tensor], widths: Sequence[float], *, postprocess: str, seed: int, ordered: bool
) -> SlimmableNetwork:
    """Returns a network of several widths.

    Args:
        module: The whole network with its batch norms; changed in place.
        inputs: Batches that the channels are ranked on.
        widths: Shares of the channels, falling.
        postprocess: Name of the decoder of its outputs.
        seed: Of the ranking.
        ordered: Whether its channels are ordered already, or weights are loaded afterwards that are.

    Raises:
        PruningError: The network can't be narrowed.
    """
    module.requires_grad_(True)  # the graph is followed by its gradients
    example = inputs[0][:1]
    groups = find_groups(module, example).groups
    if not ordered:
        with torch.no_grad():
            loss = distillation_loss_for(postprocess, as_tuple(module.eval()(example)))
        ranks = rank_channels(module, groups, inputs[:RANK_BATCHES], loss, seed=seed)
        order_channels(module, example, groups, ranks)
    return SlimmableNetwork(module, example, groups, widths)


def plain_name(name: str) -> str:
    """Returns the name that a parameter of a slimmable network has in the network itself."""
    if name.startswith("norms."):
        return name.split(".", 2)[2].replace("/", ".")
    return name.removeprefix(FULL)


def sandwich_loss(
    network: SlimmableNetwork,
    batch: Any,
    objective: LabelledObjective[Any],
    answer: Callable[[nn.Module, Tensor], Outputs],
    *,
    postprocess: str,
    step: int,
) -> Tensor:
    """Returns the loss of a step: the widest network's, and two narrower ones' distance from its answers.

    Args:
        answer: Computes a network's outputs.
        postprocess: Name of the decoder of the outputs.
        step: Number of the step; chooses the second narrower width in turn.
    """
    images = objective.images(batch)
    outputs = answer(network.full, images)
    total = objective.true_loss(outputs, batch)
    *others, narrowest = network.widths[1:]
    chosen = (narrowest, others[step % len(others)]) if others else (narrowest,)
    rows = max(1, round(len(images) * NARROW_SHARE))
    teacher = [output.detach()[:rows] for output in outputs]
    loss: DistillationLoss = distillation_loss_for(postprocess, teacher)
    for width in chosen:
        total = total + loss.loss(answer(NetworkAt(network, width), images[:rows]), teacher)
    return total


def figures_by_width(network: SlimmableNetwork, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
    """Returns the figures of each width; the names of narrower ones end in ``@`` and the width."""
    figures: dict[str, float] = {}
    for width in network.widths:
        found = evaluate(NetworkAt(network, width))
        figures |= found if width == 1 else {f"{name}@{width:g}": value for name, value in found.items()}
    return figures


def export_widths(
    network: SlimmableNetwork,
    out: Path,
    *,
    export: Callable[[nn.Module, Path], float],
    evaluate: Callable[[nn.Module], dict[str, float]],
) -> tuple[nn.Module, float, list[dict[str, Any]]]:
    """Writes the graph of each width into a run folder.

    Returns:
        The widest network, the largest difference between its graph's and torch's outputs, and for each width its
        graph's name, parameters and figures on the held-out share.
    """
    found, largest = [], 0.0
    for width in network.widths:
        form, name = network.form(width), graph_of(width, network.widths[0])
        largest = max(largest, export(form, out / name))
        parameters = sum(parameter.numel() for parameter in form.parameters())
        found.append({"width": width, "onnx": name, "parameters": parameters, "held": evaluate(form)})
    return network.form(network.widths[0]), largest, found
