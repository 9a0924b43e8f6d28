"""Configuration of a session: where a model may run, and what happens when a device fails."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from threading import TIMEOUT_MAX
from typing import Literal, get_args

import msgspec

from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.errors import ConfigError

Strategy = Literal["sequential", "fastest", "error"]

GPU_RATIO = float("0.6")
"""The default. A distinct object, by which `Session` tells whether the caller has set a ratio: then it warns if there
is no GPU."""

THREADS_MAX = 1024
WORKERS_MAX = 256
QUEUE_MAX = 1_000_000


class Config(msgspec.Struct, frozen=True):
    """Where a model may run and what happens when a device fails.

    ``msgspec.structs.replace(config, threads=2)`` gives a changed copy.

    Attributes:
        gpu_ratio: Share of the first calls that start on the GPU where both a GPU and a CPU can run the model; the
            others start on the CPU. Then the share follows the measured times. 0 and 1 stay as they are.
            Where no GPU can run the model it decides nothing; `Session.unused_settings` says so.
        npu_threshold: A model whose share of the box's compute is at most this tries the NPU before the GPU, a
            larger one the GPU before the NPU. 0 to 1. Without both an NPU and a GPU it decides nothing.
        fallback_strategy: ``sequential`` tries one kind of device after the other, ``fastest`` begins with the one
            that is measured to be fastest here, ``error`` takes the first only and raises if that fails.
        threads: Threads of one call on a CPU; ``None`` leaves it to the engine.
        cores: Numbers of the processor cores that a call on a CPU may use, such as ``[2, 3]``; ``None`` leaves it to
            the system. An engine that can't keep to them refuses when a model is loaded.
        operator_libraries: Third parties' operators, by engine: ``{"ort": ["/opt/acme/liboperators.so"]}``.
        variant: Name of the bundle's variant that is tried before the others, such as a faster one without test-time
            augmentation; ``None`` for the manifest's order.
        engines: Names of the engines that may be used, in the order of preference; ``None`` for all installed ones.
        isolate: Engines that run in a process of their own, so that a crash takes only that with it: ``"ort"``, or
            ``"litert=/opt/tflite/bin/python"`` for one that lives in another Python. See ``docs/guides/program.md``.
        isolated_timeout_s: How long a call of an isolated engine may take before its process is ended and the call
            goes to the next device; ``None`` for no limit.
        stage_engines: For a bundle that is split into stages: what runs each of them, as ``"openvino"`` or
            ``"ort/cpu:0"``; ``None`` leaves it to ``gpu_ratio`` and ``npu_threshold``.
        stage_cores: Numbers of the processor cores that each stage's thread may use; ``None`` leaves it to the system.
        standby: Whether the next device is kept loaded and warm, so that a failure costs one inference and no load.
        balance: Whether all devices that run a variant of the first one's level are loaded and share the calls, by
            their measured time and what waits for them. Without it only a GPU and a CPU do; see ``gpu_ratio``.
        replica_cores: With ``balance``, the numbers of the processor cores that each device's calls may use, in the
            order of the devices; ``None`` for ``cores``.
        submit_workers: Calls that `Session.submit` runs at once on one device.
        submit_queue: Calls that may wait for a device; `Session.submit` refuses more with 1003.
        cache: Where results are kept, so that the same frame again is answered at once; ``None`` for no cache. See
            ``docs/guides/program.md``.
    """

    gpu_ratio: float = GPU_RATIO
    npu_threshold: float = 0.2
    fallback_strategy: Strategy = "sequential"
    threads: int | None = None
    engines: tuple[str, ...] | None = None
    isolate: tuple[str, ...] = ()
    isolated_timeout_s: float | None = None
    stage_engines: tuple[str, ...] | None = None
    stage_cores: tuple[tuple[int, ...], ...] | None = None
    standby: bool = False
    balance: bool = False
    replica_cores: tuple[tuple[int, ...], ...] | None = None
    submit_workers: int = 1
    submit_queue: int = 64
    cache: CacheConfig | None = None
    cores: tuple[int, ...] | None = None
    operator_libraries: Mapping[str, tuple[str, ...]] = {}
    variant: str | None = None

    def __post_init__(self) -> None:
        """Checks every key.

        Raises:
            ConfigError: A key has a wrong type or is out of its range.
        """
        _check_share("gpu_ratio", self.gpu_ratio)
        _check_share("npu_threshold", self.npu_threshold)
        if self.fallback_strategy not in get_args(Strategy):
            raise ConfigError(
                "fallback_strategy", expected=f"one of {get_args(Strategy)}", actual=repr(self.fallback_strategy)
            )
        if self.threads is not None and not (_is_number(self.threads, int) and 1 <= self.threads <= THREADS_MAX):
            raise ConfigError("threads", expected=f"None or an integer 1 to {THREADS_MAX}", actual=repr(self.threads))
        if self.variant is not None and not (isinstance(self.variant, str) and self.variant):
            raise ConfigError("variant", expected="None or a variant's name", actual=repr(self.variant))
        if self.engines is not None:
            msgspec.structs.force_setattr(self, "engines", _engine_names(self.engines))
        msgspec.structs.force_setattr(self, "isolate", _isolated(self.isolate, self.engines))
        if self.isolated_timeout_s is not None:
            check_seconds("isolated_timeout_s", self.isolated_timeout_s)
        if self.stage_engines is not None:
            msgspec.structs.force_setattr(self, "stage_engines", _stage_engines(self.stage_engines))
        if self.stage_cores is not None:
            msgspec.structs.force_setattr(self, "stage_cores", _cores_of_each("stage_cores", self.stage_cores))
        if self.replica_cores is not None:
            msgspec.structs.force_setattr(self, "replica_cores", _cores_of_each("replica_cores", self.replica_cores))
        for key in ("standby", "balance"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(key, expected="True or False", actual=repr(getattr(self, key)))
        if self.replica_cores is not None and not self.balance:
            raise ConfigError("replica_cores", expected="None without balance=True", actual=repr(self.replica_cores))
        _check_count("submit_workers", self.submit_workers, WORKERS_MAX)
        _check_count("submit_queue", self.submit_queue, QUEUE_MAX)
        if self.cache is not None:
            _check_cache(self.cache)
        if self.cores is not None:
            msgspec.structs.force_setattr(self, "cores", _cores("cores", self.cores))
        msgspec.structs.force_setattr(self, "operator_libraries", _libraries(self.operator_libraries))


def _check_cache(value: object) -> None:
    if not isinstance(value, CacheConfig):
        raise ConfigError("cache", expected="None or a CacheConfig", actual=type(value).__name__)


def _check_count(key: str, value: object, most: int) -> None:
    if not (_is_number(value, int) and 1 <= value <= most):  # type: ignore[operator]
        raise ConfigError(key, expected=f"an integer 1 to {most}", actual=repr(value))


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def check_seconds(key: str, value: object) -> None:
    """Raises `ConfigError` if a value is no time in seconds that can be waited for."""
    if not (_is_number(value, int, float) and 0 < value <= TIMEOUT_MAX):  # type: ignore[operator]
        raise ConfigError(key, expected=f"None or seconds above 0, at most {TIMEOUT_MAX:.0f}", actual=repr(value))


def _check_share(key: str, value: object) -> None:
    if not (_is_number(value, int, float) and 0 <= value <= 1):  # type: ignore[operator]
        raise ConfigError(key, expected="a number 0 to 1", actual=repr(value))


def _engine_names(value: object) -> tuple[str, ...]:
    expected = "None or a list of engine names, each once, such as ['ort']"
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError("engines", expected=expected, actual=repr(value))
    names = tuple(value)
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError("engines", expected=expected, actual=repr(value))
    return names


def _isolated(value: object, engines: tuple[str, ...] | None) -> tuple[str, ...]:
    expected = "a list of engines, each once, such as ['ort'] or ['litert=/opt/tflite/bin/python']"
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError("isolate", expected=expected, actual=repr(value))
    entries = tuple(value)
    if not all(isinstance(entry, str) for entry in entries):
        raise ConfigError("isolate", expected=expected, actual=repr(value))
    parts = [entry.partition("=") for entry in entries]
    names = {name for name, _, _ in parts}
    if len(names) != len(parts) or any(not name or bool(equals) != bool(python) for name, equals, python in parts):
        raise ConfigError("isolate", expected=expected, actual=repr(value))
    if engines is not None and not names <= set(engines):
        raise ConfigError("isolate", expected=f"engines that may be used: {', '.join(engines)}", actual=repr(value))
    return entries


def _stage_engines(value: object) -> tuple[str, ...]:
    expected = "None or an engine for each stage, such as ['ort', 'openvino/cpu:0']"
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError("stage_engines", expected=expected, actual=repr(value))
    names = tuple(value)
    if not names or not all(isinstance(name, str) and name.partition("/")[0] for name in names):
        raise ConfigError("stage_engines", expected=expected, actual=repr(value))
    return names


def _cores_of_each(key: str, value: object) -> tuple[tuple[int, ...], ...]:
    if isinstance(value, str) or not isinstance(value, Iterable) or not (each := tuple(value)):
        raise ConfigError(
            key, expected="None or a list of core numbers for each, such as [[0], [1]]", actual=repr(value)
        )
    return tuple(_cores(key, cores) for cores in each)


def _cores(key: str, value: object) -> tuple[int, ...]:
    numbers = () if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not numbers or not all(_is_number(core, int) and core >= 0 for core in numbers):
        raise ConfigError(key, expected="None or core numbers from 0, such as [0, 1]", actual=repr(value))
    return numbers


def _libraries(value: object) -> dict[str, tuple[str, ...]]:
    expected = 'files by engine, such as {"ort": ["/opt/acme/liboperators.so"]}'
    if not isinstance(value, Mapping):
        raise ConfigError("operator_libraries", expected=expected, actual=repr(value))
    found: dict[str, tuple[str, ...]] = {}
    for engine, files in value.items():
        paths = () if isinstance(files, (str, os.PathLike)) or not isinstance(files, Iterable) else tuple(files)
        if not engine or not isinstance(engine, str) or not paths:
            raise ConfigError("operator_libraries", expected=expected, actual=repr(value))
        if not all(isinstance(path, (str, os.PathLike)) and os.fspath(path) for path in paths):
            raise ConfigError("operator_libraries", expected=expected, actual=repr(value))
        found[engine] = tuple(os.fspath(path) for path in paths)
    return found
