"""A Ray cluster of its own on this machine: nodes by ``ray start``, which can be killed whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

START_S = 200.0


class Cluster:
    """Nodes of one CPU each.

    Attributes:
        environment: Of commands that are to find this cluster and no other.
        address: Of the head node.
        client: Of its server for Ray's client.
    """

    def __init__(self, folder: Path) -> None:
        """Takes a folder of its own, with a short name, because sockets lie in it."""
        port, client = _free_ports(2)
        self.environment = {
            key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_TRAIN_V2_ENABLED")
        } | {
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # 15 otherwise: on a busy machine the nodes would outrun the workers
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_raylet_start_wait_time_s": str(round(START_S)),
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": str(round(START_S)),
            "OMP_NUM_THREADS": "1",
        }
        self.address, self.client = f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._head = ["--head", f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false"]

    def start(self) -> None:
        """Starts the head node."""
        self._start(self._head)

    def add(self) -> subprocess.Popen[bytes]:
        """Adds a node."""
        return self._start([f"--address={self.address}"])

    def _start(self, words: list[str]) -> subprocess.Popen[bytes]:
        ray = str(Path(sys.executable).with_name("ray"))
        words = [ray, "start", *words, "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1"]
        log = self._folder / f"node-{len(self._nodes)}.log"
        with log.open("wb") as stream:
            node = subprocess.Popen(
                [*words, f"--object-store-memory={100 << 20}", "--disable-usage-stats"],
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._nodes.append(node)
        end_s = time.monotonic() + START_S
        while b"Ray runtime started" not in log.read_bytes():
            if node.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"no node of Ray:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Ends a node as a power cut would: all its processes at once, none of them asked."""
        processes = _of_session(node.pid)
        for each in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGSTOP)  # none sees another one die
        for each in {*processes, *_of_session(node.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        """Ends all nodes, and what is left of those that never came up."""
        for node in reversed(self._nodes):
            self.kill(node)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Starts a head node."""
    folder = Path(tempfile.mkdtemp(prefix="ls-ray-", dir="/tmp"))
    found = Cluster(folder)
    try:
        found.start()
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


def _of_session(number: int) -> list[int]:
    """Returns the processes of a session: all that a node has started, also where their parents have ended."""
    found = []
    for each in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(each) == number:
                found.append(each)
    return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
