"""A bad line between this machine and a network namespace: rate, delay and loss of every packet, and breaks.

This kernel has no netem, so the packets pass through this process, from one tun device to another. It needs root.

::

    this machine, 10.77.0.1  ── tun ── Wire ── tun ──  namespace, 10.77.0.2
"""

from __future__ import annotations

import dataclasses
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
QUEUE_S = 0.3
"""What waits longer than this for the line is dropped, as a router's queue does."""


@dataclasses.dataclass(frozen=True, slots=True)
class LinkQuality:
    """What a slow line does to packets.

    Attributes:
        bits_s: Rate each way, of IP packets.
        delay_s: One way.
        loss: Share of the packets that are lost, each way.
    """

    bits_s: float
    delay_s: float
    loss: float


class Wire:
    """A namespace at the other end of a line.

    Attributes:
        here: Address of this machine's end.
        there: Address of the namespace's end.
        namespace: Its name, for ``ip netns exec``; removed by `close`.
    """

    here, there = "10.77.0.1", "10.77.0.2"
    namespace = "lineside-far"

    def __init__(self, line: LinkQuality) -> None:
        self._line = line
        self._down = False
        self._closing = False
        self._random = random.Random(7)
        run("ip", "netns", "add", self.namespace)
        self._ends = [_tun("lsnear0"), _tun("lsfar0")]
        run("ip", "addr", "add", f"{self.here}/24", "dev", "lsnear0")
        run("ip", "link", "set", "lsnear0", "up")
        run("ip", "link", "set", "lsfar0", "netns", self.namespace)
        inside = ("ip", "netns", "exec", self.namespace, "ip")
        run(*inside, "addr", "add", f"{self.there}/24", "dev", "lsfar0")
        run(*inside, "link", "set", "lsfar0", "up")
        run(*inside, "link", "set", "lo", "up")
        self._threads = [
            threading.Thread(target=self._carry, args=pair, daemon=True)
            for pair in (tuple(self._ends), tuple(reversed(self._ends)))
        ]
        for thread in self._threads:
            thread.start()

    def break_for(self, seconds: float) -> None:
        """Resets every connection over the line and lets nothing through for a while."""
        self._down = True
        run("ss", "-K", "dst", self.there, quiet=True)
        run("ip", "netns", "exec", self.namespace, "ss", "-K", "dst", self.here, quiet=True)
        time.sleep(seconds)
        self._down = False

    def close(self) -> None:
        """Removes the namespace and both devices."""
        self._closing = True
        for thread in self._threads:
            thread.join(2.0)
        for end in self._ends:
            os.close(end)
        run("ip", "netns", "del", self.namespace)

    def _carry(self, source: int, sink: int) -> None:
        line, waiting, free_at_s = self._line, list[tuple[float, int, bytes]](), 0.0
        count = 0
        while not self._closing:
            left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.2
            if select.select([source], [], [], min(left_s, 0.2))[0]:
                packet = os.read(source, 65536)
                now_s = time.monotonic()
                lost = self._down or self._random.random() < line.loss or free_at_s - now_s > QUEUE_S
                if not lost:
                    free_at_s = max(free_at_s, now_s) + len(packet) * 8 / line.bits_s
                    count += 1
                    heapq.heappush(waiting, (free_at_s + line.delay_s, count, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                packet = heapq.heappop(waiting)[2]
                if not self._down:
                    os.write(sink, packet)


def run(*command: str, quiet: bool = False) -> None:
    """Runs a command; it must end well."""
    subprocess.run(command, check=True, stdout=_nowhere(quiet), stderr=_nowhere(quiet))


def _nowhere(quiet: bool) -> int | None:
    return subprocess.DEVNULL if quiet else None


def _tun(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end
