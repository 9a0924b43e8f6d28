"""Where a model runs on this device: the keys of ``[inspect]`` that are those of `lineside_runtime.config.Config`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from lineside_agent.config.value_types import ConfigTable, Count, EngineName, IsolatedEngine, Natural, Positive
from lineside_models.verdict.rules import Rules, Share
from lineside_runtime.cache.config import MIB, SQLITE_BYTES_MIN, CacheConfig
from lineside_runtime.config import GPU_RATIO, Config
from lineside_runtime.errors import ConfigError


class ResultCacheConfig(ConfigTable, frozen=True, kw_only=True):
    """Where results are cached: a frame that comes again bit for bit is answered without the model.

    Attributes:
        memory_bytes: Memory that results may take, in bytes; 0 for none.
        device_bytes: Bytes of the device's own memory that results may take, where an engine can keep them there; 0 for
            none.
        ttl_s: After so many seconds a result is forgotten; unset: it is kept until the room is needed.
        sqlite: File that keeps results over a restart; relative to this file. Unset: none.
        sqlite_bytes: Size that this file never passes.
        redis: Addresses (``redis://``, ``rediss://``, ``unix://``) of a server that several devices share. Whoever can
            write there can forge results: use a password and TLS.
        redis_timeout_s: How long a look-up waits for the server; an outage delays one frame by this.
    """

    memory_bytes: Natural = 64 * MIB
    device_bytes: Natural = 0
    ttl_s: Positive | None = None
    sqlite: str = ""
    sqlite_bytes: Annotated[int, msgspec.Meta(ge=SQLITE_BYTES_MIN)] = 256 * MIB
    redis: tuple[str, ...] = ()
    redis_timeout_s: Positive = 0.02


class PlacementConfig(Rules, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a model runs, and what happens when a device fails; beside the rules.

    Attributes:
        engines: Engines that may be used, in the order of preference, such as ``["hailo", "ort"]``; empty for all that
            are installed. `lineside devices` lists them.
        objective: What the placement is measured for on this device when a bundle is staged: ``latency`` or
            ``throughput``. One device, replicas and stages are measured in turn with the bundle's golden input, and the
            best serves; the log says why. Empty: as these keys say.
        rate_hz: With ``latency``, frames a second that come at random times; unset: each comes when the one before is
            answered.
        gpu_ratio: Share of the first frames that start on the GPU where both a GPU and a CPU can run the model; then
            the share follows the measured times.
        npu_threshold: A model whose share of the box's compute is at most this tries the NPU before the GPU.
        fallback_strategy: ``sequential`` tries one kind of device after the other, ``fastest`` begins with the one that
            is measured to be fastest here, ``error`` uses the first only: if it fails, the part is a fault.
        standby: Whether the next device is kept loaded and warm, so that a failure costs one inference and no load.
        balance: Whether all devices that run a variant of the first one's level are loaded and share the frames.
        threads: Threads of the engine for one frame.
        cores: Numbers of the processor cores that the model may use, such as ``[2, 3]``; empty for all.
        replica_cores: With ``balance``, the cores of each device, in their order; empty for ``cores``.
        stage_engines: For a bundle that is split into stages: what runs each of them, as ``"openvino"`` or
            ``"ort/cpu:0"``.
        stage_cores: The cores of each stage.
        isolate: Engines that run in a process of their own, such as ``"ort"``, or ``"hailo=/usr/bin/python3"`` for one
            that is installed in another Python: one that crashes costs its current frames, and not the agent.
        engine_timeout_s: Longest call of an isolated engine before its process is killed; unset: no limit.
        operator_libraries: Third parties' operators, files by engine: ``ort = ["/opt/acme/liboperators.so"]``; relative
            to this file.
        cache: The result cache; without the table there is none.
    """

    engines: tuple[EngineName, ...] = ()
    objective: Literal["", "latency", "throughput"] = ""
    rate_hz: Positive | None = None
    gpu_ratio: Share | None = None
    npu_threshold: Share = 0.2
    fallback_strategy: Literal["sequential", "fastest", "error"] = "sequential"
    standby: bool = False
    balance: bool = False
    threads: Count = 1
    cores: tuple[Natural, ...] = ()
    replica_cores: tuple[tuple[Natural, ...], ...] = ()
    stage_engines: tuple[str, ...] = ()
    stage_cores: tuple[tuple[Natural, ...], ...] = ()
    isolate: tuple[IsolatedEngine, ...] = ()
    engine_timeout_s: Positive | None = None
    operator_libraries: dict[EngineName, tuple[str, ...]] = msgspec.field(default_factory=dict)
    cache: ResultCacheConfig | None = None


def engine_settings(config: PlacementConfig) -> Config:
    """Returns the settings of a session.

    Raises:
        ConfigError: Two keys contradict each other, or a value is out of range; the message names the path.
    """
    try:
        if config.rate_hz is not None and config.objective != "latency":
            raise ConfigError("rate_hz", expected='unset without objective = "latency"', actual=config.rate_hz)
        return Config(
            gpu_ratio=GPU_RATIO if config.gpu_ratio is None else config.gpu_ratio,
            npu_threshold=config.npu_threshold,
            fallback_strategy=config.fallback_strategy,
            threads=config.threads,
            engines=config.engines or None,
            isolate=config.isolate,
            isolated_timeout_s=config.engine_timeout_s,
            stage_engines=config.stage_engines or None,
            stage_cores=config.stage_cores or None,
            standby=config.standby,
            balance=config.balance,
            replica_cores=config.replica_cores or None,
            cores=config.cores or None,
            operator_libraries=config.operator_libraries,
            cache=None if config.cache is None else _cache(config.cache),
        )
    except ConfigError as error:
        raise ConfigError(
            f"$.inspect.{error.message}", expected=error.expected, actual=error.actual, action=error.action
        ) from error


def _cache(table: ResultCacheConfig) -> CacheConfig:
    keys = msgspec.structs.asdict(table)
    return CacheConfig(**{**keys, "sqlite": table.sqlite or None})
