"""The protocol of a camera's child process on a pipe to the agent. Python 3.9 and later reads this file, without
packages.

A message is a head and a payload: pixels, or text. The child writes at least twice a second, so that a process that
hangs is told from a camera that waits for its trigger. It ends when its input is closed, so with the agent, however
that ended.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time

HEAD = struct.Struct("<4sHHIIqI")
"""Magic, kind, encoding (its index in `ENCODINGS`), height, width, Unix time of the capture in ns, payload's bytes."""

MAGIC = b"LSC1"

FRAME, LOST, ALIVE, FAILED = range(4)
"""An image; one that was lost, and why; nothing yet; the end, and why."""

ENCODINGS = ("Mono8", "BGR8", "RGB8", "BayerRG8", "BayerGR8", "BayerGB8", "BayerBG8")
"""GenICam's names; three bytes a pixel for BGR8 and RGB8, else one."""

ALIVE_EVERY_S = 0.5

END_WITHIN_S = 3.0
"""Time for the child to release its camera."""


class Pipe:
    """The child's end. Anything else that the vendor's library prints goes to standard error.

    Attributes:
        ended: Set when the agent wants no more: the camera must be released at once.
    """

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._sent_at_s = 0.0
        threading.Thread(target=self._end_with_input, daemon=True).start()

    def frame(self, pixels: bytes | memoryview, encoding: str, height: int, width: int, captured_at_ns: int) -> None:
        """Sends an image."""
        index = ENCODINGS.index(encoding)
        self._write(HEAD.pack(MAGIC, FRAME, index, height, width, captured_at_ns, len(pixels)))
        self._write(pixels)

    def lost(self, reason: str, captured_at_ns: int) -> None:
        """Reports an image that was lost on its way."""
        self._text(LOST, reason, captured_at_ns)

    def alive(self) -> None:
        """Reports that nothing came, as expected; sends nothing if the last message was just now."""
        if time.monotonic() - self._sent_at_s >= ALIVE_EVERY_S:
            self._text(ALIVE, "", 0)

    def failed(self, reason: str) -> None:
        """Reports why the child ends."""
        self._text(FAILED, reason, 0)

    def _text(self, kind: int, text: str, captured_at_ns: int) -> None:
        data = text.encode()
        self._write(HEAD.pack(MAGIC, kind, 0, 0, 0, captured_at_ns, len(data)) + data)

    def _write(self, data: bytes | memoryview) -> None:
        self._sent_at_s = time.monotonic()
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._out, left) :]
        except BrokenPipeError:
            self.ended.set()

    def _end_with_input(self) -> None:
        while sys.stdin.buffer.read(4096):
            pass
        self.ended.set()
        time.sleep(END_WITHIN_S)
        os._exit(1)  # the driver hangs
