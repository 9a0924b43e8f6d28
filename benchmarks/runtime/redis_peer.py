"""A redis-server of our own for a benchmark: on a free loopback port, with nothing on disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

START_S = 10.0


@contextmanager
def redis_server() -> Iterator[str]:
    """Yields the server's address.

    Raises:
        FileNotFoundError: redis-server isn't installed (Debian package redis-server).
    """
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("redis-server is not installed: tests/peers/install.sh peers")
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL) as process:
            try:
                _wait(port)
                yield f"redis://127.0.0.1:{port}"
            finally:
                process.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _wait(port: int) -> None:
    ends_s = time.monotonic() + START_S
    while time.monotonic() < ends_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"redis-server did not start within {START_S} s")
