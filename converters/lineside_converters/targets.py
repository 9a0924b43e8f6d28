"""Targets: a board's profile, or a kind of device.

What a target's engines need of a compressed model (signedness, channels, operators) stands in its profile
(`lineside_boards.profile`), each claim with its source. ``cuda:0`` is the profile ``cuda0``.
"""

from __future__ import annotations

import dataclasses
from typing import get_args

from lineside_boards import profile
from lineside_boards.detect import detect
from lineside_converters.levels import Activation
from lineside_runtime import registry
from lineside_runtime.devices import DeviceKind
from lineside_runtime.errors import ConfigError
from lineside_runtime.system import accelerators
from lineside_runtime.system.vnni import saturates

KIND_OF_ENGINE: dict[str, DeviceKind] = {"tensorrt": "gpu", "hailo": "npu", "rknn": "npu", "imx500": "npu"}
"""Engines with one kind of device; the others compute on those of the board's accelerators that they can use."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Target of a conversion: kind of device, engines and threads.

    Attributes:
        name: As the caller gave it.
        kind: Kind of device that its first engine computes on.
        engines: Those to make variants for, best first.
        activation: Signedness and bits of quantised activations and weights.
        per_channel: Whether weights have a scale a channel.
        operators: ONNX operators that its first engine runs quantised; empty where it sets no limit.
        here: Whether this machine is such a target, so that speed can be measured.
        source: Where these claims stand.
    """

    name: str
    kind: DeviceKind
    engines: tuple[str, ...]
    activation: Activation = "u8s8"
    per_channel: bool = True
    threads: int = 1
    operators: tuple[str, ...] = ()
    here: bool
    source: str


def find_target(name: object) -> Target:
    """Returns the target of a name.

    Args:
        name: A profile's name, ``cuda:0``, or a kind of device: ``cpu``, ``gpu``, ``npu``.

    Raises:
        ConfigError: There is no such target.
    """
    for kind in get_args(DeviceKind):
        if name == kind:
            return _of_kind(kind)
    known = profile.names()
    wanted = name.replace(":", "") if isinstance(name, str) else name
    if wanted not in known and not (isinstance(wanted, str) and wanted.endswith(".toml")):
        raise ConfigError("target_device", expected=f"{', '.join(('cpu', 'gpu', 'npu', *known))}", actual=repr(name))
    return _of_profile(str(name), profile.load(str(wanted)))


def _of_kind(kind: DeviceKind) -> Target:
    """Returns any device of a kind: one ONNX file for the engine that every board has, as x86 is fastest with."""
    return Target(
        name=kind,
        kind=kind,
        engines=("ort",),
        activation=_activation("u8s8", here=kind == "cpu"),
        here=kind == "cpu" or any(device.kind == kind for device in registry.status("ort").devices),
        source="measured on AVX512-VNNI: S8S8 took 1.7 to 2.5 times as long as U8S8",
    )


def _of_profile(name: str, board: profile.BoardProfile) -> Target:
    facts = board.optimize
    kind = KIND_OF_ENGINE.get(facts.engines[0]) or accelerators.kind_for(facts.engines[0], board.board.accelerators)
    here = _is_here(board)
    return Target(
        name=name,
        kind=kind,
        engines=facts.engines,
        activation=_activation(facts.activation, here=here and "ort" in facts.engines),
        per_channel=facts.per_channel,
        threads=facts.threads,
        operators=facts.operators,
        here=here,
        source=facts.source,
    )


def _activation(wanted: Activation, *, here: bool) -> Activation:
    """Returns the activation that this machine is fast and exact with: 7-bit weights where sums of 8 saturate."""
    return "u8s7" if wanted == "u8s8" and here and saturates() else wanted


def _is_here(board: profile.BoardProfile) -> bool:
    """Returns whether this machine is such a board and one of the engines finds its device."""
    found = {one.name for one in accelerators.find()}
    installed = [engine for engine in registry.names() if registry.missing(engine) is None]
    fitting = {one.name for one in profile.matching(detect(), found, installed)}
    return board.name in fitting
