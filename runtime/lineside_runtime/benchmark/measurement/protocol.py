"""Messages between the benchmark and the process of a contestant: one JSON object a line."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from lineside_runtime.config import GPU_RATIO, Config
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import LinesideError, error_of


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag=True):
    pass


class MeasurementTask(_Message, frozen=True, kw_only=True):
    """The first line to a contestant's process.

    Attributes:
        config: Where it may run; see `config_to_plain`.
        level: See `Contestant`.
        batch: Frames in one call.
        streams: Callers at once.
        inputs: An ``.npz`` with the inputs of a call; empty for noise.
        spawned_ns: Of the monotonic clock, when the process was asked for.
        warm_max_s: How long a warm-up may take.
    """

    folder: str
    config: dict[str, Any]
    level: int | None = None
    batch: int = 1
    streams: int = 1
    inputs: str = ""
    spawned_ns: int = 0
    warm_max_s: float = 10.0


class Ready(_Message, frozen=True, kw_only=True):
    """The first answer: the bundle is loaded and has answered once.

    Attributes:
        first_result_ms: From the process's start to that answer.
        load_ms: Of that, opening and loading the bundle.
        before_mb: Resident set before loading: Python, numpy and lineside itself.
        variant: Name of the variant that runs.
        used_device: That answered, such as ``ort/cpu:0``.
        device_name: What its engine calls it.
        engine_version: Of the engine that answered.
        fallbacks: Devices and engines that failed, with their reasons.
        shapes: Of the inputs of one call.
    """

    first_result_ms: float
    load_ms: float
    before_mb: float | None
    variant: str
    requested_device: str
    used_device: str
    device_name: str
    engine_version: str
    fallbacks: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]


class WarmUp(_Message, frozen=True):
    """Asks to run until the time of a call is stable."""


class WarmUpResult(_Message, frozen=True, kw_only=True):
    """How the warm-up went.

    Attributes:
        calls: Until then.
        stable: Whether the times settled; else it gave up.
        call_ms: Median of the last calls.
    """

    calls: int
    stable: bool
    call_ms: float


class Turn(_Message, frozen=True, kw_only=True):
    """Asks for ``calls`` timed calls, after an untimed one of each caller."""

    calls: int


class TurnTimed(_Message, frozen=True, kw_only=True):
    """Times of one turn.

    Attributes:
        times_ms: Of each call.
        wall_s: From the first call's begin to the last one's end.
        cpu_s: Processor time of the process and its children meanwhile.
        used_devices: Devices that answered last, as looked at after the turn.
        rerouted: Calls since the start that the first choice did not answer.
    """

    times_ms: list[float]
    wall_s: float
    cpu_s: float
    used_devices: tuple[str, ...]
    rerouted: int


class AskMemory(_Message, frozen=True):
    """Asks for the memory in use."""


class MemoryUse(_Message, frozen=True, kw_only=True):
    """Memory of the process and its children, in MB of 2**20 bytes; ``None`` where the system has no figure.

    Attributes:
        peak_mb: Largest resident set so far.
        resident_mb: Resident set now.
        pss_mb: Proportional set size now: shared pages are divided among those who share them.
    """

    peak_mb: float | None
    resident_mb: float | None
    pss_mb: float | None


class ProfileTask(_Message, frozen=True, kw_only=True):
    """Asks to load the model again with the engine's profiling on, and to run it ``runs`` times."""

    runs: int


class OperatorRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One operator; see `lineside_runtime.backend.OperatorTime`."""

    kind: str
    name: str
    calls: int
    mean_us: float


class Profiled(_Message, frozen=True, kw_only=True):
    """The engine's profile.

    Attributes:
        runs: Timed runs of the model.
        run_ms: Median time of a run with profiling on.
        warm: Whether the runs before warming are left out of the operators' times.
        operators: In the order in which they run; empty if the engine has no profile.
    """

    runs: int
    run_ms: float
    warm: bool
    operators: tuple[OperatorRow, ...]


class TaskFailed(_Message, frozen=True, kw_only=True):
    """A `LinesideError` as a message."""

    code: int
    message: str
    expected: str | None
    actual: str | None
    action: str


Command = MeasurementTask | WarmUp | Turn | AskMemory | ProfileTask
Reply = Ready | WarmUpResult | TurnTimed | MemoryUse | Profiled | TaskFailed


def encode(message: _Message) -> bytes:
    """Returns the message as a line."""
    return msgspec.json.encode(message) + b"\n"


def decode_command(line: bytes) -> Command:
    """Reads a command."""
    return cast("Command", decode_json(line, type=Command))


def decode_reply(line: bytes) -> Reply:
    """Reads a reply."""
    return cast("Reply", decode_json(line, type=Reply))


def failed(error: LinesideError) -> TaskFailed:
    """Returns an error as a message."""
    facts = error.as_dict()
    return TaskFailed(**{key: facts[key] for key in ("code", "message", "expected", "actual", "action")})


def to_error(reply: TaskFailed) -> LinesideError:
    """Returns the error of the same class again."""
    return error_of(reply.code, reply.message, expected=reply.expected, actual=reply.actual, action=reply.action)


def config_to_plain(config: Config) -> dict[str, Any]:
    """Returns a configuration as values that JSON knows, without the result cache.

    That would answer a benchmark's one input at once. A struct with ``Config`` in it would have to import the cache's
    configuration, which the runtime loads only where it is used.
    """
    values: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(config, cache=None))
    unsent = {"cache"} if config.gpu_ratio is not GPU_RATIO else {"cache", "gpu_ratio"}  # see `GPU_RATIO`
    return {name: value for name, value in values.items() if name not in unsent}


def config_from_plain(values: dict[str, Any]) -> Config:
    """Returns the configuration from plain values.

    Raises:
        ConfigError: A value is out of range.
    """
    return Config(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
