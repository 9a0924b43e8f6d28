"""Structured pruning: measure, choose, remove, fine-tune.

What was measured and chosen is kept in the working folder, so that a run that is killed goes on where it was; the
training goes on from its own checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lineside_converters.distillation.losses import DistillationLoss
from lineside_converters.pruning.channel_groups import find_groups, remove
from lineside_converters.pruning.layer_cost import LayerCosts, measure_costs, time_whole
from lineside_converters.pruning.sensitivity import ChannelSensitivity, measure_curves, rank_channels, weakest
from lineside_converters.pruning.torch_graph import PrunableNetwork, count_norms_again
from lineside_converters.pruning.width_selection import choose_widths, predicted_harm
from lineside_converters.training.objective import TrainingObjective
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import PruningError
from lineside_runtime.files import write_atomic
from lineside_runtime.progress import TextListener

RANK_BATCHES = 8
CURVE_BATCHES = 1
NORM_BATCHES = 8
CORRECTIONS = 4
SURPRISE = 1.2
CLOSE_ENOUGH, TOO_MUCH = 0.98, 1.05
"""Of the wanted speed: what is accepted, and what is narrowed further than it need be."""


MakeInt8 = Callable[[Path], Path]
Timed = Callable[[PrunableNetwork], float]

log = logging.getLogger("lineside.convert")


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True, rename={"distillation_loss": "teaching"}):
    """Measurements of a network's groups; also what a report draws.

    Attributes:
        source: sha256 of the measured network's weights, without its batch norms, and of the settings.
        distillation_loss: Name of the loss that measures the harm; ``teaching`` in files.
        widths: Channels of each whole group.
        ranks: By group, how much each channel matters.
        costs: Where the time goes.
        left: Groups that can't be pruned, with the reason.
    """

    source: str
    distillation_loss: str
    groups: list[ChannelSensitivity]
    widths: dict[str, int]
    ranks: dict[str, list[float]]
    costs: LayerCosts
    left: dict[str, str]


class PrunePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Channels to remove, and the speed that they bring.

    Attributes:
        speedup: Asked for, of the form that was timed.
        measured_speedup: Speedup of that form with the chosen widths, before any fine-tuning.
        widths: Channels that each group keeps.
        dropped: By group, the indices that go.
        predicted_harm: By the curves.
    """

    speedup: float
    measured_speedup: float
    widths: dict[str, int]
    dropped: dict[str, list[int]]
    predicted_harm: float


def measure_sensitivity(
    network: PrunableNetwork,
    objective: TrainingObjective[Any],
    distillation_loss: DistillationLoss,
    *,
    frame: Tensor,
    seed: int,
    work: Path,
    report: TextListener,
    make_int8: MakeInt8 | None = None,
) -> Sensitivity:
    """Measures every group's curve and the time of every layer, or reads what an earlier run has measured.

    Args:
        objective: Give the frames; only what is learnt from is used.
        frame: A prepared input of the usual size, to time on.
        work: Folder that ``sensitivity.json`` is kept in.
        make_int8: Makes the form that is to be fast out of a float file.
    """
    named = type(distillation_loss).__name__.replace("Distillation", "Teaching")  # as earlier releases hashed it
    source = _fingerprint(network.module, named, seed, make_int8 is not None)
    kept = work / "sensitivity.json"
    if kept.exists():
        found = decode_json(kept.read_bytes(), type=Sensitivity)
        if found.source == source:
            report("sensitivity: as measured before")
            return found
    batches = objective.some(RANK_BATCHES)
    grouping = find_groups(network.module, network.example)
    for name, reason in grouping.left.items():
        log.info("group %s stays whole: %s", name, reason)
    report(f"sensitivity: {len(grouping.groups)} groups of channels, {len(grouping.left)} left whole")
    ranks = rank_channels(network.module, grouping.groups, batches, distillation_loss, seed=seed)
    curves = measure_curves(
        network.module, grouping.groups, ranks, [torch.cat(batches[:CURVE_BATCHES])], distillation_loss, report=report
    )
    result = Sensitivity(
        source=source,
        distillation_loss=distillation_loss.name,
        groups=curves,
        widths={group.name: group.width for group in grouping.groups},
        ranks={name: [float(f"{value:.6g}") for value in scores] for name, scores in ranks.items()},
        costs=measure_costs(network, grouping.groups, frame, make_int8=make_int8),
        left=grouping.left,
    )
    work.mkdir(parents=True, exist_ok=True)
    write_atomic(kept, msgspec.json.encode(result))
    return result


