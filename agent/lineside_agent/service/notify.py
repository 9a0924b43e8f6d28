"""Messages of a service of ``Type=notify`` to systemd: sd_notify(3), a datagram to its socket.

Not by a package: it is one ``sendto``. PyPI's ``sdnotify`` (last released in 2017) and ``systemd-watchdog`` are as
long, and ``cysystemd`` needs a compiler. Does nothing if ``NOTIFY_SOCKET`` is not set.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("lineside.service")


class Notifier:
    """Sends messages to the service manager.

    Args:
        environment: Has ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``; ``None`` for the process's own.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        known = os.environ if environment is None else environment
        self._address = known.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            if self._address.startswith("@"):  # the abstract name space, as unix(7) writes it
                self._address = "\0" + self._address[1:]

    @property
    def is_connected(self) -> bool:
        """Whether there is a service manager."""
        return self._socket is not None

    def ready(self) -> None:
        """Reports the end of the start: the first inference is done."""
        self._send("READY=1")

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Reports that the service ends."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Sends one line for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def close(self) -> None:
        """Closes the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:  # the watchdog will notice, if it matters
            log.warning("systemd doesn't hear %s: %s", message.partition("=")[0], error)
