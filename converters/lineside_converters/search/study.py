"""The trials of a search: proposed by Optuna in generations, run as tasks of a cluster where there is one, and kept.

A proposal follows from the seed, the number of the trial and the generation before (NSGA-II: Deb et al. 2002), not from
the other trials of its own generation. So a generation is asked for at once where a cluster runs it, and the trials are
those of the loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec
import optuna
from torch import Tensor, nn

from lineside_converters.context import Context
from lineside_converters.progress import ProgressReporter
from lineside_converters.search.space import SearchChoice, SearchSpace
from lineside_converters.search.trials import (
    CALIBRATED_ON,
    NORM_BATCHES,
    PROXY_BATCHES,
    PROXY_FIRST,
    SearchContext,
    SearchTrial,
)
from lineside_converters.training.objective import Done, TrainingObjective
from lineside_converters.work_folder import WorkFolder
from lineside_models.datasets.base import evenly_spread
from lineside_runtime.decoding import decode_json

KEPT = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2)
"""Shares of a stage's time that a trial may leave."""

POPULATION = 12
"""Trials of a generation."""

DIRECTIONS = (optuna.study.StudyDirection.MINIMIZE,) * 2
"""Of a trial's milliseconds and of its harm."""

Sampler = Literal["nsga2", "random"]
M = TypeVar("M")


@dataclasses.dataclass(frozen=True, slots=True)
class TrialMethod(Generic[M]):
    """How a choice is tried.

    Attributes:
        measure: All but the time; may run as a task of a cluster, so that its result must be picklable.
        time: Takes what was measured of some choices, in this process, when no task runs.
        together: Whether ``time`` is to get a generation at once also without a cluster.
    """

    measure: Callable[[SearchContext, SearchChoice], M]
    time: Callable[[SearchContext, Sequence[M]], list[SearchTrial]]
    together: bool = False


def search(
    context: SearchContext, folder: Path, *, sampler: Sampler, trials: int, seed: int, method: TrialMethod[Any]
) -> list[SearchTrial]:
    """Runs trials up to a number, resuming those of an earlier call.

    A search that was killed proposes what it would have proposed, and a longer one begins with the trials of a shorter
    one. With a cluster a kill costs the generation that ran.

    Args:
        context: Context of the trials; the tasks of its optimization run them.
        folder: Holds ``<sampler>-<seed>.db``.
        trials: Number of trials, resumed ones included.

    Returns:
        So many trials, in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks, reduced = context.optimization.tasks, portable(context)
    at_once = POPULATION if tasks.workers > 1 or method.together else 1
    with _quiet(), contextlib.closing(_Store(f"sqlite:///{folder / f'{sampler}-{seed}.db'}")) as store:
        kept = optuna.create_study(
            storage=store.storage, study_name=sampler, load_if_exists=True, directions=DIRECTIONS
        )
        done_before = kept.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        study = optuna.create_study(directions=DIRECTIONS)  # in memory: the file takes a transaction for each parameter
        study.add_trials(done_before)
        tried = [_tried(each) for each in done_before]
        while (done := len(tried)) < trials:
            until = min(trials, done + at_once - done % at_once)  # the end of the generation
            asked = [_ask(study, context, sampler, seed, number) for number in range(done, until)]
            measured = tasks.map(
                partial(method.measure, reduced),
                [choice for _, choice in asked],
                on_done=_counter(context.progress, f"search ({sampler})", done, trials),
            )
            for (proposal, _), trial in zip(asked, method.time(context, measured), strict=True):
                proposal.set_user_attr("choice", msgspec.json.encode(trial.choice).decode())
                kept.add_trial(study.tell(proposal, [trial.latency_ms, trial.harm]))
                tried.append(trial)
    return tried[:trials]


def _counter(progress: ProgressReporter, name: str, done: int, total: int) -> Callable[..., None]:
    def count(*_: object) -> None:
        nonlocal done
        done += 1
        progress.count(name, done, total)

    return count


def _ask(
    study: optuna.Study, context: SearchContext, sampler: Sampler, seed: int, number: int
) -> tuple[optuna.Trial, SearchChoice]:
    """Proposes the trial of a number."""
    space = context.space
    kernels = space.kernels_by_stage(context.found.costs)
    study.sampler = _sampler(sampler, seed + number)
    starts = _starts(space, kernels) if sampler != "random" else []
    if number < len(starts):
        study.enqueue_trial(starts[number])
    trial = study.ask()
    return trial, _choose(trial, space, kernels)


class _Store:
    """Optuna's SQLite storage, closed when it is done with."""

    def __init__(self, url: str) -> None:
        self.storage = optuna.storages.RDBStorage(url, skip_compatibility_check=True)

    def close(self) -> None:
        self.storage.remove_session()
        self.storage.engine.dispose()


