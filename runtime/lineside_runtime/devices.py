"""A processor that a backend can use."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

DeviceKind = Literal["npu", "gpu", "cpu"]

KINDS: tuple[DeviceKind, ...] = get_args(DeviceKind)
"""All kinds, in the order in which ``sequential`` tries them."""


class Device(msgspec.Struct, frozen=True):
    """A processor that a backend can use.

    Attributes:
        kind: ``npu``, ``gpu`` or ``cpu``.
        index: Number among those of its kind, from 0.
        name: What the engine calls it, for people.
        memory_bytes: Its own memory; 0 if the engine doesn't report it.
        handle: What the engine itself needs to find it again, such as an execution provider's name.
        emulated: Whether it is an emulation that computes on the CPU, as Mesa's llvmpipe is. It is used only if
            `Config.engines` names its engine.
    """

    kind: DeviceKind
    index: int = 0
    name: str = ""
    memory_bytes: int = 0
    handle: str = ""
    emulated: bool = False

    def __str__(self) -> str:
        """Returns for example ``cpu:0``."""
        return f"{self.kind}:{self.index}"
