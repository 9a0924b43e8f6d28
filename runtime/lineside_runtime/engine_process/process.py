"""The parent's side of an engine's process: start, ask and end it, and report how it ended."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lineside_runtime.engine_process import messages
from lineside_runtime.engine_process.bootstrap import CANNOT_START
from lineside_runtime.engine_process.channel import Channel
from lineside_runtime.engine_process.memory import IncomingArrays, OutgoingArrays
from lineside_runtime.engine_process.messages import EngineFailed, Reply, Request, unpack_error
from lineside_runtime.errors import EngineCrashedError, EngineMissingError
from lineside_runtime.logs import log
from lineside_runtime.tensors import Array

BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
STDERR_LINES = 60
END_S = 5.0
"""How long a process may take to end before it is killed, and the kernel to tell how it ended."""


class _Lane:
    """A socket and two memories: one call at a time."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.incoming = IncomingArrays()
        self.outgoing = OutgoingArrays()

    def ask(self, body: bytes, memory: int | None, timeout_s: float | None) -> Reply:
        try:
            self.channel.send(body, memory)
        finally:
            if memory is not None:
                os.close(memory)
        answer, fresh = self.channel.receive(timeout_s)
        if fresh is not None:
            self.incoming.adopt(fresh)
        reply: Reply = messages.replies.decode(answer)
        return reply


