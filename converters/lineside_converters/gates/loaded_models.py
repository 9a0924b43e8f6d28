"""Models loaded as they will run: one engine, one device, the target's threads."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lineside_converters.data.calibration_data import AnnotatedFrame
from lineside_converters.gates.checks import Feed, Run
from lineside_converters.progress import ProgressReporter
from lineside_converters.tasks import read_answer
from lineside_models.postprocess import Candidates
from lineside_models.preprocess import prepare
from lineside_runtime import registry
from lineside_runtime.backend import LoadOptions
from lineside_runtime.bundle import Manifest
from lineside_runtime.devices import Device, DeviceKind
from lineside_runtime.errors import NoDeviceError
from lineside_runtime.precision import Precision
from lineside_runtime.tensors import Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionPlace:
    """Engine and device that a model runs on.

    Attributes:
        wanted: Whether it is the kind of device that the target has.
    """

    engine: str
    device: Device
    wanted: bool

    def __str__(self) -> str:
        """Returns for example ``ort/cpu:0``."""
        return f"{self.engine}/{self.device}"


def execution_place(engine: str, kind: DeviceKind) -> ExecutionPlace:
    """Returns where a model for this kind of device runs here: on one of that kind, else on the CPU."""
    devices = [device for device in registry.backend(engine).probe() if not device.emulated]
    wanted = next((device for device in devices if device.kind == kind), None)
    device = wanted or next((device for device in devices if device.kind == "cpu"), None)
    if device is None:
        raise NoDeviceError(f"{engine} finds no device here", expected=f"{kind} or cpu")
    return ExecutionPlace(engine=engine, device=device, wanted=wanted is not None)


@contextlib.contextmanager
def open_model(
    model: Path, place: ExecutionPlace, manifest: Manifest, *, precision: Precision, threads: int
) -> Iterator[Run]:
    """Loads a model while the block runs, and yields the function that runs it."""
    options = LoadOptions(
        threads=threads if place.device.kind == "cpu" else None,
        precision=precision,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        mean=manifest.preprocess.mean,
        std=manifest.preprocess.std,
    )
    executable = registry.backend(place.engine).load(model, place.device, options)
    try:
        yield executable.run
    finally:
        executable.close()


class CachedModel:
    """A model whose outputs are computed once for each input, as all variants are compared with them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._outputs: dict[int, tuple[Feed, dict[str, Array]]] = {}

    def __call__(self, feed: Feed) -> dict[str, Array]:
        """Returns the outputs for an input, by the input's identity."""
        if id(feed) not in self._outputs:
            self._outputs[id(feed)] = (feed, self._run(feed))
        return self._outputs[id(feed)][1]


def answer_frames(
    runs: Mapping[str, Run], frames: Sequence[AnnotatedFrame], manifest: Manifest, progress: ProgressReporter, what: str
) -> tuple[list[AnnotatedFrame], dict[str, list[Candidates]]]:
    """Returns the frames' annotations and each model's answers; every image is read once."""
    truths: list[AnnotatedFrame] = []
    answers: dict[str, list[Candidates]] = {name: [] for name in runs}
    for frame in progress.through(frames, what):
        tensor, letterbox = prepare(frame.frame.image, manifest.preprocess)
        for name, run in runs.items():
            outputs = run({manifest.preprocess.input: tensor})
            answers[name].append(read_answer(outputs, manifest, letterbox, frame.mask))
        truths.append(frame.without_image())
    return truths, answers
