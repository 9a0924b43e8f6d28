"""Level 3 with annotated data: a search among forms of the network, whose front is trained from the widest on down.

Trials cost little: a form's time is predicted by the measured times of the layers and of two forms, its harm is the
distance of its answers from the whole network's. Forms of evenly spaced times are then fine-tuned from the slowest to
the fastest; each starts from the weights of the smallest one before it that contains it, so that a narrow network
inherits all training of the wider ones (progressive shrinking: Cai et al., "Once-for-all", arXiv:1908.09791). Faster
forms take less time to train, and are trained for more epochs.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from lineside_converters.distillation.answer_cache import AnswerCache
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.pruning.channel_groups import ChannelGroup, remove
from lineside_converters.pruning.layer_cost import measure_costs
from lineside_converters.pruning.structured import MakeInt8
from lineside_converters.pruning.torch_graph import PrunableNetwork, count_norms_again
from lineside_converters.search.input_size import ResizedNetwork, shrunk
from lineside_converters.search.kernel_sizes import crop_kernels, large_kernels
from lineside_converters.search.pareto import Point
from lineside_converters.search.residual_blocks import removable_blocks, without_blocks
from lineside_converters.search.space import SearchChoice, widths_of
from lineside_converters.search.study import TrialMethod, search
from lineside_converters.search.trials import (
    NORM_BATCHES,
    SearchContext,
    SearchTrial,
    TunedNetwork,
    UntimedTrial,
    claim,
    fastest_engine,
    harm_of,
    quantised,
    score,
    shortlist,
    time_trials,
)
from lineside_converters.training.progress import OnProgress, TrainingProgress
from lineside_converters.training.slimmable.channel_order import order_channels
from lineside_runtime.decoding import decode_json
from lineside_runtime.files import write_atomic

SIZES = (1.0, 0.75, 0.5)
"""Sides of the input, as shares of the model's own, where its task allows others."""

TIMED_FORMS = ((0.8, 1.0), (0.2, 0.5))
"""Forms that are measured to correct the predicted times: shares of the stages' times, and of the sides if resized."""

HARM_NOISE = 1.05
"""Ratio of two harms that says nothing about the forms after their training."""

EPOCHS_MAX = 4.0
"""Most epochs of a form in terms of the slowest form's."""


@dataclasses.dataclass(frozen=True, slots=True)
class TrainedForm:
    """A form with its weights.

    Attributes:
        widths: Channels of each group.
        skipped: Residual blocks that it is without.
        cropped: Convolutions whose kernel is 3×3.
        trained_by: Identifies the training of its weights; empty for those of the whole network.
    """

    widths: Mapping[str, int]
    skipped: frozenset[str]
    cropped: frozenset[str]
    network: PrunableNetwork
    trained_by: str = ""

    def contains(self, widths: Mapping[str, int], choice: SearchChoice) -> bool:
        """Returns whether a form with these widths, and a choice's blocks and kernels, is a part of it."""
        smaller = self.skipped <= set(choice.skipped) and self.cropped <= set(choice.cropped)
        return smaller and all(self.widths[name] >= width for name, width in widths.items())


def progressive_context(context: SearchContext, *, make_int8: MakeInt8 | None = None) -> SearchContext:
    """Returns the context of a search among forms.

    Its channels are ordered by importance. Its space has blocks that may be left out, and large kernels that may become
    small, with their times.

    Args:
        make_int8: Makes the form whose layers were timed, for the times of small kernels; the float form if not given.
    """
    setup, found = context.setup, context.found
    network = setup.network.copy()
    groups = [ChannelGroup(name, width, (), ()) for name, width in found.widths.items()]
    ranks = {name: torch.tensor(values) for name, values in found.ranks.items()}
    order_channels(network.module, network.example, groups, ranks)
    ordered = msgspec.structs.replace(found, ranks={name: sorted(v, reverse=True) for name, v in found.ranks.items()})
    sizes = SIZES if len(context.space.sizes) > 1 else context.space.sizes
    space = dataclasses.replace(
        context.space,
        sizes=sizes,
        blocks=removable_blocks(network.module),
        kernels=_kernel_times(context, make_int8),
    )
    made = dataclasses.replace(context, setup=dataclasses.replace(setup, network=network), found=ordered, space=space)
    return dataclasses.replace(made, space=dataclasses.replace(space, time_line=_time_line(made)))


def _time_line(context: SearchContext) -> tuple[float, float]:
    """Returns milliseconds that every form takes, and a factor on its predicted ones, as measured now or earlier.

    The predicted times leave out what an engine takes for each operator however few its channels and pixels are. That
    is most of the time of small forms: without it, they seem twice as fast as they are.
    """
    if context.optimization.limits.clock is not None:
        return 0.0, 1.0
    space, whole = context.space, whole_form(context)

    def measure() -> tuple[float, float]:
        times: list[Point] = []
        for share, size in TIMED_FORMS:
            side = size if size in space.sizes else 1.0
            kept = (share,) * len(space.stages)
            choice = SearchChoice(kept, side, space.methods[0], space.float_convs[0], space.engines[0])
            form = form_of(context, choice, whole)
            with tempfile.TemporaryDirectory(prefix="lineside-search-") as folder:
                path = quantised(context, form.network, choice, Path(folder))
                times.append((predicted_ms(context, choice, form), fastest_engine(context, path, choice)[1]))
        return line_through(*times)

    inputs = {"source": context.found.source, "sizes": space.sizes, "engines": space.engines, "forms": TIMED_FORMS}
    found: tuple[float, float] = context.optimization.work.value("form-times", inputs, measure, tuple[float, float])
    return found


