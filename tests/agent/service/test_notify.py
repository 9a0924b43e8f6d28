"""Messages to systemd, on a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_agent.service.notify import Notifier


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.settimeout(60.0)
        yield found


def test_messages_are_those_of_sd_notify(listener: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": listener.getsockname()})
    assert notifier.is_connected
    notifier.ready()
    notifier.alive()
    notifier.status("active, surface-12@1.0.0")
    notifier.stopping()
    notifier.close()
    heard = [listener.recv(4096) for _ in range(4)]
    assert heard == [b"READY=1", b"WATCHDOG=1", b"STATUS=active, surface-12@1.0.0", b"STOPPING=1"]


def test_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # the kernel chooses an abstract name
        listener.settimeout(60.0)
        notifier = Notifier({"NOTIFY_SOCKET": "@" + listener.getsockname()[1:].decode()})
        notifier.ready()
        notifier.close()
        assert listener.recv(4096) == b"READY=1"


def test_nobody_listens_and_nothing_breaks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    silent = Notifier({})
    silent.ready()
    assert not silent.is_connected
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    gone.ready()
    assert "doesn't hear READY" in caplog.text
    gone.close()