class EngineProcess:
    """One process with one engine in it. Any number of threads may ask at once: each has a lane while it waits."""

    def __init__(self, engine: str, python: str) -> None:
        """Starts the process.

        Args:
            engine: A name that the registry knows there.
            python: Interpreter; an empty text for this one.

        Raises:
            EngineMissingError: There is no such interpreter.
        """
        self._label = f"engine {engine!r}" + (f" in {python}" if python else "")
        self._python = python or sys.executable
        self._lock = threading.Lock()
        self._free: list[_Lane] = []
        self._reason = ""
        self._lines: deque[str] = deque(maxlen=STDERR_LINES)
        self._control, self._life = self._start(engine, [] if python else sys.path)
        self._reader = threading.Thread(target=self._read_stderr, name=f"{engine} stderr", daemon=True)
        self._reader.start()

    def _start(self, engine: str, path: list[str]) -> tuple[Channel, int]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # it says several things in a row
        life_read, life_write = os.pipe()
        try:
            self._process = subprocess.Popen(
                [self._python, str(BOOTSTRAP), str(theirs.fileno()), str(life_read)],
                pass_fds=(theirs.fileno(), life_read),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            control = Channel(ours)
            control.send(msgspec.msgpack.encode([engine, *path]))
        except OSError as error:
            ours.close()
            os.close(life_write)
            raise EngineMissingError(
                f"{self._label}: {self._python} does not start: {error}",
                action="Name an interpreter that can be started, or none for this one.",
            ) from error
        finally:
            theirs.close()
            os.close(life_read)
        log.info("%s runs in process %d", self._label, self._process.pid)
        return control, life_write

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ask(self, request: Request, timeout_s: float | None) -> Reply:
        """Sends a request and waits for its answer.

        Args:
            timeout_s: How long it may take; ``None`` for ever.

        Raises:
            EngineCrashedError: The process ended meanwhile, or did not answer in time and was ended.
            LinesideError: What the engine raised.
        """
        lane = self._take()
        reply = self._ask(lane, messages.encoder.encode(request), None, timeout_s)
        self._give(lane)
        return _good(reply)

    def run(self, executable: int, inputs: Mapping[str, Array], timeout_s: float | None) -> dict[str, Array]:
        """Runs a model that the process has loaded.

        Raises:
            BadInputFormatError: An input can't be handed over, or the engine refuses it.
            EngineCrashedError: The process ended meanwhile, or did not answer in time and was ended.
            OSError: There is no memory to hand the inputs over in.
            LinesideError: What the engine raised.
        """
        lane = self._take()
        try:
            tensors, memory = lane.outgoing.place(inputs)
        except BaseException:
            self._give(lane)
            raise
        body = messages.encoder.encode(messages.RunModel(executable, tensors))
        reply = self._ask(lane, body, memory, timeout_s)
        if isinstance(reply, messages.Ran):
            outputs = lane.incoming.copies(reply.tensors)
            self._give(lane)
            return outputs
        self._give(lane)
        _good(reply)
        raise self.crash("answered a call with something else")

    def _ask(self, lane: _Lane, body: bytes, memory: int | None, timeout_s: float | None) -> Reply:
        try:
            return lane.ask(body, memory, timeout_s)
        except TimeoutError as error:
            lane.channel.close()
            self.kill(f"did not answer within {timeout_s:g} s and was ended")
            raise self.crash() from error
        except (EOFError, OSError) as error:
            lane.channel.close()
            raise self.crash() from error
        except (msgspec.MsgspecError, ValueError) as error:
            lane.channel.close()
            raise self.crash(f"sent what nobody understands: {error}") from error

    def _take(self) -> _Lane:
        with self._lock:
            if self._free:
                return self._free.pop()
            if not self._reason and self.alive:
                ours, theirs = socket.socketpair()
                try:
                    self._control.send(b"", theirs.fileno())
                except OSError as error:
                    ours.close()
                    broken: OSError | None = error
                else:
                    return _Lane(Channel(ours))
                finally:
                    theirs.close()
            else:
                broken = None
        raise self.crash() from broken

    def _give(self, lane: _Lane) -> None:
        with self._lock:
            if not self._reason:
                self._free.append(lane)
                return
        lane.channel.close()

    def crash(self, what: str = "") -> EngineCrashedError | EngineMissingError:
        """Ends the process and returns an error with its exit status."""
        try:
            if not what:
                _wait_for_end(self._process.pid, END_S)
            self._process.wait(0 if what else END_S)  # another thread may just be asking
        except subprocess.TimeoutExpired:
            self.kill(what or "stopped answering and was ended")
            self._process.wait()
        self._reader.join(END_S)
        with self._lock:
            reason = self._reason or f"ended with {_ending(self._process.returncode)}"
        last = "\n".join(self._lines)
        if self._process.returncode == CANNOT_START:
            return EngineMissingError(
                f"{self._label}: {last or reason}",
                action=f"Install msgspec, numpy, packaging and the engine for {self._python}.",
            )
        return EngineCrashedError(
            f"the process of {self._label} {reason}", actual=f"its last words: {last}" if last else None
        )

    def kill(self, reason: str) -> None:
        """Ends the process now.

        Args:
            reason: What the error of the calls that it was at says: "the process of … <reason>".
        """
        with self._lock:
            if self._process.poll() is None and not self._reason:
                self._reason = reason
                log.warning("the process of %s %s", self._label, reason)
        self._process.kill()
        self._let_go()

    def close(self) -> None:
        """Ends the process when nothing runs on it; done twice it changes nothing."""
        with self._lock:
            self._reason = self._reason or "was closed"
        self._control.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_S)
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            free, self._free = self._free, []
            life, self._life = self._life, -1
        for lane in free:
            lane.channel.close()
        self._control.close()
        if life >= 0:
            os.close(life)

    def _read_stderr(self) -> None:
        stream = self._process.stderr
        if stream is None:
            return
        with stream:
            for line in stream:
                text = line.decode(errors="replace").rstrip()
                self._lines.append(text)
                log.debug("%s: %s", self._label, text)


def _wait_for_end(pid: int, timeout_s: float) -> None:
    """Waits for a child to end, without the polling pauses of ``Popen.wait``, as a call is waiting."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it was reaped by another thread
        return
    try:
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        watch.poll(timeout_s * 1e3)
    finally:
        os.close(descriptor)


def _good(reply: Reply) -> Reply:
    if isinstance(reply, EngineFailed):
        raise unpack_error(reply)
    return reply


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
