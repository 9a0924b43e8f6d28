"""Debian's redis-server as a child process: one, or a cluster of three, on free loopback ports."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.peers.processes import ChildProcess
from tests.peers.programs import find_program
from tests.peers.waiting import free_port, wait_for

SLOTS = 16384

INVITED_AGAIN_S = 5.0
"""A node that does not answer an invitation within its time-out of 2 s is forgotten; beside other work it may not."""


class RedisServer(ChildProcess):
    """A server that keeps nothing over a restart.

    Attributes:
        port: On loopback.
    """

    def __init__(self, folder: Path, *, options: tuple[str, ...] = (), port: int | None = None) -> None:
        self.port = port or free_port()
        self.options = options
        program = find_program("redis-server", "redis-server")
        nothing_kept = ("--save", "", "--appendonly", "no", "--dir", str(folder))
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", *nothing_kept, *options]
        super().__init__(command, folder / "redis.log")
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, command: Sequence[str | Path] | None = None) -> None:
        super().start(command)
        self.wait_for(self._answers, what=f"redis on port {self.port}")

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == "PONG"
        except OSError:
            return False

    def ask(self, *words: str | int) -> str:
        """Sends one command as a person would with redis-cli, and returns the first line of the answer, or the second
        where the first one only says how long that is."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(f"{' '.join(map(str, words))}\r\n".encode())
            answer = b""
            while not answer.endswith(b"\r\n") or answer.count(b"\r\n") < (2 if answer.startswith(b"$") else 1):
                data = connection.recv(65536)
                if not data:
                    raise ConnectionError("redis closed the connection")
                answer += data
        lines = answer.decode().split("\r\n")
        return lines[1] if lines[0].startswith("$") else lines[0][1:]

    def tell(self, commands: Iterable[str]) -> None:
        """Sends many commands at once, each of which must be answered with OK."""
        lines = [f"{command}\r\n".encode() for command in commands]
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(b"".join(lines))
            answer = b""
            while answer.count(b"\r\n") < len(lines):
                answer += connection.recv(65536)
        assert answer == b"+OK\r\n" * len(lines), answer[:200]


@contextmanager
def running_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(folder, options=options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def running_cluster(folder: Path) -> Iterator[list[RedisServer]]:
    """Three masters without replicas; the others go on where one is down."""
    servers: list[RedisServer] = []
    try:
        for number in range(3):
            options = (
                "--cluster-enabled",
                "yes",
                "--cluster-require-full-coverage",
                "no",
                "--cluster-node-timeout",
                "2000",
            )
            bus = ("--cluster-port", str(free_port()))
            servers.append(RedisServer(folder / str(number), options=(*options, *bus)))
            servers[-1].start()
        _join(servers)
        yield servers
    finally:
        for server in servers:
            server.kill()


def _join(servers: list[RedisServer]) -> None:
    bounds = [SLOTS * number // len(servers) for number in range(len(servers) + 1)]
    for number, server in enumerate(servers):
        server.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    invited_s = -INVITED_AGAIN_S

    def whole() -> bool:
        nonlocal invited_s
        if time.monotonic() - invited_s >= INVITED_AGAIN_S:
            _invite(servers)
            invited_s = time.monotonic()
        return all(_whole(server, len(servers)) for server in servers)

    wait_for(whole, what="the cluster")


def _invite(servers: list[RedisServer]) -> None:
    first, *others = servers
    for server in others:
        bus = server.options[server.options.index("--cluster-port") + 1]
        first.ask("CLUSTER", "MEET", "127.0.0.1", server.port, bus)


def _whole(server: RedisServer, size: int) -> bool:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"CLUSTER INFO\r\n")
        answer = connection.recv(65536).decode()
    return "cluster_state:ok" in answer and f"cluster_size:{size}" in answer
