"""A way of serving a bundle, and what was measured of all of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from lineside_runtime.config import GPU_RATIO, Config
from lineside_runtime.devices import KINDS, DeviceKind
from lineside_runtime.errors import ConfigError

RATE_MAX_HZ = 100_000

Kind = Literal["configured", "device", "replicas", "stages"]


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a placement is to be best in.

    Attributes:
        kind: ``latency``: the least time from when a frame is due to its answer; ``throughput``: the most frames a
            second, while there is always a next one.
        rate_hz: With ``latency``, frames a second that come at random times (Poisson), whether or not the one before
            is answered. ``None``: each comes when the one before is answered, as with one camera and one part.
    """

    kind: Literal["latency", "throughput"] = "latency"
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        """Checks the rate.

        Raises:
            ConfigError: It is out of range, or given for the throughput.
        """
        rate = self.rate_hz
        if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate <= RATE_MAX_HZ):
            raise ConfigError("rate_hz", expected=f"frames a second above 0, at most {RATE_MAX_HZ}", actual=repr(rate))
        if rate is not None and self.kind == "throughput":
            raise ConfigError("rate_hz", expected="None with the throughput: there is always a next frame", actual=rate)

    def __str__(self) -> str:
        """Returns for example ``latency at 40 frames a second``."""
        if self.kind == "throughput":
            return "throughput"
        return "latency of one frame at a time" if self.rate_hz is None else f"latency at {self.rate_hz:g} frames/s"


class ServingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way of serving a bundle.

    Attributes:
        kind: ``configured``: as the configuration alone says; ``device``: on one device; ``replicas``: on several
            devices, which share the calls; ``stages``: each stage of a split model on a device of its own.
        devices: Engine and device, such as ``ort/cpu:0``: the one that leads, those of the replicas, or one a stage. A
            single device and replicas may be of kinds that the bundle's variants are not for: they were measured.
        variant: The variant that is tried first; empty for the manifest's order.
        threads: Threads of one call on a CPU; ``None`` leaves it to the engine.
        workers: Submitted calls that run at once on one device, unless `Config.submit_workers` says more.
        excluded: Devices that crashed when they were tried: they do not serve even where all others fail.
    """

    kind: Kind = "configured"
    devices: tuple[str, ...] = ()
    variant: str = ""
    threads: int | None = None
    workers: int = 1
    excluded: tuple[str, ...] = ()

    def applied_to(self, config: Config) -> Config:
        """Returns the configuration that serves this way; `devices` are put first by the session."""
        if self.kind == "configured":
            return config
        return msgspec.structs.replace(
            config,
            variant=self.variant or config.variant,
            threads=self.threads,
            submit_workers=max(self.workers, config.submit_workers),
            gpu_ratio=self._gpu_ratio(config.gpu_ratio),
            balance=self.kind == "replicas",
            replica_cores=None,
            stage_engines=self.devices if self.kind == "stages" else None,
            stage_cores=None,
        )

    @property
    def calls_at_once(self) -> int:
        """Submitted calls that run at once on all devices."""
        return self.workers * (len(self.devices) if self.kind in ("replicas", "stages") else 1)

    @property
    def device_kinds(self) -> tuple[DeviceKind, ...]:
        """Kinds of the devices that it names."""
        named = {name.partition("/")[2].partition(":")[0] for name in self.devices}
        return tuple(kind for kind in KINDS if kind in named)

    def _gpu_ratio(self, configured: float) -> float:
        """Returns a ratio with which each replica has a share, and a single device all calls."""
        if self.kind == "device":
            return 1.0
        return GPU_RATIO if self.kind == "replicas" and configured in (0, 1) else configured

    def __str__(self) -> str:
        """Returns for example ``openvino/cpu:0, 1 thread, 2 calls at once``."""
        if self.kind == "configured":
            return "as configured"
        where = {"device": "", "replicas": "replicas on ", "stages": "stages on "}[self.kind]
        said = [f"{where}{' and '.join(self.devices)}"]
        if self.variant:
            said.append(self.variant)
        if self.threads is not None:
            said.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        if self.workers > 1:
            said.append(f"{self.workers} calls at once")
        return ", ".join(said)


AS_CONFIGURED = ServingPlan()
"""Serves as the configuration says, whatever plan is kept for it."""


class MeasuredAlternative(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was measured of one way of serving.

    Attributes:
        used: What answered, such as ``ort/cpu:0``.
        ms: Of the objective: the median over the rounds of a round's mean latency, or of its time a frame.
        p50_ms: Median latency of all timed frames, with the waits that were computed for those given back to back.
        per_s: Frames a second.
        over_best: Median over the rounds of its time over that of the best in the same round; 1 for the best.
        rounds: Rounds in which it was measured; those that are clearly slower are measured in fewer.
        error: Why it can't serve; then the figures are 0.
    """

    plan: ServingPlan
    used: str = ""
    ms: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    per_s: float = 0.0
    over_best: float = 0.0
    rounds: int = 0
    error: str = ""


class PlacementPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The chosen way of serving a bundle on this machine.

    Attributes:
        bundle: ``name@version``.
        machine: Processor and number of cores that it holds for.
        versions: Engine to the version that it holds for, of the chosen way.
        why: The reason, in one line.
        inputs: Where the inputs came from that were measured on.
        remarks: What disturbed the measurement; empty if nothing is known.
        measured: All ways, the configured one first.
    """

    bundle: str
    digest: str
    machine: str
    versions: dict[str, str]
    objective: Objective
    chosen: ServingPlan
    why: str
    inputs: str
    remarks: tuple[str, ...] = ()
    measured: tuple[MeasuredAlternative, ...]


def plans_folder() -> Path:
    """Returns the folder of the plans that are kept on this machine; it need not exist.

    The XDG base directory specification names it: ``$XDG_STATE_HOME/lineside/plans``.

    Raises:
        ConfigError: The user has no home folder, and the variable is not set.
    """
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise ConfigError(
            "no folder for plans: this user has no home",
            action="Set XDG_STATE_HOME to a folder that can be written to.",
        ) from error
    return Path(state) / "lineside" / "plans"
