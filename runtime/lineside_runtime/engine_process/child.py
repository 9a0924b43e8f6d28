"""The child process: one engine, and a thread for each lane on which the parent sends requests.

It ends when the parent ends, however that happens: the parent holds the other end of a pipe, and the kernel sends
``SIGIO`` when that closes. This works in a native call that hangs and holds the interpreter's lock; a thread that
watches would not, and ``PR_SET_PDEATHSIG`` would fire already when the parent's *thread* ends that started the child.
"""

from __future__ import annotations

import faulthandler
import fcntl
import itertools
import os
import select
import signal
import socket
import sys
import threading

import msgspec

from lineside_runtime import registry
from lineside_runtime.backend import Backend, Executable
from lineside_runtime.engine_process import messages
from lineside_runtime.engine_process.channel import Channel
from lineside_runtime.engine_process.memory import IncomingArrays, OutgoingArrays
from lineside_runtime.engine_process.messages import Reply, Request
from lineside_runtime.errors import DeviceError, EngineError, LinesideError
from lineside_runtime.system import heap


def serve(control: int, life: int) -> None:
    """Serves until the parent closes the control socket or ends.

    Args:
        control: Descriptor of a Unix socket: first the engine's name and the search path, then one lane a message.
        life: Descriptor of the read end of a pipe on which nothing is ever sent.
    """
    _die_with_the_parent(life)
    heap.save_memory()  # the process has no other user
    faulthandler.enable()
    for one in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which may still want answers
        signal.signal(one, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=control))
    start, _ = channel.receive()
    name, *path = msgspec.msgpack.decode(start, type=list[str])
    if path:
        sys.path[:] = path
    engine = _Engine(name)
    while True:
        try:
            _, lane = channel.receive()
        except EOFError:
            os._exit(0)  # not sys.exit: an engine's own clean-up may hang
        if lane is not None:
            threading.Thread(target=_serve_lane, args=(engine, lane), daemon=True).start()


def _die_with_the_parent(life: int) -> None:
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends the process
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(life, select.POLLIN)
    if poll.poll(0):  # it ended before we asked to be told
        os._exit(0)


class _Engine:
    """The engine, imported by the first request, and its loaded models."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = itertools.count()
        self._executables: dict[int, Executable] = {}

    def answer(self, request: Request, incoming: IncomingArrays, outgoing: OutgoingArrays) -> tuple[Reply, int | None]:
        """Carries out a request; returns the reply, and a new memory file if there is one."""
        if isinstance(request, messages.RunModel):
            outputs = self._executable(request.executable).run(incoming.views(request.tensors))
            tensors, descriptor = outgoing.place(outputs)
            return messages.Ran(tensors), descriptor
        return self._answer_rare(request), None

    def _answer_rare(self, request: Request) -> Reply:
        if isinstance(request, messages.LoadModel):
            number = next(self._numbers)
            loaded = self._backend.load(request.model, request.device, request.options)
            self._executables[number] = loaded
            return messages.ModelLoaded(number, loaded.shortfall.message if loaded.shortfall else "")
        if isinstance(request, messages.Probe):
            return messages.Probed(tuple(self._backend.probe()))
        if isinstance(request, messages.Compatible):
            found = self._backend.compatibility()
            return messages.ModelChecked(dict(found.versions), found.fits, found.advice)
        if isinstance(request, messages.Operators):
            return messages.OperatorsTimed(self._executable(request.executable).operators())
        if isinstance(request, messages.Close):
            executable = self._executables.pop(request.executable, None)
            if executable is not None:
                executable.close()
            return messages.Closed()
        engine = self._backend
        return messages.Described(
            engine.name, engine.package, engine.version, frozenset(engine.formats), frozenset(engine.untested_kinds)
        )

    @property
    def _backend(self) -> Backend:
        return registry.backend(self._name)

    def _executable(self, number: int) -> Executable:
        executable = self._executables.get(number)
        if executable is None:
            raise DeviceError("the executable is closed")
        return executable


def _serve_lane(engine: _Engine, descriptor: int) -> None:
    """Answers one request after another. Ends without an answer only if the engine ends this thread."""
    channel = Channel(socket.socket(fileno=descriptor))
    incoming, outgoing = IncomingArrays(), OutgoingArrays()
    try:
        while True:
            body, memory = channel.receive()
            if memory is not None:
                incoming.adopt(memory)
            reply, fresh = _answered(engine, messages.requests.decode(body), incoming, outgoing)
            try:
                channel.send(messages.encoder.encode(reply), fresh)
            finally:
                if fresh is not None:
                    os.close(fresh)
    except (EOFError, OSError):
        return  # the parent has closed the lane
    finally:
        channel.close()  # the parent sees the end, whatever it was


def _answered(
    engine: _Engine, request: Request, incoming: IncomingArrays, outgoing: OutgoingArrays
) -> tuple[Reply, int | None]:
    try:
        return engine.answer(request, incoming, outgoing)
    except LinesideError as error:
        return messages.pack_error(error), None
    except Exception as error:  # noqa: BLE001  the top of this process: the parent must hear of it
        undeclared = EngineError(
            f"the engine raised {type(error).__name__}, which its backend does not declare: {error}"
        )
        undeclared.__cause__ = error
        return messages.pack_error(undeclared), None
