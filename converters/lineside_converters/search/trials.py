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
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

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
from lineside_converters.search.input_size import ResizedNetwork, shrunk
from lineside_converters.search.pareto import Point, front, hypervolume
from lineside_converters.search.remote_latency import TimedForm, time_on_device
from lineside_converters.search.space import SearchChoice, SearchSpace, widths_of
from lineside_converters.training.objective import as_tuple
from lineside_converters.training.progress import OnProgress, TrainingProgress
from lineside_models.datasets.base import evenly_spread
from lineside_runtime.decoding import decode_json
from lineside_runtime.files import write_atomic

NORM_BATCHES, PROXY_BATCHES = 3, 2
PROXY_FIRST = 1000
"""First batch on which the harm of a trial is measured."""

TIMED_ROUNDS = 8
TIMED_TOGETHER = 16
CALIBRATED_ON = 12


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


class UntimedTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A trial whose time is still to be measured.

    Attributes:
        int8: Its INT8 form, an ONNX file.
    """

    choice: SearchChoice
    harm: float
    int8: bytes


class TunedNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """Network of the shortlist: fine-tuned, quantised and evaluated.

    Attributes:
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
    """

    optimization: Context
    setup: DistillationSetup
    found: Sensitivity
    space: SearchSpace
    progress: ProgressReporter


def try_out(context: SearchContext, choice: SearchChoice) -> UntimedTrial:
    """Prunes and quantizes the network, and measures its distance from the whole one."""
    network = cut(context, choice)
    with tempfile.TemporaryDirectory(prefix="lineside-search-") as folder:
        int8 = quantised(context, network, choice, Path(folder)).read_bytes()
    return UntimedTrial(choice=choice, harm=harm_of(context, network.module, choice), int8=int8)


@torch.no_grad()
def harm_of(context: SearchContext, module: nn.Module, choice: SearchChoice) -> float:
    """Returns the distance of a network's answers from the whole one's.

    To five digits: the last ones depend on the number of threads, and must not choose.
    """
    sized = ResizedNetwork(module, choice.size).eval()
    setup = context.setup
    harms = [
        setup.distillation_loss.harm(as_tuple(sized(batch)), as_tuple(setup.teacher.eval()(batch)))
        for batch in setup.objective.some(PROXY_BATCHES, first=PROXY_FIRST)
    ]
    return float(f"{np.mean(harms):.5g}")


def time_trials(context: SearchContext, measured: Sequence[UntimedTrial]) -> list[SearchTrial]:
    """Times the INT8 forms of trials: on the device that times for this run, or here on every engine."""
    with tempfile.TemporaryDirectory(prefix="lineside-search-") as folder:
        paths = [Path(folder, f"{number}.onnx") for number in range(len(measured))]
        for each, path in zip(measured, paths, strict=True):
            path.write_bytes(each.int8)
        forms = [TimedForm(path, each.choice.size) for each, path in zip(measured, paths, strict=True)]
        if context.optimization.limits.clock is not None:
            times_ms = time_on_device(context.optimization, forms, context.setup.frames)
            fastest = list(zip((each.choice for each in measured), times_ms, strict=True))
        else:
            fastest = [fastest_engine(context, path, each.choice) for each, path in zip(measured, paths, strict=True)]
    return [
        SearchTrial(choice=choice, latency_ms=ms, harm=each.harm)
        for each, (choice, ms) in zip(measured, fastest, strict=True)
    ]


def fastest_engine(context: SearchContext, path: Path, choice: SearchChoice) -> tuple[SearchChoice, float]:
    """Returns the choice with the engine of the space that runs an INT8 model fastest, and its milliseconds."""
    on_each = [dataclasses.replace(choice, engine=engine) for engine in context.space.engines]
    times_ms = [measure(context, path, each) for each in on_each]
    fastest = int(np.argmin(times_ms))
    return on_each[fastest], times_ms[fastest]


def cut(context: SearchContext, choice: SearchChoice) -> PrunableNetwork:
    """Returns the network with the choice's widths and new batch-norm statistics."""
    network = narrowed(context.setup.network, context.found, widths_of(context.found, context.space, choice.kept))
    sized = ResizedNetwork(network.module, choice.size)
    count_norms_again(sized, context.setup.objective.some(NORM_BATCHES))
    return network


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
    """Opens an INT8 model on the engine of its choice."""
    optimization = context.optimization
    place, threads = execution_place(choice.engine, "cpu"), optimization.target.threads
    return open_model(path, place, optimization.manifest, precision="int8", threads=threads)


def measure(context: SearchContext, path: Path, choice: SearchChoice) -> float:
    """Returns the milliseconds of a frame: geometric mean over the sizes of the best times."""
    if context.optimization.limits.clock is not None:
        return time_on_device(context.optimization, [TimedForm(path, choice.size)], context.setup.frames)[0]
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
        finished: Each with its INT8 form beside its float one.

    Returns:
        The same with these latencies: geometric mean over the frames' sizes of the medians.
    """
    if context.optimization.limits.clock is not None:
        forms = [TimedForm(Path(each.model).with_name("int8.onnx"), each.choice.size) for each in finished]
        times_ms = time_on_device(context.optimization, forms, context.setup.frames, rounds=TIMED_TOGETHER)
        return [msgspec.structs.replace(each, latency_ms=ms) for each, ms in zip(finished, times_ms, strict=True)]
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
        on_progress=_step_counter(context.progress, folder.name),
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


def _step_counter(reporter: ProgressReporter, name: str) -> OnProgress:
    def count(progress: TrainingProgress) -> None:
        reporter.count(f"fine-tune {name}", progress.step + 1, progress.steps)

    return count


def points(finished: Sequence[TunedNetwork]) -> list[Point]:
    """Returns latency and metric of each."""
    return [(each.latency_ms, each.metric) for each in finished]
