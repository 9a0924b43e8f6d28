"""Try GPUs and NPUs with their engine in a process of its own, before the planner uses them in this one.

A driver that nobody has run with the model may crash, as ONNX Runtime's WebGPU provider does on a software Vulkan. In
the planner's process that would end the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import NamedTuple

from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import EngineCrashedError, LinesideError
from lineside_runtime.planning.alternatives import accelerators
from lineside_runtime.serving.candidates import PlacementCandidate
from lineside_runtime.serving.serving_plan import ServingPlan
from lineside_runtime.tensors import Array

NO_TIME = "there was no time to measure it"

TIME_LEAST_S = 1.0
"""Least time that is worth starting a process for."""

_passed: set[tuple[str, str, str]] = set()
"""Bundle, device and variant that computed in a process of their own; this process does not try them there again."""


class TriedDevices(NamedTuple):
    """What came of the trials.

    Attributes:
        refused: Device, such as ``ort/gpu:0``, to why no way that names it is measured in this process.
        crashed: Those of them whose driver or engine crashed: no way uses them, not even as a fallback.
    """

    refused: dict[str, str]
    crashed: tuple[str, ...] = ()

    def reason_against(self, way: ServingPlan) -> str:
        """Returns why a way is not to be measured; empty if it may be."""
        return next((self.refused[name] for name in way.devices if name in self.refused), "")


def try_accelerators(
    bundle: Bundle, config: Config, share: float, inputs: Mapping[str, Array], until_s: float
) -> TriedDevices:
    """Loads the bundle on each GPU and NPU in a process of its own, and calls it once.

    Engines that `Config.isolate` names are never in this process, and are not tried.

    Args:
        inputs: Of one call.
        until_s: Time, as of ``time.monotonic()``, at which a trial is ended. A device that had too little time is
            refused, but not crashed: as configured, the bundle is served by it.
    """
    apart = {entry.partition("=")[0] for entry in config.isolate}
    refused, crashed = dict[str, str](), list[str]()
    for one in accelerators(bundle.manifest, config, share):
        name, key = str(one), (bundle.digest, str(one), one.variant.name)
        if one.backend.name in apart or name in refused or key in _passed:
            continue
        left_s = until_s - monotonic()
        if left_s < TIME_LEAST_S:
            refused[name] = NO_TIME
            continue
        error = _failure(bundle, config, one, inputs, left_s)
        if error is None:
            _passed.add(key)
            continue
        refused[name] = f"{name} was tried in a process of its own: {error.message}"
        if isinstance(error, EngineCrashedError) and monotonic() < until_s:
            crashed.append(name)
    return TriedDevices(refused, tuple(crashed))


def _failure(
    bundle: Bundle, config: Config, one: PlacementCandidate, inputs: Mapping[str, Array], limit_s: float
) -> LinesideError | None:
    from lineside_runtime.engine_process.engine import IsolatedBackend  # only where there is such a device

    try:
        backend = IsolatedBackend(one.backend.name, "", limit_s, limit_s=limit_s)
        try:
            executable = PlacementCandidate(backend, one.device, one.variant).load(bundle, config)
            try:
                executable.run(inputs)
            finally:
                executable.close()
        finally:
            backend.close()
    except LinesideError as error:
        return error
    return None
