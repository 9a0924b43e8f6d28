"""Level 3 with annotated data: one training of all networks of the space, then a search among them.

The whole network and some of its narrower, shallower forms are trained together on shared weights, as a slimmable
network is. A trial then is a form that inherits these weights: its batch norms are counted again, its accuracy is that
of the objective on the held-out share, and its time is predicted by the measured times of the layers. The front is
quantised, timed on each engine and evaluated; no network is trained alone. A network whose weights come from training,
not from removing channels alone, tells how accurate it is without training of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from lineside_converters.distillation.trainer import DistillationSettings
from lineside_converters.pruning.channel_groups import ChannelGroup, remove
from lineside_converters.pruning.sensitivity import weakest
from lineside_converters.pruning.torch_graph import PrunableNetwork, count_norms_again
from lineside_converters.search.residual_blocks import removable_blocks, without_blocks
from lineside_converters.search.space import SearchChoice, widths_of
from lineside_converters.search.trials import (
    KEPT,
    NORM_BATCHES,
    ResizedNetwork,
    Sampler,
    SearchContext,
    SearchTrial,
    TunedNetwork,
    measure,
    quantised,
    score,
    search,
    shortlist,
    shrunk,
)
from lineside_converters.training import checkpoints
from lineside_converters.training.loop import BEST, CHECKPOINT, TrainingPlan, fit, parameter_groups, start_run
from lineside_converters.training.objective import TrainingObjective, as_tuple
from lineside_converters.training.progress import TrainingProgress
from lineside_converters.training.slimmable.channel_order import order_channels
from lineside_converters.training.slimmable.network import SharedNetwork

FORMS = 6
"""Narrower forms that are trained with the whole network: the narrowest, and drawn ones."""

SKIP_SHARE = 0.25
"""Share of the residual blocks that a drawn form is without."""

NARROW_SHARE = 0.5
"""Share of a batch that a form sees."""

SIZES = (1.0, 0.75, 0.5)
"""Sides of the input, as shares of the model's own, where its task allows others."""

FINISHED = 3
"""Networks of the front that are quantised and measured, for each of the shortlist that would be fine-tuned."""


def elastic_context(context: SearchContext) -> SearchContext:
    """Returns the context of a search among forms: channels ordered by importance, blocks that may be left out."""
    setup, found = context.setup, context.found
    network = setup.network.copy()
    groups = [ChannelGroup(name, width, (), ()) for name, width in found.widths.items()]
    ranks = {name: torch.tensor(values) for name, values in found.ranks.items()}
    order_channels(network.module, network.example, groups, ranks)
    ordered = msgspec.structs.replace(found, ranks={name: sorted(v, reverse=True) for name, v in found.ranks.items()})
    sizes = SIZES if len(context.space.sizes) > 1 else context.space.sizes
    space = dataclasses.replace(context.space, sizes=sizes, blocks=removable_blocks(network.module))
    return dataclasses.replace(context, setup=dataclasses.replace(setup, network=network), found=ordered, space=space)


def find_elastic(
    context: SearchContext,
    *,
    trials: int,
    finished: int,
    settings: DistillationSettings,
    folder: Path,
    sampler: Sampler = "nsga2",
) -> list[TunedNetwork]:
    """Trains all forms, searches among them, and measures the front; a search that was ended goes on.

    Args:
        context: Of `elastic_context`.
        trials: Number of forms that are evaluated.
        finished: Number of those that are quantised and measured.
        settings: Settings of the one training.
        folder: Keeps what is finished.
    """
    seed = context.optimization.limits.seed
    network = _trained(context, settings, folder, seed)
    base = dataclasses.replace(context.setup.network, module=network.full)

    def measure_trial(at: SearchContext, choice: SearchChoice) -> SearchTrial:
        made = subnetwork(at, base, choice)
        figures = at.setup.objective.evaluate(ResizedNetwork(made.module, choice.size))
        return SearchTrial(
            choice=choice, latency_ms=predicted_ms(at, choice, made), harm=1 - float(np.mean(list(figures.values())))
        )

    tried = search(context, folder, sampler=sampler, trials=trials, seed=seed, measure_trial=measure_trial)
    chosen = shortlist(tried, finished)
    context.progress.report(f"search ({sampler}): {len(tried)} trials, {len(chosen)} are quantised and measured")
    return [_finish(context, base, each.choice, folder / f"front-{at}") for at, each in enumerate(chosen)]


def subnetwork(context: SearchContext, network: PrunableNetwork, choice: SearchChoice) -> PrunableNetwork:
    """Returns the form of a choice with the weights that it inherits, and its own batch-norm statistics."""
    made = dataclasses.replace(network, module=_form(context, network.module, choice))
    inputs = context.setup.objective.some(NORM_BATCHES)
    count_norms_again(made.module, [shrunk(each, choice.size) for each in inputs])
    return made


