"""Network namespaces that a switch joins, for workers over a link of a given rate: needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.smoke import SMOKE
from tests.peers.waiting import free_port

PORT = 29511


@dataclass(frozen=True, slots=True)
class Link:
    """A switch in a namespace of its own, and a cable to each worker's.

    Attributes:
        names: Of the workers' namespaces, and of the interface in each.
        port: Under which the first worker is found.
    """

    names: tuple[str, ...]
    port: int = PORT

    def command(self, rank: int, *words: str) -> list[str]:
        """Returns a command that runs at one end."""
        return list(words) if SMOKE else ["ip", "netns", "exec", self.names[rank], *words]

    def _environment(self, rank: int) -> dict[str, str]:
        """Returns the environment of a worker of torch."""
        return os.environ | {
            "MASTER_ADDR": "127.0.0.1" if SMOKE else _address(0),
            "MASTER_PORT": str(self.port),
            "GLOO_SOCKET_IFNAME": self.names[rank],
            "OMP_NUM_THREADS": "1",
        }

    def last_lines(self, *words: str) -> list[str]:
        """Runs a Python program in each namespace, and returns the last line that each printed.

        Args:
            words: Its arguments to Python; behind them come the rank, the number of workers and the interface.

        Raises:
            RuntimeError: One of them failed.
        """
        running = []
        for rank, name in enumerate(self.names):
            command = self.command(rank, sys.executable, *words, str(rank), str(len(self.names)), name)
            running.append(subprocess.Popen(command, env=self._environment(rank), stdout=subprocess.PIPE, text=True))
        texts = [each.communicate(timeout=900.0)[0] for each in running]
        if any(each.returncode for each in running):
            raise RuntimeError(f"a worker ended with {[each.returncode for each in running]}")
        return [text.strip().splitlines()[-1] for text in texts]


def _address(rank: int) -> str:
    return f"10.77.0.{rank + 1}"


def missing() -> str | None:
    """Returns what is missing here; ``None`` if nothing is."""
    if SMOKE:
        return None
    if os.geteuid() != 0:
        return "namespaces need root"
    absent = [name for name in ("ip", "tc") if shutil.which(name) is None]
    return f"{' and '.join(absent)} of Debian's iproute2" if absent else None


def set_rate(interface: str, rate_mbit: float) -> None:
    """Shapes the traffic from one end; not in a smoke run."""
    if SMOKE:
        return
    words = f"tc qdisc replace dev {interface} root tbf rate {rate_mbit:.0f}mbit burst 512kb latency 800ms"
    _run(*words.split())


def smoked() -> dict[str, str]:
    """Returns the remark in the result of a smoke run."""
    return {"left_out": "the namespaces and the shaped link: loopback in their place"} if SMOKE else {}


@contextlib.contextmanager
def link(workers: int = 2) -> Iterator[Link]:
    """Makes the namespaces and their cables, and takes them away again; in a smoke run all workers share loopback."""
    if SMOKE:
        yield Link(("lo",) * workers, free_port())
        return
    switch = f"ls{os.getpid()}s"
    names = tuple(f"ls{os.getpid()}n{rank}" for rank in range(workers))
    try:
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "switch", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "switch", "up")
        for rank, name in enumerate(names):
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", name, "netns", name, "type", "veth", "peer", name, "netns", switch)
            _run("ip", "-n", switch, "link", "set", name, "master", "switch", "up")
            _run("ip", "-n", name, "address", "add", f"{_address(rank)}/24", "dev", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "-n", name, "link", "set", name, "up")
        yield Link(names)
    finally:
        for name in (switch, *names):
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def _run(*words: str) -> None:
    subprocess.run(words, check=True)
