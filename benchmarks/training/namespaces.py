"""Two network namespaces and a link of a given rate between them: needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

PORT = 29511
ADDRESSES = ("10.77.0.1", "10.77.0.2")


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair with an end in each namespace.

    Attributes:
        names: Of the namespaces, and of the interface in each.
    """

    names: tuple[str, str]

    def command(self, rank: int, *words: str) -> list[str]:
        """Returns a command that runs at one end."""
        return ["ip", "netns", "exec", self.names[rank], *words]


def missing() -> str | None:
    """Says what is missing here, or returns ``None``."""
    if os.geteuid() != 0:
        return "namespaces need root"
    absent = [name for name in ("ip", "tc") if shutil.which(name) is None]
    return f"{' and '.join(absent)} of Debian's iproute2" if absent else None


@contextlib.contextmanager
def link() -> Iterator[Link]:
    """Makes both namespaces and the pair, and takes them away again."""
    names = (f"ls{os.getpid()}a", f"ls{os.getpid()}b")
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        _run("ip", "link", "add", names[0], "netns", names[0], "type", "veth", "peer", names[1], "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "-n", name, "link", "set", name, "up")
        yield Link(names)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def _run(*words: str) -> None:
    subprocess.run(words, check=True)