def predicted_ms(context: SearchContext, choice: SearchChoice, form: PrunableNetwork) -> float:
    """Returns the milliseconds of a form's frame by the measured times of the layers that it has."""
    costs = context.found.costs
    names = {name for name, _ in form.module.named_modules()}
    left = dataclasses.replace(costs, layers_us={n: us for n, us in costs.layers_us.items() if n in names})
    return left.predict_us(widths_of(context.found, context.space, choice.kept)) * choice.size**2 / 1000


def _form(context: SearchContext, module: nn.Module, choice: SearchChoice) -> nn.Module:
    """Returns a copy without the choice's blocks, with the first channels of each group."""
    found = context.found
    made = without_blocks(module, choice.skipped)
    layers = {name for name, _ in made.named_modules()}
    roots: dict[str, str] = {}
    for layer, group in found.costs.makers.items():
        if layer in layers:
            roots.setdefault(group, layer)
    dropped = {
        roots[name]: weakest(torch.tensor(found.ranks[name]), found.widths[name] - width)
        for name, width in widths_of(found, context.space, choice.kept).items()
        if name in roots
    }
    remove(made, context.setup.network.example, dropped)
    return made


def _drawn_forms(context: SearchContext, seed: int) -> Iterator[SearchChoice]:
    """Yields the narrowest form of the space, and forms drawn from it."""
    space, rng = context.space, np.random.default_rng((seed, 17))
    first = SearchChoice((1.0,), 1.0, space.methods[0], space.float_convs[0], space.engines[0])
    yield dataclasses.replace(first, kept=(KEPT[-1],) * len(space.stages))
    for _ in range(FORMS - 1):
        kept = tuple(float(KEPT[int(rng.integers(1, len(KEPT)))]) for _ in space.stages)
        skipped = tuple(name for name in space.blocks if rng.random() < SKIP_SHARE)
        yield dataclasses.replace(first, kept=kept, skipped=skipped)


def _trained(context: SearchContext, settings: DistillationSettings, folder: Path, seed: int) -> SharedNetwork:
    setup = context.setup
    whole = setup.network.copy().module.requires_grad_(True)
    forms = {f"form{at}": _form(context, whole, choice) for at, choice in enumerate(_drawn_forms(context, seed))}
    network = SharedNetwork(whole, forms)
    network.count_norms(setup.objective.some(NORM_BATCHES))
    torch.set_num_threads(settings.threads)
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    resumed = checkpoints.load(folder / CHECKPOINT) if (folder / CHECKPOINT).exists() else None
    run = start_run(network, parameter_groups(network, lambda _: settings.learning_rate), resumed=resumed)
    steps = setup.objective.epoch_steps
    plan = TrainingPlan(
        out=folder,
        epochs=settings.epochs,
        epoch_steps=steps,
        minutes=settings.minutes,
        evaluate_every=settings.epochs,
        warm_up_steps=min(settings.warm_up_steps, settings.epochs * steps // 10),
        settings=settings.as_dict(),
    )
    fit(
        run,
        plan,
        batches=setup.objective.batches,
        loss=lambda model, batch: _loss(context, model, batch, settings, run.step),
        evaluate=lambda model: _evaluate(model, setup.objective),
        on_progress=_count(context),
    )
    network.load_state_dict(checkpoints.load(folder / BEST))
    return network


def _loss(context: SearchContext, model: nn.Module, batch: Any, settings: DistillationSettings, step: int) -> Tensor:
    """Returns the whole network's loss against the annotations, and the distance of two forms from its answers."""
    if not isinstance(model, SharedNetwork):
        raise TypeError("the forms' network is trained")
    objective, sizes = context.setup.objective, context.space.sizes
    images = objective.images(batch)
    outputs = as_tuple(model.full(images))
    true = objective.true_loss(outputs, batch)
    total = outputs[0].new_zeros(()) if true is None else true
    rows = max(1, round(len(images) * NARROW_SHARE))
    teacher = [output.detach()[:rows] for output in outputs]
    size = sizes[step % len(sizes)]
    for form in ("form0", f"form{1 + step % (FORMS - 1)}"):
        answers = model.of_form(form, shrunk(images[:rows], size))
        total = total + settings.teach_weight * context.setup.distillation_loss.loss(answers, teacher)
    return total


def _evaluate(model: nn.Module, objective: TrainingObjective[Any]) -> dict[str, float]:
    if not isinstance(model, SharedNetwork):
        raise TypeError("the forms' network is evaluated")
    return objective.evaluate(model.full)


def _finish(context: SearchContext, base: PrunableNetwork, choice: SearchChoice, folder: Path) -> TunedNetwork:
    """Quantises a form, times it on each engine and evaluates it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = quantised(context, subnetwork(context, base, choice), choice, folder)
    on_each = [dataclasses.replace(choice, engine=engine) for engine in context.space.engines]
    times_ms = [measure(context, path, each) for each in on_each]
    fastest = int(np.argmin(times_ms))
    return TunedNetwork(
        choice=on_each[fastest],
        latency_ms=times_ms[fastest],
        metric=score(context, path, on_each[fastest]),
        model=str(folder / "clean.onnx"),
    )


def _count(context: SearchContext) -> Callable[[TrainingProgress], None]:
    return lambda now: context.progress.count("train all forms", now.step + 1, now.steps)