def line_through(slow: Point, fast: Point) -> tuple[float, float]:
    """Returns constant and factor of the line through two points of predicted and measured milliseconds.

    No constant if the measured times contradict the predicted order, as on a busy machine.
    """
    factor = (slow[1] - fast[1]) / (slow[0] - fast[0]) if slow[0] > fast[0] else 0.0
    constant = slow[1] - factor * slow[0]
    return (constant, factor) if factor > 0 and constant >= 0 else (0.0, slow[1] / slow[0])


def _kernel_times(context: SearchContext, make_int8: MakeInt8 | None) -> dict[str, float]:
    """Returns the microseconds of each large kernel when all of them are 3×3, as measured now or in an earlier run.

    Where a device times whole forms, the values are not used and none are measured.
    """
    names = large_kernels(context.setup.network.module)
    if not names or context.optimization.limits.clock is not None:
        return dict.fromkeys(names, 0.0)

    def measure(folder: Path) -> None:
        network = context.setup.network.copy()
        crop_kernels(network.module, names)
        costs = measure_costs(network, (), context.setup.frames[0], make_int8=make_int8)
        times_us = {name: costs.layers_us.get(name, 0.0) for name in names}
        (folder / "times.json").write_bytes(msgspec.json.encode(times_us))

    inputs = {"source": context.found.source, "names": names, "int8": make_int8 is not None}
    kept = context.optimization.work.step("small-kernels", inputs, measure) / "times.json"
    return decode_json(kept.read_bytes(), type=dict[str, float])


def find_progressive(
    context: SearchContext,
    *,
    trials: int,
    finished: int,
    settings: DistillationSettings,
    folder: Path,
) -> list[TunedNetwork]:
    """Searches among forms, and trains the front from the slowest on down; a search that was ended goes on.

    Args:
        context: Of `progressive_context`.
        trials: Number of forms that are tried without training.
        finished: Number of those that are trained, quantised and measured.
        folder: Keeps what is finished.
    """
    limits = context.optimization.limits
    method: TrialMethod[Any] = PREDICTED if limits.clock is None else TIMED_THERE
    tried = search(context, folder, sampler="nsga2", trials=trials, seed=limits.seed, method=method)
    chosen = spaced(tried, finished)
    context.progress.report(f"search (nsga2): {len(tried)} trials, {len(chosen)} are trained from the slowest on")
    setup = dataclasses.replace(context.setup, teacher=AnswerCache(context.setup.teacher))
    training = dataclasses.replace(context, setup=setup)
    forms, results = [whole_form(context)], []
    for number, trial in enumerate(reversed(chosen)):
        longer = more_epochs(settings, slowest_ms=chosen[-1].latency_ms, latency_ms=trial.latency_ms)
        result, form = _finish(training, trial.choice, forms, longer, folder / f"front-{number}")
        results.append(result)
        forms.append(form)
    return results[::-1]


def spaced(tried: Sequence[SearchTrial], count: int) -> list[SearchTrial]:
    """Returns at most so many trials whose times are evenly spaced on a scale of ratios, the fastest first.

    The range of the front's times is divided into as many parts, and the trial with the least harm of each is chosen;
    what is missing where parts are empty is chosen by `shortlist` among the others. Before training, the harm of most
    fast forms is about that of an arbitrary answer: differences below `HARM_NOISE` do not make a front.
    """
    if count < 2:
        return shortlist(tried, count)
    order = sorted(tried, key=lambda each: each.latency_ms)
    near, least = [], math.inf
    for each in order:
        if each.harm <= HARM_NOISE * least:
            near.append(each)
        least = min(least, each.harm)
    fastest, slowest = (math.log(each.latency_ms) for each in (near[0], min(near, key=lambda one: one.harm)))
    best: dict[int, SearchTrial] = {}
    for each in near:
        part = round((math.log(each.latency_ms) - fastest) / ((slowest - fastest) or 1.0) * (count - 1))
        if part < count and (part not in best or each.harm < best[part].harm):
            best[part] = each
    chosen = list(best.values())
    rest = [each for each in near if each not in chosen]
    if rest and len(chosen) < count:
        chosen += shortlist(rest, count - len(chosen))
    return sorted(chosen, key=lambda each: each.latency_ms)


def more_epochs(settings: DistillationSettings, *, slowest_ms: float, latency_ms: float) -> DistillationSettings:
    """Returns the settings with more epochs for a form that is faster than the slowest, up to `EPOCHS_MAX` times."""
    factor = min(EPOCHS_MAX, max(1.0, slowest_ms / latency_ms))
    return dataclasses.replace(settings, epochs=round(settings.epochs * factor))


