"""`SerialPort`: a serial line by pyserial, with lineside's errors."""

from __future__ import annotations

import contextlib
import errno
import termios
import time
from collections.abc import Iterator

import serial

from lineside_boards.errors import BoardLinkError, ConsoleError

BAUD = 115200
"""Of the consoles of a Raspberry Pi and a Jetson; a profile may set another."""

BITS_A_BYTE = 10
"""8N1: a start bit, eight of data, a stop bit."""

READ_S = 0.05
WRITE_TIMEOUT_S = 20.0
PIECE = 64
"""Bytes written at once: half of the smallest FIFO of a USB adapter."""

_WHY = {
    errno.ENOENT: "is not there: is the adapter plugged in? `ls /dev/serial/by-id` shows the adapters.",
    errno.EACCES: "may not be opened: add yourself to the group dialout, and log in again.",
    errno.EPERM: "may not be opened: add yourself to the group dialout, and log in again.",
    errno.EBUSY: "is used by another program: end it (`fuser` shows which).",
    errno.EAGAIN: "is used by another program: end it (`fuser` shows which).",
}


class SerialPort:
    """An open serial line, locked against other programs.

    Args:
        path: Such as ``/dev/ttyUSB0``, or a URL of pyserial, such as ``rfc2217://host:2217``.
        baud: Bits a second.

    Raises:
        ConsoleError: It cannot be opened.
    """

    def __init__(self, path: str, *, baud: int = BAUD) -> None:
        self.path = path
        self.baud = baud
        local = {} if "://" in path else {"exclusive": True}
        try:
            self._line = serial.serial_for_url(
                path, baudrate=baud, timeout=READ_S, write_timeout=WRITE_TIMEOUT_S, **local
            )
        except (serial.SerialException, OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            busy = "exclusively lock" in str(error)
            why = _WHY[errno.EBUSY] if busy else _WHY.get(number or 0, f"can't be opened: {error}")
            what, _, action = why.partition(": ")
            raise ConsoleError(f"{path} {what}", action=f"{action[:1].upper()}{action[1:]}" or None) from error

    def read(self) -> bytes:
        """Returns the bytes that have arrived, after at most `READ_S`.

        Raises:
            BoardLinkError: The adapter was removed.
        """
        with self._lost():
            data: bytes = self._line.read(max(1, self._line.in_waiting))
            return data

    def write(self, data: bytes) -> None:
        """Sends bytes.

        Raises:
            BoardLinkError: The adapter was removed, or accepts nothing.
        """
        for start in range(0, len(data), PIECE):
            with self._lost():
                self._line.write(data[start : start + PIECE])
                self._line.flush()

    def silence(self, quiet_s: float, longest_s: float) -> bytes:
        """Reads until the line was silent for ``quiet_s``, at most ``longest_s``; returns what was read."""
        seen, begun = bytearray(), time.monotonic()
        last = begun
        while time.monotonic() - last < quiet_s and time.monotonic() - begun < longest_s:
            if data := self.read():
                seen += data
                last = time.monotonic()
        return bytes(seen)

    def close(self) -> None:
        """Closes the line."""
        with contextlib.suppress(serial.SerialException, OSError):
            self._line.close()

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        # termios.error, which is no OSError, is raised if the adapter goes while the output drains; TypeError is raised
        # by pyserial for a port that was closed.
        except (serial.SerialException, OSError, termios.error, TypeError) as error:
            raise BoardLinkError(
                f"{self.path} is gone: {error}",
                action="Plug the adapter in again and run the same command again: it goes on where the board stands.",
            ) from error
