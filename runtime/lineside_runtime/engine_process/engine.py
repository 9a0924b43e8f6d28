"""Backend that runs an engine in a separate process."""

from __future__ import annotations

import atexit
import errno
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, OperatorTime, Stage
from lineside_runtime.devices import Device
from lineside_runtime.engine_process import messages
from lineside_runtime.engine_process.process import EngineProcess
from lineside_runtime.errors import (
    DeviceError,
    EngineCrashedError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    PartialFallbackError,
)
from lineside_runtime.logs import log
from lineside_runtime.tensors import Array

START_TIMEOUT_S = 120.0
"""For importing an engine and finding its devices: seconds on a slow board, minutes only if it hangs."""

LOAD_TIMEOUT_S = 1800.0
"""For loading: TensorRT and OpenVINO's NPU compile for minutes."""

_lock = threading.Lock()
_backends: dict[tuple[str, float | None], IsolatedBackend] = {}
R = TypeVar("R")


def isolated(entry: str, timeout_s: float | None) -> IsolatedBackend:
    """Returns an engine that runs in a process of its own; the same one for the same arguments.

    Args:
        entry: An entry of `Config.isolate`: the engine's name, with ``=`` and an interpreter if it is another one.
        timeout_s: How long a call may take before the process is ended; ``None`` for no limit.

    Raises:
        EngineMissingError: No such interpreter, or the engine can't be imported there.
        EngineCrashedError: It took its process down when it was imported.
    """
    key = (entry, timeout_s)
    with _lock:
        if key not in _backends:
            name, _, python = entry.partition("=")
            _backends[key] = IsolatedBackend(name, python, timeout_s)
        return _backends[key]


@atexit.register
def close_all() -> None:
    """Ends every engine's process that is still there."""
    with _lock:
        backends = list(_backends.values())
        _backends.clear()
    for backend in backends:
        backend.close()


class IsolatedBackend(Backend):
    """An engine in a child process.

    The process is started when the engine is first needed, is shared by everything that this engine has loaded, and
    ends when the last of it is closed. If it ends by itself, the calls that it was at raise `EngineCrashedError`, all
    that it had loaded is lost, and the next `load` starts another one.
    """

    def __init__(self, name: str, python: str, timeout_s: float | None, *, limit_s: float = math.inf) -> None:
        """Starts the process.

        Args:
            timeout_s: How long a call may take before the process is ended; ``None`` for no limit.
            limit_s: The same for each other request, such as to load a model, where the usual limits are longer.
        """
        self._limit_s = limit_s
        self._engine = name
        self._python = python
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: EngineProcess | None = None
        self._users = 0
        self._loaded = 0
        try:
            facts = self._ask(messages.Describe(), messages.Described, START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        self.name = facts.name
        self.package = facts.package
        self.formats = facts.formats
        self.untested_kinds = facts.untested_kinds
        self._version = facts.version

    @property
    def version(self) -> str:
        """Version of the engine in its own interpreter."""
        return self._version

    @property
    def pid(self) -> int | None:
        """Number of the process, ``None`` while there is none."""
        with self._lock:
            return self._process.pid if self._process is not None and self._process.alive else None

    def close(self) -> None:
        """Ends the process with its loaded models."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()

    @contextmanager
    def _running(self) -> Iterator[EngineProcess]:
        """Holds the process, started anew if it has ended."""
        with self._lock:
            if self._process is not None and not self._process.alive:
                self._process.close()
                self._process = None
            if self._process is None:
                self._process = EngineProcess(self._engine, self._python)
                self._loaded = 0
            process = self._process
            self._users += 1
        try:
            yield process
        finally:
            with self._lock:
                self._users -= 1

    def _ask(self, request: messages.Request, kind: type[R], timeout_s: float) -> R:
        with self._running() as process:
            return _expect(process, request, kind, min(timeout_s, self._limit_s))

    def _probe(self) -> list[Device]:
        return list(self._ask(messages.Probe(), messages.Probed, START_TIMEOUT_S).devices)

    def _compatibility(self) -> Compatibility:
        found = self._ask(messages.Compatible(), messages.ModelChecked, START_TIMEOUT_S)
        return Compatibility(found.versions, found.fits, found.advice)

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        with self._running() as process:
            request = messages.LoadModel(model.absolute(), device, options)
            reply = _expect(process, request, messages.ModelLoaded, min(LOAD_TIMEOUT_S, self._limit_s))
            with self._lock:
                self._loaded += 1
        executable = IsolatedExecutable(self, process, reply.executable)
        executable.shortfall = PartialFallbackError(reply.shortfall) if reply.shortfall else None
        return executable

    def _unload(self, process: EngineProcess, number: int) -> None:
        """Closes one executable, and the process with the last."""
        try:
            if process.alive:
                _expect(process, messages.Close(number), messages.Closed, START_TIMEOUT_S)
        except EngineCrashedError as error:
            log.warning("closing a model: %s", error)  # what was to be freed is free
        with self._lock:
            if process is not self._process:
                return
            self._loaded -= 1
            if self._loaded or self._users:
                return
            self._process = None
        process.close()

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (OSError,)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.ENOSPC):
            return OutOfDeviceMemoryError(f"{self._engine} {stage}: no memory to hand the tensors over: {error}")
        return EngineError(f"{self._engine} {stage}: {error}")


class IsolatedExecutable(Executable):
    """A model in an engine's process. Several threads may call `run` at once; each call has a lane of its own."""

    def __init__(self, backend: IsolatedBackend, process: EngineProcess, number: int) -> None:
        self._owner = backend
        self._process = process
        self._number = number
        self._lock = threading.Lock()
        self._open = True

    def abandon(self) -> bool:
        """Ends the engine's process, and with it every call and every model in it."""
        self._process.kill("was ended because a call was abandoned")
        return True

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if not self._open:
            raise DeviceError("the executable is closed")
        return self._process.run(self._number, inputs, self._owner.timeout_s)

    def _operators(self) -> tuple[OperatorTime, ...]:
        request = messages.Operators(self._number)
        return _expect(self._process, request, messages.OperatorsTimed, START_TIMEOUT_S).operators

    def _close(self) -> None:
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            self._owner._unload(self._process, self._number)


def _expect(process: EngineProcess, request: messages.Request, kind: type[R], timeout_s: float) -> R:
    reply = process.ask(request, timeout_s)
    if not isinstance(reply, kind):
        raise process.crash("answered something else")
    return reply