def _sampler(name: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)


def _starts(space: SearchSpace, kernels: Collection[int]) -> list[dict[str, Any]]:
    """Returns the first trials: every stage left with the same share of its time, as level 2 does.

    The sensitivity curves have shared out what is inside a stage, and few other choices beat these. Smaller pictures
    begin with less, as that is where they are fastest. The whole network is judged apart.
    """
    plain: dict[str, Any] = {"method": space.methods[0], "float_convs": space.float_convs[0]}
    plain |= {f"without {name}": False for name in space.blocks}
    plain |= {f"small kernels {stage}": False for stage in kernels}
    shares = [(size, share) for size in space.sizes for share in (KEPT[1:] if size == space.sizes[0] else KEPT[-2:])]
    return [
        {f"stage{number}": share for number in range(len(space.stages))} | {"size": size} | plain
        for size, share in shares
    ]


def _choose(trial: optuna.Trial, space: SearchSpace, kernels: Mapping[int, tuple[str, ...]]) -> SearchChoice:
    return SearchChoice(
        kept=tuple(trial.suggest_categorical(f"stage{number}", KEPT) for number in range(len(space.stages))),
        size=trial.suggest_categorical("size", space.sizes),
        method=trial.suggest_categorical("method", space.methods),
        float_convs=trial.suggest_categorical("float_convs", space.float_convs),
        engine=space.engines[0],
        skipped=tuple(name for name in space.blocks if trial.suggest_categorical(f"without {name}", (False, True))),
        cropped=tuple(
            name
            for stage, names in kernels.items()
            if trial.suggest_categorical(f"small kernels {stage}", (False, True))
            for name in names
        ),
    )


def _tried(trial: optuna.trial.FrozenTrial) -> SearchTrial:
    choice = decode_json(trial.user_attrs["choice"], type=SearchChoice)
    return SearchTrial(choice=choice, latency_ms=trial.values[0], harm=trial.values[1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def portable(context: SearchContext) -> SearchContext:
    """Returns a context with what trials need and no more: it can be pickled, and its batches are drawn once."""
    optimization, setup = context.optimization, context.setup
    calibration = tuple(evenly_spread(optimization.inputs.calibration, CALIBRATED_ON))
    return dataclasses.replace(
        context,
        optimization=Context(
            source=optimization.source,
            manifest=optimization.manifest,
            inputs=dataclasses.replace(optimization.inputs, calibration=calibration, tuning=(), evaluation=()),
            level=optimization.level,
            target=optimization.target,
            task=None,
            work=WorkFolder(Path(), _ignore),
            progress=ProgressReporter(_ignore),
        ),
        setup=dataclasses.replace(setup, objective=_DrawnBatches(setup.objective)),
        progress=ProgressReporter(_ignore),
    )


def _ignore(_: str) -> None:
    pass


class _DrawnBatches(TrainingObjective[Tensor]):
    """Inputs of the batches of another objective that trials use."""

    def __init__(self, objective: TrainingObjective[Any]) -> None:
        self.epoch_steps, self.facts = objective.epoch_steps, objective.facts
        wanted = ((0, NORM_BATCHES), (PROXY_FIRST, PROXY_BATCHES))
        self._inputs = {
            first + number: image
            for first, count in wanted
            for number, image in enumerate(objective.some(count, first=first))
        }

    def batches(self, first_step: int, done: Done) -> Generator[Tensor, None, None]:
        step = first_step
        while True:
            yield self._inputs[step]
            step += 1

    def images(self, batch: Tensor) -> Tensor:
        return batch

    def true_loss(self, outputs: Sequence[Tensor], batch: Tensor) -> None:
        raise NotImplementedError("a trial does not train")

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        raise NotImplementedError("a trial is not evaluated")
