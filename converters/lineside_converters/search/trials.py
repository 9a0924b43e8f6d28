"""Level 3: a search over pruning by stage, quantisation, input size and engine, for the front of accuracy and latency.

- Latency is measured: each trial is exported, quantised and timed on its engine.
- What a trial's network answers right after it was cut (its batch norms counted again) only ranks trials. Accuracy that
  is inherited misleads, so the shortlist is fine-tuned, quantised and judged on the held-out share of the train fold;
  only those figures make the front.
- Trials are kept in SQLite by Optuna and trainings in checkpoints: a search that is killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
import onnxruntime
import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lineside_converters.context import Context
from lineside_converters.distillation.distill import DistillationSetup
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.gates.checks import Feed, Run, time_together
from lineside_converters.gates.loaded_models import execution_place, open_model
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.progress import ProgressReporter
from lineside_converters.pruning.structured import Sensitivity, narrowed
from lineside_converters.pruning.torch_graph import PrunableNetwork, close_network, count_norms_again
from lineside_converters.quantization.static import first_convs, quantize
from lineside_converters.search.pareto import Point, front, hypervolume
from lineside_converters.search.space import SearchChoice, SearchSpace, widths_of
from lineside_converters.training.objective import as_tuple
from lineside_converters.training.progress import OnProgress, TrainingProgress
from lineside_models.datasets.base import evenly_spread
from lineside_runtime.decoding import decode_json
from lineside_runtime.files import write_atomic

KEPT = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2)
"""Shares of a stage's time that a trial may leave."""

NORM_BATCHES, PROXY_BATCHES = 3, 2
TIMED_ROUNDS = 8
TIMED_TOGETHER = 16
CALIBRATED_ON = 12
POPULATION = 12

Sampler = Literal["nsga2", "random"]


class SearchTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A trial, not trained.

    Attributes:
        choice: The choice, with the fastest engine.
        latency_ms: Measured on it.
        harm: Distance from the whole model's outputs, before fine-tuning.
    """

    choice: SearchChoice
    latency_ms: float
    harm: float


class TunedNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """Network of the shortlist: fine-tuned, quantised and evaluated.

    Attributes:
        choice: The choice.
        latency_ms: Measured, INT8.
        metric: Of the INT8 model on the held-out share.
        model: Its cleaned float graph.
    """

    choice: SearchChoice
    latency_ms: float
    metric: float
    model: str


@dataclasses.dataclass(frozen=True, slots=True)
class SearchContext:
    """Context of all trials.

    Attributes:
        optimization: The model, its calibration inputs and its target.
        setup: The whole network as a teacher, and the data.
        found: Its sensitivity.
        space: The choices.
        progress: Receives progress.
    """

    optimization: Context
    setup: DistillationSetup
    found: Sensitivity
    space: SearchSpace
    progress: ProgressReporter


def search(
    context: SearchContext,
    folder: Path,
    *,
    sampler: Sampler,
    trials: int,
    seed: int,
    measure_trial: Callable[[SearchContext, SearchChoice], SearchTrial] | None = None,
) -> list[SearchTrial]:
    """Run trials up to a number, resuming those of an earlier call.

    A proposal follows from the seed and the trials before it: a search that was killed proposes what it would have
    proposed, and a longer one begins with the trials of a shorter one.

    Args:
        context: Context of the trials.
        folder: Holds ``<sampler>-<seed>.db``.
        sampler: Sampler that proposes trials.
        trials: Number of trials, resumed ones included.
        seed: Of the proposals.
        measure_trial: Measures a choice; `try_out` if not given.

    Returns:
        So many trials, in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder / f'{sampler}-{seed}.db'}"
    with _quiet(), contextlib.closing(_Store(storage)) as store:
        study = optuna.create_study(
            storage=store.storage, study_name=sampler, load_if_exists=True, directions=["minimize", "minimize"]
        )
        tried = [_tried(each) for each in study.trials if each.state == optuna.trial.TrialState.COMPLETE]
        _end_killed(study)
        starts = _starts(context.space) if sampler != "random" else []
        while len(tried) < trials:
            study.sampler = _sampler(sampler, seed + len(tried))
            if len(tried) < len(starts) and not study.get_trials(states=[optuna.trial.TrialState.WAITING]):
                study.enqueue_trial(starts[len(tried)])
            trial = study.ask()
            choice = _choose(trial, context.space)
            it = (measure_trial or try_out)(context, choice)
            trial.set_user_attr("choice", msgspec.json.encode(it.choice).decode())
            study.tell(trial, [it.latency_ms, it.harm])
            tried.append(it)
            context.progress.count(f"search ({sampler})", len(tried), trials)
    return tried[:trials]


