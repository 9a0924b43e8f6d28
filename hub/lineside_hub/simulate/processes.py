"""Broker, hub and workers of a simulation as child processes, and what is measured of them."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from lineside_link.config import LinkConfig
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BrokerError, RolloutError

_log = logging.getLogger("lineside.hub.simulate")

START_S = 30.0
SYS_BYTES_SENT = "$SYS/broker/bytes/sent"


class Child:
    """A child process with its log.

    Attributes:
        process: Running, or ended.
        log: Of what it prints.
    """

    def __init__(self, command: Sequence[str], log: Path, *, talks: bool = False) -> None:
        self.log = log
        pipe = subprocess.PIPE if talks else subprocess.DEVNULL
        with log.open("ab") as file:
            out = subprocess.PIPE if talks else file
            self.process = subprocess.Popen(command, stdin=pipe, stdout=out, stderr=file)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it with SIGTERM, after 15 s with SIGKILL."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def check(self) -> None:
        """Raises `RolloutError` if it has ended."""
        if self.process.poll() is not None:
            code = self.process.returncode
            raise RolloutError(f"{self.log.stem} ended with {code}", actual=self.last_words(), action="Read its log.")

    def last_words(self) -> str:
        """Returns the last lines of its log."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])

    def ask(self, *words: str) -> dict[str, Any]:
        """Sends an order to a worker and returns its answer."""
        self.send(*words)
        return self.answer()

    def send(self, *words: str) -> None:
        """Sends an order."""
        self.check()
        if self.process.stdin is not None:
            self.process.stdin.write((" ".join(words) + "\n").encode())
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Returns the answer to the oldest order that has none yet."""
        line = self.process.stdout.readline() if self.process.stdout is not None else b""
        if not line:
            self.process.wait(10)
            self.check()
        answer: dict[str, Any] = decode_json(line)
        return answer

    def peak_rss_bytes(self) -> int:
        """Returns its peak memory, by the kernel's count."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0


def start_broker(folder: Path, port: int) -> tuple[Child, str]:
    """Starts mosquitto if it is installed, else the embedded broker.

    Args:
        folder: For its configuration and log.

    Returns:
        The process and the broker's name.

    Raises:
        BrokerError: It doesn't answer.
    """
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is not None:
        file = folder / "mosquitto.conf"
        file.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            "max_queued_messages 10000\nsys_interval 1\n"
        )
        child, name = Child([program, "-c", str(file)], folder / "broker.log"), "mosquitto"
    else:
        command = [sys.executable, "-m", "lineside_hub", "broker", "--port", str(port)]
        child, name = Child(command, folder / "broker.log"), "amqtt"
    deadline = time.monotonic() + START_S
    while not listening(port):
        child.check()
        if time.monotonic() > deadline:
            raise BrokerError(f"{name} doesn't answer on port {port}", action=f"Read {child.log}.")
        time.sleep(0.05)
    return child, name


def free_port() -> int:
    """Returns a loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def listening(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


class SentBytes:
    """Bytes that the broker has sent, by its ``$SYS`` topics; else what left this machine's network interfaces.

    Attributes:
        source: ``broker`` or ``interfaces``.
    """

    def __init__(self, link: LinkConfig) -> None:
        self._count: int | None = None
        self._fresh = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._take
        self._client.connect(link.host, link.port)
        self._client.subscribe(SYS_BYTES_SENT)
        self._client.loop_start()
        self.source = "broker" if self._fresh.wait(5.0) else "interfaces"

    def _take(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        self._count = int(message.payload)
        self._fresh.set()

    def read(self) -> int:
        """Returns the count; the broker's is at most a second old."""
        if self.source == "interfaces":
            return _interfaces()
        self._fresh.clear()
        self._fresh.wait(3.0)
        return self._count or 0

    def close(self) -> None:
        """Ends the connection."""
        self._client.disconnect()
        self._client.loop_stop()


def _interfaces() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[8]) for line in lines)
