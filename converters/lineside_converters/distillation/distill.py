"""``lineside distill``: train a smaller student on a teacher's outputs.

The student learns the teacher's answers (logits; a detector's score and distance distributions), what is true where
annotated data is given, and, through learnt projections, the teacher's features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch_pruning
from torch import Tensor, nn

from lineside_converters.data.calibration_data import gather_inputs
from lineside_converters.distillation.losses import DistillationLoss, distillation_loss_for
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.loading.source import open_source
from lineside_converters.pruning.channel_groups import find_groups, remove
from lineside_converters.pruning.sensitivity import rank_channels, weakest
from lineside_converters.pruning.structured import fold_norms
from lineside_converters.pruning.torch_graph import PrunableNetwork, close_network, count_norms_again, open_network
from lineside_converters.training.loop import CHECKPOINT
from lineside_converters.training.objective import TrainingObjective, as_tuple
from lineside_converters.training.objective_selection import objective_for
from lineside_converters.training.progress import OnProgress
from lineside_models.networks.classifier import resnet18
from lineside_models.vision.model_facts import METADATA_KEY, ModelFacts
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import (
    ConfigError,
    InputError,
    InputNotFoundError,
    MissingExtraError,
    UnsupportedModelError,
)
from lineside_runtime.files import write_atomic

RUN = "run.json"
"""What a run in a folder is of."""

FRAMES = 48
NORM_BATCHES = 6
DEFAULT = DistillationSettings(learning_rate=1.5e-3, true_weight=0.5, teach_weight=1.0, feature_weight=0.1, epochs=30)

STUDENTS = "narrow@SHARE, resnet18[@WIDTH], timm:NAME, or an .onnx file"


class DistillResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `distill`.

    Attributes:
        onnx: The student's graph, with the teacher's facts in its metadata.
        teacher_macs: Multiply-accumulates of one frame.
        teacher: Figures of the teacher on what was kept aside.
        curve: The student's figures at each evaluation.
    """

    onnx: str
    teacher_macs: int
    student_macs: int
    teacher: dict[str, float]
    student: dict[str, float]
    curve: list[dict[str, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class DistillationSetup:
    """A teacher, the data, and the loss between teacher and student.

    Attributes:
        network: Network of the teacher, with its batch norms put back.
        teacher: The same network, batch norms folded.
        distillation_loss: Distance of a student's outputs from the teacher's.
        frames: Prepared inputs, one of each size.
    """

    manifest: Manifest
    network: PrunableNetwork
    teacher: nn.Module
    distillation_loss: DistillationLoss
    objective: TrainingObjective[Any]
    frames: list[Tensor]


def open_distillation(
    model: Path, data: Sequence[Path], *, batch: int, seed: int, trust: bool = False
) -> DistillationSetup:
    """Opens a model as a teacher.

    Args:
        model: A bundle's folder, a ``.lsb``, ``.onnx`` or ``.pt`` file.
        data: Annotated data; without any, the line simulator's frames.
        trust: Read a ``.pt`` although reading it can run code from it.

    Raises:
        InputError: The model or the data can't be used.
        PruningError: The model has no form that could be trained.
    """
    with tempfile.TemporaryDirectory(prefix="lineside-distillation-") as folder:
        source = open_source(model, Path(folder, "source"), given=ModelFacts(), trust=trust)
        inputs = gather_inputs(source.manifest, limit=FRAMES, data=tuple(data))
        frames = [torch.from_numpy(next(iter(feed.values()))) for feed in inputs.calibration]
        clean = Path(folder, "clean.onnx")
        clean_graph(source.model, clean)
        return distillation_setup(clean, source.manifest, data, frames, batch=batch, seed=seed)


def distillation_setup(
    clean: Path, manifest: Manifest, data: Sequence[Path], frames: Sequence[Tensor], *, batch: int, seed: int
) -> DistillationSetup:
    """Returns a cleaned float graph as a teacher; see `open_distillation`."""
    network = open_network(clean, frames[:16])
    teacher = fold_norms(network.copy().module).eval().requires_grad_(False)
    with torch.no_grad():
        distillation_loss = distillation_loss_for(manifest.postprocess.name, as_tuple(teacher(frames[0])))
    objective = objective_for(manifest, data, frames, teacher, distillation_loss, batch=batch, seed=seed)
    sizes = {tuple(frame.shape): frame for frame in reversed(frames)}
    return DistillationSetup(manifest, network, teacher, distillation_loss, objective, list(sizes.values())[::-1])


def distill(
    setup: DistillationSetup,
    student: PrunableNetwork,
    *,
    out: Path,
    settings: DistillationSettings,
    on_progress: OnProgress,
) -> DistillResult:
    """Trains a student on a teacher's answers; writes ``student.onnx`` and ``distill.json`` into ``out``.

    Args:
        out: Folder; a run that stands there is gone on with.

    Raises:
        TrainingError: The loss is no number any more, or the checkpoint is of another network.
    """
    curve = train_student(
        student.module,
        setup.teacher,
        setup.objective,
        setup.distillation_loss,
        settings=settings,
        out=out,
        on_progress=on_progress,
    )
    onnx = out / "student.onnx"
    close_network(student, onnx, setup.frames)
    result = DistillResult(
        onnx=str(onnx),
        teacher_macs=macs(setup.teacher, setup.frames[0]),
        student_macs=macs(student.module, setup.frames[0]),
        teacher=setup.objective.evaluate(setup.teacher),
        student=setup.objective.evaluate(student.module),
        curve=curve,
    )
    facts = {"settings": settings.as_dict(), "data": setup.objective.facts} | msgspec.to_builtins(result)
    write_atomic(out / "distill.json", json.dumps(facts | {"onnx": onnx.name}, indent=2).encode())
    return result


def check_run(
    setup: DistillationSetup,
    *,
    student: str,
    data: Sequence[Path],
    batch: int,
    settings: DistillationSettings,
    out: Path,
) -> None:
    """Refuses to go on in ``out`` with another teacher, student or data, and notes what a new run there is of.

    Without this check a second call would return the first one's student.

    Raises:
        InputError: ``out`` holds another run.
    """
    weights = hashlib.sha256()
    for tensor in setup.teacher.state_dict().values():
        weights.update(tensor.contiguous().numpy().tobytes())
    fixed = ("true_weight", "teach_weight", "feature_weight", "seed")
    now: dict[str, Any] = {"teacher": weights.hexdigest(), "student": student, "batch": batch}
    now |= {"data": [folder.resolve().name for folder in data]}
    now |= {name: getattr(settings, name) for name in fixed}
    file = out / RUN
    before = json.loads(file.read_bytes()) if file.is_file() and (out / CHECKPOINT).is_file() else now
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(
                f"{out} holds a distillation with another {name}",
                expected=before.get(name),
                actual=value,
                action="Give another --out, or the same options to go on with that run.",
            )
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(now, indent=2).encode())


def open_student(wanted: str, setup: DistillationSetup, *, seed: int) -> PrunableNetwork:
    """Returns a student by its name.

    Args:
        wanted: ``narrow@SHARE``: the teacher with this share of each group of channels, those that matter most;
            ``resnet18`` or ``resnet18@WIDTH``, ``timm:NAME``: random weights; or an ``.onnx`` file with its weights.

    Raises:
        ConfigError: There is no such student.
        UnsupportedModelError: Its outputs are not the teacher's.
    """
    kind, _, share = wanted.partition("@")
    if kind == "narrow":
        student = _narrow(setup, _number(wanted, share, 0.05, 0.95), seed)
    elif wanted.endswith(".onnx"):
        if not Path(wanted).is_file():
            raise InputNotFoundError(f"no model at {wanted}")
        student = open_network(Path(wanted), setup.frames)
    elif kind == "resnet18":
        width = _number(wanted, share or "1", 0.1, 4.0)
        student = _around(resnet18(len(setup.manifest.labels), width=width, seed=seed), setup)
    elif wanted.startswith("timm:"):
        student = _around(_timm(wanted.removeprefix("timm:"), setup, seed), setup)
    else:
        raise ConfigError("student", expected=STUDENTS, actual=repr(wanted))
    _check_outputs(student, setup)
    return student


def _number(wanted: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= high:
        raise ConfigError("student", expected=f"a number {low:g} to {high:g} behind the @", actual=repr(wanted))
    return value


def _narrow(setup: DistillationSetup, share: float, seed: int) -> PrunableNetwork:
    student = setup.network.copy()
    groups = find_groups(student.module, student.example).groups
    ranks = rank_channels(student.module, groups, setup.objective.some(4), setup.distillation_loss, seed=seed)
    dropped = {
        group.name: weakest(ranks[group.name], group.width - max(1, round(group.width * share))) for group in groups
    }
    remove(student.module, student.example, dropped)
    count_norms_again(student.module, setup.objective.some(NORM_BATCHES))
    return student


def _around(module: nn.Module, setup: DistillationSetup) -> PrunableNetwork:
    facts = ModelFacts(
        labels=setup.manifest.labels,
        preprocess=setup.manifest.preprocess,
        postprocess=setup.manifest.postprocess,
    )
    metadata = {METADATA_KEY: msgspec.json.encode(facts).decode()}
    return dataclasses.replace(setup.network, module=module, metadata=metadata)


def _timm(name: str, setup: DistillationSetup, seed: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm is not installed", action="Run pip install 'lineside[train]'.") from error
    channels = setup.frames[0].shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module: nn.Module = timm.create_model(
                name, pretrained=False, num_classes=len(setup.manifest.labels), in_chans=channels
            )
        except RuntimeError as error:
            raise ConfigError("student", expected="a model that timm knows", actual=name) from error
    return module


@torch.no_grad()
def _check_outputs(student: PrunableNetwork, setup: DistillationSetup) -> None:
    frame = setup.frames[0]
    try:
        found = [tuple(output.shape) for output in as_tuple(student.module.eval()(frame))]
    except RuntimeError as error:
        raise UnsupportedModelError("the student does not take the teacher's input", actual=str(error)) from error
    wanted = [tuple(output.shape) for output in as_tuple(setup.teacher(frame))]
    if found != wanted:
        raise UnsupportedModelError("the student's outputs are not the teacher's", expected=wanted, actual=found)


def macs(module: nn.Module, frame: Tensor) -> int:
    """Counts the multiply-accumulates of a frame, as torch-pruning does."""
    return int(torch_pruning.utils.count_ops_and_params(module.eval(), frame)[0])
