"""Start, ask and end the process of a contestant."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from lineside_runtime.benchmark.measurement import runner
from lineside_runtime.benchmark.measurement.contestants import ContestantEntry
from lineside_runtime.benchmark.measurement.protocol import (
    Command,
    MeasurementTask,
    MemoryUse,
    Profiled,
    Ready,
    Reply,
    TaskFailed,
    TurnTimed,
    WarmUpResult,
    config_to_plain,
    decode_reply,
    encode,
    to_error,
)
from lineside_runtime.errors import DeadlineExceededError, EngineCrashedError
from lineside_runtime.system.packages import child_environment

ANSWER_MAX_S = 300.0
"""An answer that takes longer than this is given up: loading, warming and a turn are all far shorter."""

END_S = 2.0
"""How long a process may take to end by itself."""

_MODULE = "lineside_runtime.benchmark.measurement.worker"
_Answer = TypeVar("_Answer", Ready, WarmUpResult, TurnTimed, MemoryUse, Profiled)


class Process:
    """A contestant in a process of its own, so that it shares neither memory nor threads with the others.

    Not ``multiprocessing``: that imports the caller's main module again, and a script that measures at its top level
    would start itself.

    Attributes:
        ready: Its first answer, when the bundle is loaded.
    """

    def __init__(self, entry: ContestantEntry, inputs: Path | None = None) -> None:
        """Starts it and waits for its first result.

        Raises:
            LinesideError: What it met while loading; `EngineCrashedError` if it died, `DeadlineExceededError` if it
                did not answer.
        """
        one = entry.contestant
        task = MeasurementTask(
            folder=str(entry.bundle.path),
            config=config_to_plain(one.config),
            level=one.level,
            batch=one.batch,
            streams=one.streams,
            inputs="" if inputs is None else str(inputs),
            spawned_ns=time.monotonic_ns(),
            warm_max_s=runner.WARM_MAX_S,
        )
        self._name = entry.name
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
            bufsize=0,
        )
        self._pending = b""
        try:
            self.ready = self.ask(task, Ready)
        except BaseException:  # an interrupt too: no other code could end the process yet
            self.end()
            raise

    def ask(self, command: Command, expected: type[_Answer]) -> _Answer:
        """Sends a command and returns its answer.

        Raises:
            LinesideError: See the constructor.
        """
        stdin = self._process.stdin
        if stdin is None:
            raise EngineCrashedError(f"{self._name}: its process has no standard input", action="Try again.")
        try:
            stdin.write(encode(command))
        except BrokenPipeError:
            raise self._death_error() from None
        reply = self._read()
        if isinstance(reply, TaskFailed):
            raise to_error(reply)
        if not isinstance(reply, expected):
            raise EngineCrashedError(f"{self._name}: its process lost the thread", actual=type(reply).__name__)
        return reply

    def end(self) -> None:
        """Ends the process and waits until it is gone; done twice it changes nothing.

        It is let go first, so that it can end what it has started itself, such as an isolated engine.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        try:
            if stdin is not None:
                stdin.close()
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:  # still in a call of the engine
            pass
        finally:
            self._process.kill()
            self._process.wait()
            if stdout is not None:
                stdout.close()

    def __enter__(self) -> Process:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.end()

    def _read(self) -> Reply:
        stdout = self._process.stdout
        give_up_s = time.monotonic() + ANSWER_MAX_S
        while b"\n" not in self._pending:
            left_s = give_up_s - time.monotonic()
            if stdout is None or left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
                raise DeadlineExceededError(
                    f"{self._name}: no answer within {ANSWER_MAX_S:.0f} s", action="Measure it alone, with --rounds 20."
                )
            data = os.read(stdout.fileno(), 1 << 16)
            if not data:
                raise self._death_error()
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            return decode_reply(line)
        except msgspec.DecodeError as error:
            raise EngineCrashedError(f"{self._name}: unreadable answer: {error}", action="Try again.") from error

    def _death_error(self) -> EngineCrashedError:
        status = self._process.wait()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return EngineCrashedError(
            f"the process that measures {self._name} has died", actual=how, action="Its last words stand above."
        )
