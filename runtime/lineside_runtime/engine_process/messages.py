"""Messages between parent and child: msgspec structs, one request and one reply at a time on a lane.

A message holds no array but its place in the shared memory. Nothing is pickled.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import msgspec

from lineside_runtime.backend import LoadOptions, OperatorTime
from lineside_runtime.devices import Device
from lineside_runtime.errors import LinesideError, error_of, shared_code

TEXT_MAX = 20_000
"""Characters of an error that travel; an engine may quote a whole graph."""


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


class TensorAt(msgspec.Struct, frozen=True, array_like=True):
    """Where an array lies in the sender's shared memory.

    Attributes:
        name: Of the input or output.
        dtype: Numpy's text for the type, such as ``<f4``.
        offset: Bytes from the start of the memory.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Describe(_Message, frozen=True):
    """Asks which engine this is; the first request of all."""


class Probe(_Message, frozen=True):
    """`Backend.probe`."""


class Compatible(_Message, frozen=True):
    """`Backend.compatibility`."""


class LoadModel(_Message, frozen=True):
    """`Backend.load`."""

    model: Path
    device: Device
    options: LoadOptions


class RunModel(_Message, frozen=True):
    """`Executable.run`."""

    executable: int
    tensors: tuple[TensorAt, ...]


class Operators(_Message, frozen=True):
    """`Executable.operators`."""

    executable: int


class Close(_Message, frozen=True):
    """`Executable.close`."""

    executable: int


class Described(_Message, frozen=True):
    """The engine's own attributes."""

    name: str
    package: str
    version: str
    formats: frozenset[str]
    untested_kinds: frozenset[str]


class Probed(_Message, frozen=True):
    """Devices."""

    devices: tuple[Device, ...]


class ModelChecked(_Message, frozen=True):
    """A `Compatibility`."""

    versions: dict[str, str]
    fits: bool | None
    advice: str


class ModelLoaded(_Message, frozen=True):
    """The number under which the child keeps the executable, and what `Executable.shortfall` says."""

    executable: int
    shortfall: str = ""


class Ran(_Message, frozen=True):
    """Outputs."""

    tensors: tuple[TensorAt, ...]


class OperatorsTimed(_Message, frozen=True):
    """Operators' times."""

    operators: tuple[OperatorTime, ...]


class Closed(_Message, frozen=True):
    """Done."""


class EngineFailed(_Message, frozen=True):
    """A `LinesideError`, with the engine's own exception as text."""

    code: int
    message: str
    expected: str | None
    actual: str | None
    action: str
    cause: str


Request = Describe | Probe | Compatible | LoadModel | RunModel | Operators | Close
Reply = Described | Probed | ModelChecked | ModelLoaded | Ran | OperatorsTimed | Closed | EngineFailed


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be sent to an engine's process")


def _special(kind: type, value: Any) -> object:
    return Path(value) if kind is Path else value


encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
requests = msgspec.msgpack.Decoder(Request, dec_hook=_special)
replies = msgspec.msgpack.Decoder(Reply, dec_hook=_special)


class RemoteEngineError(Exception):
    """The vendor's exception as text, with its traceback in the child."""


def pack_error(error: LinesideError) -> EngineFailed:
    """Returns an error as it travels."""
    cause = "".join(traceback.format_exception(error.__cause__ or error))
    return EngineFailed(
        code=shared_code(error),
        message=error.message[:TEXT_MAX],
        expected=None if error.expected is None else str(error.expected)[:TEXT_MAX],
        actual=None if error.actual is None else str(error.actual)[:TEXT_MAX],
        action=error.action,
        cause=cause[-TEXT_MAX:],
    )


def unpack_error(failed: EngineFailed) -> LinesideError:
    """Returns the error that `pack_error` packed: the same class, the vendor's exception as text for its cause."""
    error = error_of(failed.code, failed.message, expected=failed.expected, actual=failed.actual, action=failed.action)
    error.__cause__ = RemoteEngineError(failed.cause.strip())
    return error
