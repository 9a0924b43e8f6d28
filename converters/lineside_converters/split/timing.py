"""Time both stages at once where they are to run, each on its own cores."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import statistics
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from lineside_runtime import registry
from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.devices import Device
from lineside_runtime.errors import ConfigError, NoDeviceError
from lineside_runtime.system.affinity import on_cores
from lineside_runtime.tensors import Array
from lineside_runtime.timing import time_calls

ROUNDS = 20
WARM_ROUNDS = 3

Feed = Mapping[str, Array]

_PLACE = re.compile(r"([^/@\s]+)(?:/([^@\s]+))?(?:@(\d+(?:,\d+)*))?")


@dataclasses.dataclass(frozen=True, slots=True)
class StagePlace:
    """Where a stage may run.

    Attributes:
        device: One of its devices, such as ``cpu:0``; an empty text for its first.
        cores: Processor cores to keep to; empty for all.
        threads: Threads of one call; ``None`` leaves it to the engine.
    """

    engine: str
    device: str = ""
    cores: tuple[int, ...] = ()
    threads: int | None = 1

    @classmethod
    def parse(cls, text: str) -> StagePlace:
        """Reads ``ENGINE[/DEVICE][@CORE,CORE]``, such as ``openvino/cpu:0@1``.

        Raises:
            ConfigError: It is written otherwise.
        """
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ConfigError("place", expected="ENGINE[/DEVICE][@CORE,CORE], such as ort@0", actual=text)
        engine, device, cores = found.groups(default="")
        return cls(engine, device, tuple(map(int, cores.split(","))) if cores else ())

    def __str__(self) -> str:
        """Returns for example ``openvino/cpu:0 on core 1``."""
        device = f"/{self.device}" if self.device else ""
        cores = f" on core {', '.join(map(str, self.cores))}" if self.cores else ""
        return f"{self.engine}{device}{cores}"

    def load(self, model: Path, precision: str) -> Executable:
        """Loads a model at this place.

        Raises:
            NoDeviceError: The engine has no such device.
            LinesideError: It can't be loaded.
        """
        backend = registry.backend(self.engine)
        with self.keeping():
            options = LoadOptions(threads=self.threads, precision="int8" if precision == "int8" else "fp32")
            return backend.load(model, self._find(backend.probe()), options)

    def keeping(self) -> contextlib.AbstractContextManager[None]:
        """Keeps the calling thread on these cores."""
        return on_cores(self.cores or None)

    def _find(self, devices: Sequence[Device]) -> Device:
        for device in devices:
            if self.device in ("", str(device)):
                return device
        raise NoDeviceError(f"no such device for {self.engine}", expected=list(map(str, devices)), actual=self.device)


@dataclasses.dataclass(frozen=True, slots=True)
class StageWork:
    """An executable with its input, to be timed."""

    place: StagePlace
    executable: Executable
    feed: Feed


def time_together(works: Sequence[StageWork], rounds: int = ROUNDS) -> list[float]:
    """Times several executables that all run at the same time, as the stages of a pipeline do.

    Returns:
        Milliseconds of a call of each, the lower quartile: what other processes take meanwhile should not choose.
    """
    start = threading.Barrier(len(works))
    done = [threading.Event() for _ in works]
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(_repeat, work, start, done, number, rounds) for number, work in enumerate(works)]
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error  # the first cause, not the broken barrier of the others
    return [statistics.quantiles(future.result(), n=4)[0] for future in futures]


def _repeat(
    work: StageWork, start: threading.Barrier, done: Sequence[threading.Event], number: int, rounds: int
) -> list[float]:
    samples: list[float] = []
    run = partial(work.executable.run, work.feed)
    try:
        with work.place.keeping():
            time_calls(run, (), untimed=WARM_ROUNDS)
            start.wait()
            while not all(event.is_set() for event in done):  # none is timed alone while another is not done
                samples += time_calls(run, range(1), untimed=0)
                if len(samples) >= rounds:
                    done[number].set()
    except BaseException:  # after an interrupt too: else the others would wait at the barrier for ever
        start.abort()
        raise
    finally:
        done[number].set()
    return samples
