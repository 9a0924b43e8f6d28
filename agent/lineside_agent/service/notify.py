"""What a service of ``Type=notify`` says to systemd: sd_notify(3), a datagram to the socket that it names.

Our own, because it is one ``sendto``: PyPI's ``sdnotify`` (last released in 2017) and ``systemd-watchdog`` are as long
with a class around it, and ``cysystemd`` needs a compiler. Without ``NOTIFY_SOCKET`` nothing is said to nobody.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("lineside.service")


class Notifier:
    """Speaks to whoever started this process.

    Args:
        environment: Where ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` stand; the process's own if not given.
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
        """Whether anybody listens."""
        return self._socket is not None

    def ready(self) -> None:
        """The service has started: its first inference is done."""
        self._send("READY=1")

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for people, in ``systemctl status``."""
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