def _end_killed(study: optuna.Study) -> None:
    """Ends the trials that a killed process left, so that the next one is proposed again."""
    for each in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(each.number, state=optuna.trial.TrialState.FAIL)


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


def _starts(space: SearchSpace) -> list[dict[str, Any]]:
    """Returns the first trials: every stage left with the same share of its time, as level 2 does.

    The sensitivity curves have shared out what is inside a stage, and few other choices beat these. Smaller pictures
    begin with less, as that is where they are fastest. The whole network is judged apart.
    """
    plain: dict[str, Any] = {"method": space.methods[0], "float_convs": space.float_convs[0]}
    plain |= {f"without {name}": False for name in space.blocks}
    shares = [(size, share) for size in space.sizes for share in (KEPT[1:] if size == space.sizes[0] else KEPT[-2:])]
    return [
        {f"stage{number}": share for number in range(len(space.stages))} | {"size": size} | plain
        for size, share in shares
    ]


def _choose(trial: optuna.Trial, space: SearchSpace) -> SearchChoice:
    return SearchChoice(
        kept=tuple(trial.suggest_categorical(f"stage{number}", KEPT) for number in range(len(space.stages))),
        size=trial.suggest_categorical("size", space.sizes),
        method=trial.suggest_categorical("method", space.methods),
        float_convs=trial.suggest_categorical("float_convs", space.float_convs),
        engine=space.engines[0],
        skipped=tuple(name for name in space.blocks if trial.suggest_categorical(f"without {name}", (False, True))),
    )


def _tried(trial: optuna.trial.FrozenTrial) -> SearchTrial:
    choice = decode_json(trial.user_attrs["choice"], type=SearchChoice)
    return SearchTrial(choice=choice, latency_ms=trial.values[0], harm=trial.values[1])


@contextlib.contextmanager
def _quiet() -> Any:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def try_out(context: SearchContext, choice: SearchChoice) -> SearchTrial:
    """Prunes the network, times its INT8 form on every engine, and measures its distance from the whole one."""
    network = cut(context, choice)
    with _workshop() as folder:
        path = quantised(context, network, choice, folder)
        on_each = [dataclasses.replace(choice, engine=engine) for engine in context.space.engines]
        took_ms = [measure(context, path, each) for each in on_each]
    fastest = int(np.argmin(took_ms))
    batches = context.setup.objective.some(PROXY_BATCHES, first=1000)
    sized = ResizedNetwork(network.module, choice.size)
    harms = [
        context.setup.distillation_loss.harm(_answer(sized, batch), _answer(context.setup.teacher, batch))
        for batch in batches
    ]
    return SearchTrial(choice=on_each[fastest], latency_ms=took_ms[fastest], harm=float(np.mean(harms)))


def cut(context: SearchContext, choice: SearchChoice) -> PrunableNetwork:
    """Returns the network with the choice's widths and new batch-norm statistics."""
    network = narrowed(context.setup.network, context.found, widths_of(context.found, context.space, choice.kept))
    sized = ResizedNetwork(network.module, choice.size)
    count_norms_again(sized, context.setup.objective.some(NORM_BATCHES))
    return network


