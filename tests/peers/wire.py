"""`Wire`: a serial cable between two pseudo-terminals, which can be cut, pulled out, slow, noisy, or talked into."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import random
import select
import threading
import tty

_PIECE = 16
"""Bytes carried at once: a UART's FIFO."""


class Wire:
    """A cable; use it in a ``with``.

    Args:
        loss: Share of the bytes that are lost, in both directions.
        seed: Of what is lost.
    """

    def __init__(self, *, loss: float = 0.0, seed: int = 8) -> None:
        self.loss = loss
        self._noise = random.Random(seed)
        self._here, here = pty.openpty()
        self._there, there = pty.openpty()
        tty.setraw(here)
        tty.setraw(there)  # whoever listens there sets it as he wants it; alone it is silent
        self.desk, self.board = os.ttyname(here), os.ttyname(there)
        """Paths of both ends."""
        self._slaves = [here, there]
        self._cut, self._mute = threading.Event(), threading.Event()
        self._end = threading.Event()
        self._inject = bytearray()
        self._lock = threading.Lock()
        self.heard = bytearray()
        """Everything that the board has said."""
        self.typed = bytearray()
        """Everything that the desk has sent."""
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)
        self.unplug()
        for end in (*self._slaves, self._there):
            with contextlib.suppress(OSError):
                os.close(end)

    def cut(self, *, on: bool = True) -> None:
        """Breaks the wires (the adapter is still there), or joins them again."""
        if on:
            self._cut.set()
        else:
            self._cut.clear()

    def mute(self, *, on: bool = True) -> None:
        """Breaks the wire on which the board talks, or joins it again."""
        if on:
            self._mute.set()
        else:
            self._mute.clear()

    def unplug(self) -> None:
        """Takes the adapter away: its file is gone for whoever holds it."""
        with self._lock:
            here, self._here = self._here, -1
            if here >= 0:
                os.close(here)

    def say(self, text: bytes) -> None:
        """Lets the kernel talk into whatever the board says."""
        with self._lock:
            self._inject += text

    def _carry(self) -> None:
        while not self._end.is_set():
            with self._lock:
                here = self._here
            ends = [end for end in (here, self._there) if end >= 0]
            try:
                ready = select.select(ends, [], [], 0.02)[0]
            except (OSError, ValueError):
                continue  # the adapter was pulled out just now
            if here in ready:
                self._pass(here, self._there, self.typed)
            with self._lock:
                told, self._inject = bytes(self._inject), bytearray()
            if told and not self._cut.is_set():
                self._write(here, told)
            if self._there in ready:
                self._pass(self._there, here, self.heard)

    def _pass(self, source: int, target: int, seen: bytearray) -> None:
        try:
            data = os.read(source, _PIECE)
        except OSError as error:
            if error.errno == errno.EIO:  # nobody has it open: between getty and login, or while nobody reads
                self._end.wait(0.01)
            return
        seen += data
        if not self._cut.is_set() and not (seen is self.heard and self._mute.is_set()):
            kept = bytes(byte for byte in data if self.loss == 0.0 or self._noise.random() >= self.loss)
            self._write(target, kept)

    def _write(self, target: int, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while data and target >= 0:
                data = data[os.write(target, data) :]
