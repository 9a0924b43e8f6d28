"""Verdicts as lines of text over a serial port.

One line a part, ASCII, ended by a line feed::

    V <sequence> <PASS|REJECT|FAULT> <part_id>

``<sequence>`` is the frame's number at its source, in decimal digits. ``FAULT`` means that nobody has judged the part:
reject it. A part whose line doesn't come in time is to be rejected too. After a restart of the agent the last line
before it may come again. Characters of the part's name outside printable ASCII become ``_``.
"""

from __future__ import annotations

import contextlib
import re

import serial

from lineside_agent.line_io.base import LineOutput, Signal

WORDS = {"pass": "PASS", "reject": "REJECT", "fault": "FAULT"}


class SerialOutput(LineOutput):
    """A serial port.

    Args:
        port: Such as ``/dev/ttyUSB0``.
        baud: Bits a second.
        timeout_s: The longest that one line may take.
    """

    def __init__(self, port: str, *, baud: int = 115200, timeout_s: float = 0.2) -> None:
        super().__init__(f"serial {port}")
        self._port_name = port
        self._baud = baud
        self._timeout_s = timeout_s
        self._port: serial.Serial | None = None

    def _open(self) -> None:
        # pyserial's SerialException is an OSError.
        self._port = serial.Serial(self._port_name, self._baud, write_timeout=self._timeout_s, exclusive=True)

    def _send(self, signal: Signal) -> None:
        if self._port is None:
            raise OSError("the port is closed")
        self._port.write(line_of(signal))

    def _close(self) -> None:
        if self._port is not None:
            with contextlib.suppress(OSError):
                self._port.close()
            self._port = None


def line_of(signal: Signal) -> bytes:
    """Returns the line of one part."""
    part_id = re.sub(r"[^!-~]", "_", signal.part_id)
    return f"V {signal.sequence} {WORDS[signal.verdict]} {part_id}\n".encode("ascii")