class ResizedNetwork(nn.Module):
    """Network with a smaller input."""

    def __init__(self, module: nn.Module, share: float) -> None:
        """Takes the network and the share of the side."""
        super().__init__()
        self.module = module
        self._share = share

    def forward(self, image: Tensor) -> Any:
        """Shrinks the picture and runs the network."""
        return self.module(shrunk(image, self._share))


def shrunk(image: Tensor, share: float) -> Tensor:
    """Returns pictures ``(B, C, H, W)`` scaled to a share of their sides, in multiples of 8."""
    if share == 1:
        return image
    size = [max(8, round(side * share / 8) * 8) for side in image.shape[2:]]
    return F.interpolate(image, size, mode="area")


def quantised(context: SearchContext, network: PrunableNetwork, choice: SearchChoice, folder: Path) -> Path:
    """Writes a network's INT8 form into a folder, its cleaned float form beside it as ``clean.onnx``."""
    frames = [shrunk(frame, choice.size) for frame in context.setup.frames]
    close_network(network, folder / "float.onnx", frames)
    clean_graph(folder / "float.onnx", folder / "clean.onnx")
    feeds = context.optimization.inputs.calibration
    some = evenly_spread(feeds, CALIBRATED_ON)
    name = network.input_name
    quantize(
        folder / "clean.onnx",
        folder / "int8.onnx",
        feeds=[{name: shrunk(torch.from_numpy(feed[name]), choice.size).numpy()} for feed in some],
        method=choice.method,  # type: ignore[arg-type]  # one of the recipe's
        activation=context.optimization.target.activation,
        per_channel=context.optimization.target.per_channel,
        exclude=first_convs(onnx.load(folder / "clean.onnx"), choice.float_convs),
    )
    return folder / "int8.onnx"


def _opened(context: SearchContext, path: Path, choice: SearchChoice) -> contextlib.AbstractContextManager[Run]:
    """Open an INT8 model on the engine of its choice."""
    optimization = context.optimization
    place, threads = execution_place(choice.engine, "cpu"), optimization.target.threads
    return open_model(path, place, optimization.manifest, precision="int8", threads=threads)


def measure(context: SearchContext, path: Path, choice: SearchChoice) -> float:
    """Returns the milliseconds of a frame: geometric mean over the sizes of the best times."""
    name = context.setup.network.input_name
    with _opened(context, path, choice) as run:
        best = []
        for frame in context.setup.frames:
            feed = {name: shrunk(frame, choice.size).numpy()}
            best.append(float(time_together({"it": run}, [feed], rounds=TIMED_ROUNDS)["it"].samples_ms.min()))
    return math.exp(float(np.mean(np.log(best))))


def measure_together(context: SearchContext, finished: Sequence[TunedNetwork]) -> list[TunedNetwork]:
    """Times networks again, interleaved: times measured an hour apart are not comparable.

    Args:
        context: Context of the networks.
        finished: Each with its INT8 form beside its float one.

    Returns:
        The same with these latencies: geometric mean over the frames' sizes of the medians.
    """
    name = context.setup.network.input_name
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(_opened(context, Path(each.model).with_name("int8.onnx"), each.choice))
            for each in finished
        ]
        logs = np.zeros((len(context.setup.frames), len(finished)))
        for row, frame in enumerate(context.setup.frames):
            seen = [{name: shrunk(frame, each.choice.size).numpy()} for each in finished]
            timed = {str(at): _fed(run, feed) for at, (run, feed) in enumerate(zip(runs, seen, strict=True))}
            times = time_together(timed, [{}], rounds=TIMED_TOGETHER)
            logs[row] = [math.log(times[str(at)].mean_of_medians_ms) for at in range(len(finished))]
    latencies = np.exp(logs.mean(0))
    return [msgspec.structs.replace(each, latency_ms=float(ms)) for each, ms in zip(finished, latencies, strict=True)]


def _fed(run: Run, feed: Feed) -> Run:
    """Returns a call of a model on its own input: each has its own size."""
    return lambda _: run(feed)


