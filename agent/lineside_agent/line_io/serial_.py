"""Verdicts as lines of text over a serial port, and triggers the same way.

One line a part, ASCII, ended by a line feed::

    V <sequence> <PASS|REJECT|FAULT> <part_id>

With ``defects = true`` what was found stands behind it, ``-`` for nothing::

    V <sequence> <PASS|REJECT|FAULT> <part_id> <code> <defect> <count> <score> <camera>

The reference is ``docs/reference/serial.md``. ``<sequence>`` is the frame's number at its source, or the trigger's
where the line triggers, in decimal digits. ``FAULT`` means that nobody has judged the part: reject it. An unsure
verdict is a ``REJECT``. A part whose line doesn't come in time is to be rejected too. After a restart of the agent the
last line before it may come again. Characters of the part's name outside printable ASCII become ``_``.

Where ``agent.toml`` has a ``[trigger]`` table, the agent tells its levels whenever one of them changes::

    S <READY|BUSY|WAIT> <fault code> <0|1: the gate>
    P <recipe>         which recipe runs; only on a line with recipes

An empty line ends one that was torn when the port was lost. And the line may say::

    T [<part_id>]      a part is in front of the camera; the id: at most 128 printable ASCII characters, no space
    E <count>          the encoder's count
    A                  the last result is taken
    R                  the operator's reset
    C                  a shift begins: challenge parts follow
    P <recipe>         another product follows: its recipe, by name

A ``T`` with anything else behind it is answered with reject: ``V <sequence> FAULT trigger-<sequence>``. Other lines are
logged and ignored.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time

import serial

from lineside_agent.line_io.base import LineOutput, Post, Signal
from lineside_agent.line_io.events import (
    ChallengeRequested,
    Encoder,
    Event,
    LineState,
    PartAcknowledged,
    ResetPressed,
    SelectRecipe,
    Triggered,
)

log = logging.getLogger("lineside.line_io")

WORDS = {"pass": "PASS", "reject": "REJECT", "fault": "FAULT"}

LINE_MAX = 256
"""Longest line from outside, in bytes; a longer one is noise."""

READ_S = 0.1


class SerialOutput(LineOutput):
    """A serial port.

    Args:
        port: Such as ``/dev/ttyUSB0``.
        baud: Bits a second.
        timeout_s: Longest time to write one line.
        defects: Whether a verdict's line contains the defects.
    """

    def __init__(self, port: str, *, baud: int = 115200, timeout_s: float = 0.2, defects: bool = False) -> None:
        super().__init__(f"serial {port}")
        self._port_name = port
        self._baud = baud
        self._timeout_s = timeout_s
        self._defects = defects
        self._port: serial.Serial | None = None
        self._write_lock = threading.RLock()  # to open, to write and to close; reading needs none
        self._closing = threading.Event()
        self._reader: threading.Thread | None = None
        self._state_line = b""
        self._recipe_line = b""
        self._was_opened = False

    def signal(self, signal: Signal) -> bool:
        """As `LineOutput.signal`."""
        with self._write_lock:
            return super().signal(signal)

    def show(self, state: LineState) -> None:
        """As `LineOutput.show`; levels that cannot be sent now are sent when the port is open again."""
        level = "READY" if state.ready else "BUSY" if state.busy else "WAIT"
        line = f"S {level} {int(state.fault)} {int(state.gate)}\n".encode("ascii")
        recipe = f"P {state.recipe}\n".encode("ascii") if state.recipe else b""
        with self._write_lock:
            if recipe != self._recipe_line:
                self._recipe_line = recipe
                self._write(recipe)
            if line != self._state_line:
                self._state_line = line
                self._write(line)

    def listen(self, post: Post) -> None:
        """As `LineOutput.listen`."""
        self._reader = threading.Thread(target=self._read, args=(post,), name=f"read {self.name}", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """As `LineOutput.close`."""
        self._closing.set()
        if self._reader is not None:
            self._reader.join(2.0)
        with self._write_lock:
            super().close()

    def _open(self) -> None:
        # pyserial's SerialException is an OSError.
        self._port = serial.Serial(
            self._port_name, self._baud, timeout=READ_S, write_timeout=self._timeout_s, exclusive=True
        )
        end = b"\n" if self._was_opened else b""  # of a line that the loss has torn, or the next would be glued to it
        self._was_opened = True
        try:
            self._port.write(end + self._recipe_line + self._state_line)
        except OSError:
            self._close()  # one that is not closed could not be opened again
            raise

    def _send(self, signal: Signal) -> None:
        if self._port is None:
            raise OSError("the port is closed")
        self._port.write(line_of(signal, defects=self._defects))

    def _close(self) -> None:
        if self._port is not None:
            with contextlib.suppress(OSError):
                self._port.close()
            self._port = None

    def _write(self, line: bytes) -> None:
        if self._port is not None and line:
            try:
                self._port.write(line)
            except OSError as error:
                self._lost(error)

    def _read(self, post: Post) -> None:
        buffer = bytearray()
        while not self._closing.is_set():
            port = self._opened()
            if port is None:
                buffer.clear()
                self._closing.wait(READ_S)
                continue
            try:
                buffer += port.read(max(1, port.in_waiting))
            except (OSError, TypeError) as error:  # TypeError: pyserial's, when the writer closes it meanwhile
                self._lost_by_reader(port, error)
            at_s = time.monotonic()
            while b"\n" in buffer:
                line, _, rest = bytes(buffer).partition(b"\n")
                buffer[:] = rest
                self._received(line, post, at_s)
            if len(buffer) > LINE_MAX:
                log.error("%s: %d bytes without a line's end are ignored", self.name, len(buffer))
                buffer.clear()

    def _opened(self) -> serial.Serial | None:
        with self._write_lock:
            if not self._is_open and time.monotonic() >= self._retry_at_s:
                try:
                    self._open()
                    self._is_open = True
                    log.info("%s is open", self.name)
                except OSError as error:
                    self._lost(error)
            return self._port

    def _lost_by_reader(self, port: serial.Serial, error: Exception) -> None:
        with self._write_lock:
            if self._port is port:  # else the writer has closed it, and logged that
                self._lost(OSError(str(error)))

    def _received(self, line: bytes, post: Post, at_s: float) -> None:
        event = event_of(line, self.name)
        if event is None:
            log.error("%s: %r means nothing here", self.name, line[:LINE_MAX])
            return
        post(event, at_s)
        if isinstance(event, PartAcknowledged):
            post(PartAcknowledged(False), at_s)


def line_of(signal: Signal, *, defects: bool = False) -> bytes:
    """Returns the line of one part; with ``defects`` it has the same number of words for every part."""
    words = [_word(signal.part_id)]
    if defects:
        found = signal.defects
        words = [words[0] or "-", signal.code.name, _word(found.type) or "-", str(found.count)]
        words += [f"{found.score:.2f}", _word(found.camera) or "-"]
    return f"V {signal.sequence} {WORDS[signal.verdict]} {' '.join(words)}\n".encode("ascii")


def _word(text: str) -> str:
    return re.sub(r"[^!-~]", "_", text)


def event_of(line: bytes, name: str) -> Event | SelectRecipe | None:
    """Returns the event of a received line, without its end; ``None`` for none."""
    words = line.decode("ascii", "replace").split()
    match words:
        case ["T"]:
            return Triggered(name)
        case ["T", part_id] if part_id.isascii():
            return Triggered(name, part_id)
        case ["T", *_]:
            return Triggered(name, malformed=f"{line[:LINE_MAX]!r}: one ASCII word may follow T")
        case ["E", count] if count.isdecimal() and int(count) < 1 << 32:
            return Encoder(int(count))
        case ["A"]:
            return PartAcknowledged(True)
        case ["R"]:
            return ResetPressed()
        case ["C"]:
            return ChallengeRequested()
        case ["P", recipe]:
            return SelectRecipe(recipe, name)
    return None
