"""The plug point for engines: `Backend` and `Executable`.

An engine implements the private methods only. The public ones are concrete: they map the vendor's exceptions to ours,
so that no declared exception of a vendor gets out.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from lineside_runtime.devices import Device
from lineside_runtime.errors import InputNotFoundError, LinesideError, NoDeviceError, PartialFallbackError
from lineside_runtime.precision import Precision
from lineside_runtime.tensors import Array, TensorSpec

Stage = Literal["probe", "load", "run"]
Fetch = Callable[[], dict[str, Array]]


class LoadOptions(msgspec.Struct, frozen=True):
    """What a model is loaded with.

    Attributes:
        threads: Threads of one call on a CPU; ``None`` leaves it to the engine.
        precision: The variant's precision; some engines need to be told not to round a float model.
        cores: Numbers of the processor cores that a call on a CPU may use; ``None`` leaves it to the system.
        operator_libraries: Third parties' operators as the engine takes them, such as a shared library.
        profile: Whether the engine is to time each operator, for `Executable.operators`; costs speed.
        inputs: What the manifest says of the model's inputs, for engines whose files don't; empty if not known.
        outputs: The same of its outputs.
        mean: What the bundle's pre-processing takes from a pixel, 0 to 255, for engines that take pixels: one value, or
            one a channel. Empty if it isn't known.
        std: What it then divides by.
        whole: Whether an engine that can run only a part of the model must refuse it (`PartialFallbackError`). If not,
            it leaves the rest to the CPU and reports that in `Executable.shortfall`.
        calls: Calls that are to run at once on a CPU, for engines that must be told (OpenVINO's streams, ONNX Runtime's
            arena).
    """

    threads: int | None = None
    precision: Precision = "fp32"
    cores: tuple[int, ...] | None = None
    operator_libraries: tuple[Path, ...] = ()
    profile: bool = False
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    whole: bool = False
    calls: int = 1


class OperatorTime(msgspec.Struct, frozen=True):
    """Time of one operator of a loaded model, by the engine's own clock.

    Attributes:
        name: The operator's name in the graph that the engine runs.
        kind: Its type, such as ``Conv``.
        calls: How often it ran.
        mean_us: Mean microseconds of one call.
    """

    name: str
    kind: str
    calls: int
    mean_us: float


class Compatibility(msgspec.Struct, frozen=True):
    """Versions of an engine's driver and libraries, and whether they are compatible.

    Attributes:
        versions: Name of a driver or library to its version, as found here; empty text where it isn't there.
        fits: ``None`` where nothing can be incompatible, or it can't be determined.
        advice: What to install if they are incompatible, or what can't be determined.
    """

    versions: Mapping[str, str]
    fits: bool | None = None
    advice: str = ""


class Backend(abc.ABC):
    """An engine.

    Attributes:
        name: Short name, such as ``ort``; stands before the device in ``ort/cpu:0``.
        package: Key under which a bundle's ``requires`` names this engine.
        formats: The variant formats that it reads.
        untested_kinds: Kinds of device on which the engine is untested; `lineside devices` reports them.
        conformance_models: Folder with the networks of `lineside_runtime.conformance` in a format that only this
            engine reads; ``None`` where the suite has them in one of `formats`.
    """

    name: str
    package: str
    formats: frozenset[str]
    untested_kinds: frozenset[str] = frozenset()
    conformance_models: Path | None = None

    @property
    @abc.abstractmethod
    def version(self) -> str:
        """Version of the installed engine."""

    def probe(self) -> list[Device]:
        """Returns the devices that the engine can use here, without loading a model.

        Raises:
            DeviceError: The engine is installed but does not start.
        """
        with self._boundary("probe"):
            return self._probe()

    def load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        """Loads a model onto a device.

        Args:
            device: One of those that `probe` returned.

        Raises:
            InputNotFoundError: There is no such file, or no such operator library.
            UnsupportedModelError: The engine can't read the file.
            DeviceError: The device has no room, is gone, or the engine failed.
        """
        if not model.exists():
            raise InputNotFoundError(f"no model at {model}")
        for library in options.operator_libraries:
            if not library.exists():
                raise InputNotFoundError(f"no operator library at {library}")
        with self._boundary("load"):
            executable = self._load(model, device, options)
        executable.attach(self, device)
        return executable

    def try_device(self, device: Device) -> bool:
        """Runs one operator on a device, in an engine that can do so faster than by loading a file.

        Returns:
            Whether the engine can.

        Raises:
            DeviceError: The device did not run it.
        """
        with self._boundary("run"):
            return self._try(device)

    def compatibility(self) -> Compatibility:
        """Returns the versions of driver and libraries, and whether they fit together.

        Raises:
            DeviceError: The engine can't be asked.
        """
        with self._boundary("probe"):
            return self._compatibility()

    def _try(self, device: Device) -> bool:
        return False

    def _compatibility(self) -> Compatibility:
        return Compatibility({self.package: self.version})

    def _expect_here(self, device: Device) -> None:
        """Refuses a device that is not present, for engines that would silently take another one.

        Raises:
            NoDeviceError: `_probe` finds none of this kind and handle.
        """
        if (device.kind, device.handle) not in {(one.kind, one.handle) for one in self._probe()}:
            raise NoDeviceError(f"{self.name} finds no such device here", actual=f"{device} ({device.handle})")

    @contextlib.contextmanager
    def _boundary(self, stage: Stage) -> Iterator[None]:
        try:
            yield
        except LinesideError:
            raise
        except self._vendor_errors() as error:
            raise self._translate(error, stage) from error

    @abc.abstractmethod
    def _probe(self) -> list[Device]: ...

    @abc.abstractmethod
    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable: ...

    @abc.abstractmethod
    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        """Returns every exception that the engine raises."""

    @abc.abstractmethod
    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        """Maps an exception of the engine to a `LinesideError`."""


class Executable(abc.ABC):
    """A model on one device. Several threads may call `run` at once; an engine that can't do that locks itself.

    Attributes:
        shortfall: What part of it runs on the CPU although another device was asked for; ``None`` if all is there.
    """

    backend: Backend
    device: Device
    shortfall: PartialFallbackError | None = None

    def attach(self, backend: Backend, device: Device) -> None:
        """Sets the engine and the device; called once by `Backend.load`."""
        self.backend = backend
        self.device = device

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the model once.

        Args:
            inputs: Array by input name.

        Returns:
            Array by output name.

        Raises:
            BadInputFormatError: The engine refuses the inputs.
            DeviceError: The device has no room, is gone, or the engine failed.
        """
        try:  # not `_boundary`: between two runs of a network a context manager costs 20 µs
            return self._run(inputs)
        except LinesideError:
            raise
        except self.backend._vendor_errors() as error:
            raise self.backend._translate(error, "run") from error

    def operators(self) -> tuple[OperatorTime, ...]:
        """Returns what each operator took in the calls so far, in the order in which they run.

        Empty if it was loaded without `LoadOptions.profile`, or if the engine has no profile.
        """
        with self.backend._boundary("run"):
            return self._operators()

    def _operators(self) -> tuple[OperatorTime, ...]:
        return ()

    def abandon(self) -> bool:
        """Ends running calls by force, where the engine can; they then raise `EngineCrashedError`.

        Returns:
            Whether it could: a separate process (`Config.isolate`) can be ended, a native call in this one can not.
        """
        return False

    def keep(self, outputs: Mapping[str, Array]) -> Fetch | None:
        """Copies outputs into the device's own memory, for the result cache.

        Args:
            outputs: Array by output name, as `run` gave them.

        Returns:
            What copies them back, also after `close`; letting go of it gives the memory back. ``None`` where the engine
            has no memory but the host's.

        Raises:
            DeviceError: The device has no room, or is gone.
        """
        with self.backend._boundary("run"):
            fetch = self._keep(outputs)
        return None if fetch is None else partial(_fetched, self.backend, fetch)

    def _keep(self, outputs: Mapping[str, Array]) -> Fetch | None:
        return None

    def close(self) -> None:
        """Gives the device's memory back; done twice it changes nothing."""
        from lineside_runtime.system.heap import give_back  # not before something is closed

        with self.backend._boundary("run"):
            self._close()
        give_back()

    @abc.abstractmethod
    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...

    @abc.abstractmethod
    def _close(self) -> None: ...


def _fetched(backend: Backend, fetch: Fetch) -> dict[str, Array]:
    with backend._boundary("run"):
        return fetch()
