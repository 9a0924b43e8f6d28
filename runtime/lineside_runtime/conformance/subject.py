"""The subject of the checks: an engine on one of its devices, with the networks that it can read."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lineside_runtime import registry
from lineside_runtime.backend import Backend, Executable
from lineside_runtime.conformance.kit import CheckFailed
from lineside_runtime.conformance.models import ConformanceModel, find
from lineside_runtime.conformance.networks import TOLERANCE
from lineside_runtime.devices import Device
from lineside_runtime.errors import LinesideError, NoDeviceError, UnsupportedModelError
from lineside_runtime.tensors import Array

log = logging.getLogger("lineside.conformance")


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSubject:
    """An engine on a device.

    Attributes:
        device: Where its models run.
        models: The networks that it runs here; at least one.
        refused: Networks that there is a file for and that it doesn't read, with its reason.
    """

    backend: Backend
    device: Device
    models: tuple[ConformanceModel, ...]
    refused: Mapping[str, str]

    def __str__(self) -> str:
        """Returns for example ``ncnn/gpu:0``."""
        return f"{self.backend.name}/{self.device}"

    @property
    def in_this_process(self) -> bool:
        """Whether the engine's threads and memory are this process's."""
        return not type(self.backend).__module__.startswith("lineside_runtime.engine_process")

    @property
    def simplest(self) -> ConformanceModel:
        """The network for checks that need only one."""
        return self.models[0]

    @property
    def largest(self) -> ConformanceModel:
        """The network with the most work in it, which comes last but for precision."""
        return max(self.models, key=lambda model: sum(int(abs(np.prod(spec.shape))) for spec in model.network.outputs))

    @contextmanager
    def loaded(self, model: ConformanceModel, **options: object) -> Iterator[Executable]:
        """Loads a model, and closes it in the end; ``options`` are fields of `LoadOptions`."""
        executable = self.backend.load(model.file, self.device, model.options(**options))
        try:
            yield executable
        finally:
            executable.close()


def subject(
    engine: str | Backend,
    device: str | None = None,
    *,
    folder: Path | None = None,
    files: Mapping[str, Path] | None = None,
) -> EngineSubject:
    """Returns the subject of the checks.

    Args:
        engine: Its name, or the engine itself.
        device: Such as ``gpu:0``; the first that it finds if ``None``.
        folder: Where networks in its own format lie, named as in `lineside_runtime.conformance.networks`.
        files: Network to file; stands before the folder.

    Raises:
        EngineMissingError: It isn't installed.
        NoDeviceError: It finds no such device.
        UnsupportedModelError: It reads none of the networks that it was given.
        InputError: A file isn't there.
    """
    backend = registry.backend(engine) if isinstance(engine, str) else engine
    devices = backend.probe()
    chosen = [one for one in devices if device in (None, str(one))]
    if not chosen:
        raise NoDeviceError(
            f"{backend.name} finds no such device", expected=", ".join(map(str, devices)), actual=device, action=""
        )
    return _tried(backend, chosen[0], find(backend, folder=folder, named=files))


def _tried(backend: Backend, device: Device, models: tuple[ConformanceModel, ...]) -> EngineSubject:
    """Loads each once, to distinguish a network that the engine can't read from one that it computes wrongly."""
    read: list[ConformanceModel] = []
    refused: dict[str, str] = {}
    for model in models:
        try:
            backend.load(model.file, device, model.options()).close()
        except UnsupportedModelError as error:  # noqa: PERF203  five networks
            refused[model.network.name] = error.message
        except LinesideError as error:
            log.warning("%s on %s/%s: %s", model.network.name, backend.name, device, error)
            read.append(model)  # the checks will say so
        else:
            read.append(model)
    if not read:
        raise UnsupportedModelError(f"{backend.name}/{device} reads none of the networks", actual=refused)
    return EngineSubject(backend, device, tuple(read), refused)


def worst_error(answers: Mapping[str, Array], model: ConformanceModel, inputs: Mapping[str, Array]) -> float:
    """Returns the largest error of an element, as a share of the output's largest magnitude.

    Raises:
        CheckFailed: An output is missing, of another shape or type, or not finite.
    """
    expected = model.network.compute(inputs)
    if answers.keys() != expected.keys():
        raise CheckFailed(f"outputs: expected {sorted(expected)}, got {sorted(answers)}")
    worst = 0.0
    for name, right in expected.items():
        answer = answers[name]
        if not isinstance(answer, np.ndarray) or answer.shape != right.shape or answer.dtype != right.dtype:
            actual = f"{getattr(answer, 'shape', type(answer).__name__)} {getattr(answer, 'dtype', '')}"
            raise CheckFailed(f"output {name!r}: expected {right.shape} {right.dtype}, got {actual}")
        error = np.abs(np.asarray(answer, np.float64) - np.asarray(right, np.float64)).max()
        worst = max(worst, float(error / np.abs(np.asarray(right, np.float64)).max()))
        if not np.isfinite(error):
            raise CheckFailed(f"output {name!r} has values that are no numbers")
    return worst


def expect_right(
    answers: Mapping[str, Array], model: ConformanceModel, inputs: Mapping[str, Array], when: str = ""
) -> float:
    """Compares answers with what the network computes, and returns the worst error.

    Raises:
        CheckFailed: They differ by more than the precision allows.
    """
    allowed = TOLERANCE[model.network.precision]
    worst = worst_error(answers, model, inputs)
    if worst > allowed:
        raise CheckFailed(f"{model.network.name}{when}: wrong by {worst:.2g} of the largest value, allowed {allowed:g}")
    return worst


@contextmanager
def expect(*kinds: type[LinesideError], what: str) -> Iterator[None]:
    """Expects a `LinesideError`.

    Raises:
        CheckFailed: None is raised, or another `LinesideError`. Other exceptions pass.
    """
    wanted = " or ".join(f"{kind.__name__} ({kind.code})" for kind in kinds)
    try:
        yield
    except kinds:
        return
    except LinesideError as error:
        raise CheckFailed(f"{what}: expected {wanted}, got {type(error).__name__}: {error}") from error
    raise CheckFailed(f"{what}: expected {wanted}, and it was accepted")