def shortlist(tried: Sequence[SearchTrial], count: int) -> list[SearchTrial]:
    """Returns at most so many trials of the front of latency and harm, the fastest first.

    That is the fastest one, then always the one with which they cover most of the plane together: where the front has a
    knee, and not where it has many points.
    """
    points = [(each.latency_ms, -each.harm) for each in tried]
    kept = front(points)
    if len(kept) <= count:
        return [tried[index] for index in kept]
    ends = [points[index] for index in kept]
    reference = (1.05 * max(latency for latency, _ in ends), min(metric for _, metric in ends) - 1e-9)
    chosen, rest = [kept[0]], kept[1:]
    while len(chosen) < count:
        best = max(rest, key=lambda index: hypervolume([points[each] for each in (*chosen, index)], reference))
        chosen.append(best)
        rest.remove(best)
    return [tried[index] for index in sorted(chosen, key=kept.index)]


def claim(folder: Path, choice: SearchChoice, settings: DistillationSettings, start: str = "") -> str:
    """Makes a folder for a training; what another one left there, in another search, is removed.

    Args:
        start: Identifies the weights that it begins with; empty for those of the whole network.

    Returns:
        What identifies the training.
    """
    content = msgspec.json.encode({"choice": choice, "settings": settings.as_dict(), "start": start})
    note = folder / "training.json"
    if folder.exists() and not (note.exists() and note.read_bytes() == content):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(note, content)
    return hashlib.sha256(content).hexdigest()


def finish(
    context: SearchContext, choice: SearchChoice, folder: Path, *, settings: DistillationSettings
) -> TunedNetwork:
    """Fine-tunes, quantises and evaluates one choice, or reads the result of an earlier call."""
    claim(folder, choice, settings)
    done = folder / "finished.json"
    if done.exists():
        return decode_json(done.read_bytes(), type=TunedNetwork)
    network = cut(context, choice)
    setup = context.setup
    train_student(
        ResizedNetwork(network.module, choice.size),
        setup.teacher,
        setup.objective,
        setup.distillation_loss,
        settings=settings,
        out=folder,
        on_progress=_teller(context.progress, folder.name),
    )
    path = quantised(context, network, choice, folder)
    result = TunedNetwork(
        choice=choice,
        latency_ms=measure(context, path, choice),
        metric=score(context, path, choice),
        model=str(folder / "clean.onnx"),
    )
    write_atomic(done, msgspec.json.encode(result))
    return result


def score(context: SearchContext, path: Path, choice: SearchChoice) -> float:
    """Returns the mean of the objective's figures of a model file on the held-out share."""
    runner = OnnxModule(path, context.setup.network, choice.size)
    return float(np.mean(list(context.setup.objective.evaluate(runner).values())))


class OnnxModule(nn.Module):
    """ONNX file as a module, so that an objective can evaluate it."""

    def __init__(self, path: Path, network: PrunableNetwork, share: float = 1.0) -> None:
        """Loads the file.

        Args:
            path: Of an ONNX file.
            network: Its network, which names the inputs and outputs.
            share: Share of the pictures' sides.
        """
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._network, self._share = network, share

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Runs the file."""
        feed = {self._network.input_name: shrunk(image, self._share).contiguous().numpy()}
        found = self._session.run(list(self._network.output_names), feed)
        return tuple(torch.from_numpy(each) for each in found)


@torch.no_grad()
def _answer(module: nn.Module, batch: Tensor) -> tuple[Tensor, ...]:
    return as_tuple(module.eval()(batch))


@contextlib.contextmanager
def _workshop() -> Any:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="lineside-search-") as folder:
        yield Path(folder)


def _teller(reporter: ProgressReporter, name: str) -> OnProgress:
    def tell(progress: TrainingProgress) -> None:
        reporter.count(f"fine-tune {name}", progress.step + 1, progress.steps)

    return tell


def points(finished: Sequence[TunedNetwork]) -> list[Point]:
    """Returns latency and metric of each."""
    return [(each.latency_ms, each.metric) for each in finished]