def plan_pruning(
    network: PrunableNetwork, found: Sensitivity, *, speedup: float, timed: Timed, work: Path, report: TextListener
) -> PrunePlan:
    """Chooses the widths that reach a speed at the least harm, and corrects them by measurements.

    Args:
        speedup: How many times faster the timed form is to be.
        timed: Measures how many times faster than the whole network a pruned one is.
        work: Folder that ``plan.json`` is kept in.
    """
    kept = work / "plan.json"
    if kept.exists():
        before = decode_json(kept.read_bytes(), type=PrunePlan)
        if before.speedup == speedup and before.widths.keys() == found.widths.keys():
            report(f"widths: as chosen before, {before.measured_speedup:.2f} times the speed")
            return before
    widths, measured = _search_widths(network, found, speedup, timed, report)
    plan = PrunePlan(
        speedup=speedup,
        measured_speedup=measured,
        widths=widths,
        dropped={name: _weakest(found, name, width) for name, width in widths.items()},
        predicted_harm=predicted_harm(found.groups, widths, found.widths),
    )
    write_atomic(kept, msgspec.json.encode(plan))
    return plan


def timed_beside(network: PrunableNetwork, frames: Sequence[Tensor], make_int8: MakeInt8 | None) -> Timed:
    """Returns a function that times pruned networks beside the whole one, in ONNX Runtime on one thread.

    Args:
        frames: Inputs to time on, one of each size that matters.
        make_int8: Makes the form that is to be fast out of a float file; the float file itself if not given.
    """
    return lambda pruned: time_whole(network, pruned, frames, make_int8=make_int8)


def _search_widths(
    network: PrunableNetwork, found: Sensitivity, speedup: float, timed: Timed, report: TextListener
) -> tuple[dict[str, int], float]:
    """Returns the widths whose measured speed is enough, with as little surplus as a few corrections allow."""
    asked = speedup
    enough: list[tuple[float, dict[str, int]]] = []
    for _ in range(CORRECTIONS):
        widths = choose_widths(found.costs, found.groups, speedup=asked)
        measured = _measured(timed, narrowed(network, found, widths), asked)
        report(f"widths for {asked:.2f} times the speed: {measured:.2f} times measured")
        if measured >= CLOSE_ENOUGH * speedup:
            enough.append((measured, widths))
            if measured <= TOO_MUCH * speedup:
                break
        asked *= speedup / measured
    if not enough:
        raise PruningError("the wanted speed is not reached", expected=speedup, actual=f"{measured:.2f}")
    measured, widths = min(enough, key=lambda each: each[0])
    return widths, measured


def _measured(timed: Timed, pruned: PrunableNetwork, expected: float) -> float:
    """Returns the measured speed; if it is far from the prediction, the median of three measurements."""
    first = timed(pruned)
    if 1 / SURPRISE < first / expected < SURPRISE:
        return first
    return statistics.median((first, timed(pruned), timed(pruned)))


def narrowed(network: PrunableNetwork, found: Sensitivity, widths: dict[str, int]) -> PrunableNetwork:
    """Returns a copy of the network with these widths, its batch norms as they were."""
    made = network.copy()
    remove(made.module, network.example, {name: _weakest(found, name, width) for name, width in widths.items()})
    return made


def apply_plan(network: PrunableNetwork, plan: PrunePlan, objective: TrainingObjective[Any]) -> PrunableNetwork:
    """Returns a copy of the network without the plan's channels, its batch norms re-estimated."""
    made = network.copy()
    remove(made.module, network.example, plan.dropped)
    count_norms_again(made.module, objective.some(NORM_BATCHES))
    return made


def fold_norms(module: nn.Module) -> nn.Module:
    """Returns the module with its batch norms folded into the convolutions: faster as a teacher."""
    for name, child in module.named_children():
        pair = list(child.children()) if isinstance(child, nn.Sequential) else []
        if len(pair) == 2 and isinstance(pair[0], nn.Conv2d) and isinstance(pair[1], nn.BatchNorm2d):
            setattr(module, name, nn.Sequential(fuse_conv_bn_eval(pair[0].eval(), pair[1].eval())))
        else:
            fold_norms(child)
    return module


def _weakest(found: Sensitivity, name: str, width: int) -> list[int]:
    return weakest(torch.tensor(found.ranks[name]), found.widths[name] - width)


def _fingerprint(module: nn.Module, *settings: object) -> str:
    digest = hashlib.sha256(repr(settings).encode())
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            digest.update(name.encode())
            digest.update(layer.weight.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
