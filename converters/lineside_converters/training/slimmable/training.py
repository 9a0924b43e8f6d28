"""Training of several widths at once.

In the first quarter of a training the widest network learns alone. Then its channels are ordered by how much they
matter to its answers, and the narrower ones begin as its first channels (progressive shrinking after Cai et al.,
arXiv:1908.09791): a network that has learnt is a better start than one of ImageNet that lost channels. From then on
each step trains the widest one or the next one, and one or two of the others (a sandwich rule after Yu and Huang,
arXiv:1903.05134). All see the whole batch: half of it costs two thirds of the time, as weights are many and pictures
few. All learn from the annotations, and the narrower ones of a step from the answers of its widest one too (in-place
distillation). The benchmark `search.slimmable` measures what a training of four widths costs in terms of one of the
widest.
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
from lineside_converters.training.checkpoints import TrainingRun
from lineside_converters.training.objective import LabelledObjective, Outputs, as_tuple
from lineside_converters.training.slimmable.channel_order import order_channels
from lineside_converters.training.slimmable.network import NetworkAt, SlimmableNetwork
from lineside_converters.training.slimmable.settings import graph_of

WIDEST_FIRST = 1 / 4
"""Share of a training in which the widest network learns alone."""

DISTILLED = 0.5
"""Weight of the distance from the answers of a step's widest network."""

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
        ordered: Whether its channels are ordered already, or weights are loaded afterwards that are.

    Raises:
        PruningError: The network can't be narrowed.
    """
    module.requires_grad_(True)  # the graph is followed by its gradients
    example = inputs[0][:1]
    groups = find_groups(module, example).groups
    is_cut = widths[0] < 1 and not ordered  # otherwise `begin_narrower` ranks them, after the widest one has learnt
    if is_cut:
        with torch.no_grad():
            loss = distillation_loss_for(postprocess, as_tuple(module.eval()(example)))
        ranks = rank_channels(module, groups, inputs[:RANK_BATCHES], loss, seed=seed)
        order_channels(module, example, groups, ranks)
    network = SlimmableNetwork(module, example, groups, widths)
    if is_cut:
        network.count_norms(inputs)
    return network


def plain_name(name: str) -> str:
    """Returns the name that a parameter of a slimmable network has in the network itself."""
    if name.startswith("norms."):
        return name.split(".", 2)[2].replace("/", ".")
    return name.removeprefix(FULL)


def widths_of_step(widths: Sequence[float], step: int) -> tuple[float, ...]:
    """Returns the widths that a step trains, the widest first.

    Of three steps one trains the widest network and two the next one, as it began later. Two of the others are in the
    first and the third step, in turn, and one of them, but for the narrowest, is in the second.

    Args:
        widths: Those of the network, falling; two or more.
    """
    widest, following, *others = widths
    cycle, at = divmod(step, 3)
    wide = following if at else widest
    if not others:
        return (following,) if at else (widest, following)
    if at == 1:
        return wide, others[cycle % max(1, len(others) - 1)]
    first = 4 * cycle + at
    chosen = {others[number % len(others)] for number in (first, first + 1)}
    return wide, *sorted(chosen, reverse=True)


def begin_narrower(run: TrainingRun, inputs: Sequence[Tensor], *, postprocess: str, seed: int) -> None:
    """Orders the channels of a run's network by importance, as it is now, and begins the narrower ones from it.

    Args:
        run: Of a `SlimmableNetwork`; its average and the optimiser's state get the same order.
        inputs: Batches that the channels are ranked on.
        postprocess: Name of the decoder of the outputs.
    """
    network, averaged = run.model, run.ema.module
    if not (isinstance(network, SlimmableNetwork) and isinstance(averaged, SlimmableNetwork)):
        raise TypeError(f"a run of a {type(network).__name__} has one width")
    orders = averaged.orders(inputs[:RANK_BATCHES], postprocess=postprocess, seed=seed)
    network.narrow(orders, inputs, run.optimizer)
    averaged.narrow(orders, inputs)
    network.train()


def sandwich_loss(
    network: SlimmableNetwork,
    batch: Any,
    objective: LabelledObjective[Any],
    answer: Callable[[nn.Module, Tensor], Outputs],
    *,
    postprocess: str,
    step: int,
) -> Tensor:
    """Returns the loss of a step: the sum of those of the widths that it trains.

    Args:
        answer: Computes a network's outputs.
        postprocess: Name of the decoder of the outputs.
        step: Number of the step; chooses the widths.
    """
    widest, *narrower = widths_of_step(network.widths, step)
    images = objective.images(batch)
    outputs = answer(NetworkAt(network, widest), images)
    total = objective.true_loss(outputs, batch)
    teacher = [output.detach() for output in outputs]
    loss: DistillationLoss = distillation_loss_for(postprocess, teacher)
    for width in narrower:
        found = answer(NetworkAt(network, width), images)
        total = total + objective.true_loss(found, batch) + DISTILLED * loss.loss(found, teacher)
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