def _predicted_form(context: SearchContext, choice: SearchChoice) -> SearchTrial:
    """Predicts the time of a form, and measures how far its answers are from the whole network's without training."""
    form = _counted_form(context, choice)
    harm = harm_of(context, form.network.module, choice)
    return SearchTrial(choice=choice, latency_ms=predicted_ms(context, choice, form), harm=harm)


def _quantised_form(context: SearchContext, choice: SearchChoice) -> UntimedTrial:
    """Makes the INT8 form of a form that a device is to time, and measures its harm."""
    network = _counted_form(context, choice).network
    with tempfile.TemporaryDirectory(prefix="lineside-search-") as folder:
        int8 = quantised(context, network, choice, Path(folder)).read_bytes()
    return UntimedTrial(choice=choice, harm=harm_of(context, network.module, choice), int8=int8)


def whole_form(context: SearchContext) -> TrainedForm:
    """Returns the whole network, from which all forms are made."""
    return TrainedForm(context.found.widths, frozenset(), frozenset(), context.setup.network)


def _counted_form(context: SearchContext, choice: SearchChoice) -> TrainedForm:
    form = form_of(context, choice, whole_form(context))
    _count_norms(context, form.network.module, choice.size)
    return form


PREDICTED = TrialMethod(_predicted_form, lambda _, measured: list(measured))
"""The time is predicted by the times of the layers."""

TIMED_THERE = TrialMethod(_quantised_form, time_trials, together=True)
"""A device of the fleet times a generation of INT8 forms."""


def form_of(context: SearchContext, choice: SearchChoice, start: TrainedForm) -> TrainedForm:
    """Returns the form of a choice with the weights of one that contains it: the first channels of each group."""
    widths = widths_of(context.found, context.space, choice.kept)
    skipped = frozenset(choice.skipped)
    made = without_blocks(start.network.module, skipped - start.skipped)
    crop_kernels(made, choice.cropped)
    layers = {name for name, _ in made.named_modules()}
    roots: dict[str, str] = {}
    for layer, group in context.found.costs.makers.items():
        if layer in layers:
            roots.setdefault(group, layer)
    dropped = {roots[name]: list(range(width, start.widths[name])) for name, width in widths.items() if name in roots}
    remove(made, context.setup.network.example, dropped)
    return TrainedForm(widths, skipped, frozenset(choice.cropped), dataclasses.replace(start.network, module=made))


def predicted_ms(context: SearchContext, choice: SearchChoice, form: TrainedForm) -> float:
    """Returns the milliseconds of a form's frame by the measured times of the layers that it has."""
    costs = context.found.costs
    names = {name for name, _ in form.network.module.named_modules()}
    times_us = costs.layers_us | {name: context.space.kernels[name] for name in choice.cropped}
    left = dataclasses.replace(costs, layers_us={n: us for n, us in times_us.items() if n in names})
    constant_ms, factor = context.space.time_line
    return constant_ms + factor * left.predict_us(form.widths) * choice.size**2 / 1000


def _finish(
    context: SearchContext,
    choice: SearchChoice,
    forms: list[TrainedForm],
    settings: DistillationSettings,
    folder: Path,
) -> tuple[TunedNetwork, TrainedForm]:
    """Trains, quantises, times and evaluates a form, or reads the result of an earlier call."""
    setup = context.setup
    widths = widths_of(context.found, context.space, choice.kept)
    start = next(form for form in reversed(forms) if form.contains(widths, choice))
    training = claim(folder, choice, settings, start.trained_by)
    form = dataclasses.replace(form_of(context, choice, start), trained_by=training)
    done = folder / "finished.json"
    if not done.exists():
        _count_norms(context, form.network.module, choice.size)
    train_student(  # of a finished form it only loads the weights
        ResizedNetwork(form.network.module, choice.size),
        setup.teacher,
        setup.objective,
        setup.distillation_loss,
        settings=settings,
        out=folder,
        on_progress=_count(context, folder.name),
    )
    if done.exists():
        return decode_json(done.read_bytes(), type=TunedNetwork), form
    path = quantised(context, form.network, choice, folder)
    fastest, latency_ms = fastest_engine(context, path, choice)
    result = TunedNetwork(
        choice=fastest,
        latency_ms=latency_ms,
        metric=score(context, path, fastest),
        model=str(folder / "clean.onnx"),
    )
    write_atomic(done, msgspec.json.encode(result))
    return result, form


def _count_norms(context: SearchContext, module: nn.Module, size: float) -> None:
    inputs: list[Tensor] = context.setup.objective.some(NORM_BATCHES)
    count_norms_again(module, [shrunk(each, size) for each in inputs])


def _count(context: SearchContext, name: str) -> OnProgress:
    def count(now: TrainingProgress) -> None:
        context.progress.count(f"fine-tune {name}", now.step + 1, now.steps)

    return count
