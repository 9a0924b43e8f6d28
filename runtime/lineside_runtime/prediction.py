"""`Prediction`: the answer to one call; `DeviceShare`: how much of the calls a device has."""

from __future__ import annotations

from typing import Literal

import msgspec

from lineside_runtime.tensors import Array


class Prediction(msgspec.Struct, frozen=True, eq=False):
    """The answer to one call. Made on every call, so a msgspec struct: 0.1 µs, a frozen dataclass takes 2.

    Attributes:
        outputs: Array by output name.
        requested_device: Device that the configuration asks for, such as ``cpu:0``.
        used_device: Device that answered, such as ``ort/cpu:0``.
        fell_back: Whether an engine or device that comes first did not answer.
        inference_ms: Time in the engine that answered.
        bundle: ``name@version`` of the bundle that answered.
        cached: Level of the result cache that answered; ``None`` if a device did. ``used_device`` is then the one that
            had computed it, and ``inference_ms`` 0.
    """

    outputs: dict[str, Array]
    requested_device: str
    used_device: str
    fell_back: bool
    inference_ms: float
    bundle: str
    cached: Literal["device", "memory", "sqlite", "redis"] | None = None


class DeviceShare(msgspec.Struct, frozen=True):
    """How much of the work a device does.

    Attributes:
        device: Such as ``ort/cpu:0``.
        share: Share of the last calls that it was given, a moving mean; 0 for a device in reserve.
        service_ms: Moving mean of the time of one call in the engine; 0 where it wasn't measured.
        waiting: Calls that wait or run there.
        in_use: Whether it is loaded and not taken out.
    """

    device: str
    share: float
    service_ms: float
    waiting: int
    in_use: bool
