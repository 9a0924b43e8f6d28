"""What a push costs: over loopback, over a bad line, as a patch, and to 200 devices at once.

| row | bar | baseline |
| --- | --- | --- |
| ``loopback`` | 0.8 | bare paho-mqtt, the same bytes through the same mosquitto, QoS 0, unverified and unwritten |
| ``bad_line`` | 0.8 | the line's rate times the share of time that it is up |
| ``multicast`` | 1.1 | what one device costs |

Every row runs the hub's own process behind Debian's mosquitto. ``bad_line`` and ``multicast`` need root, for namespaces
and a tun device; without it they say so and are left out. A smoke run has neither: all is on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.link import multicast_fleet
from benchmarks.link.far_device import SITE
from benchmarks.link.wire import LinkQuality, Wire
from benchmarks.link.wire import run as command
from benchmarks.smoke import SMOKE, scaled
from lineside_hub.repository.repository import Repository
from lineside_hub.simulate.processes import listening
from lineside_models import zoo
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from tests.peers.brokers import find_mosquitto
from tests.peers.waiting import free_port

GROUP = "line"
LOOPBACK_BYTES, ROUNDS = scaled((50_000_000, 15), smoke=(5_000_000, 1))
BAD_BYTES, UP_S, DOWN_S = scaled((6_000_000, 7.0, 1.0), smoke=(5_000_000, 7.0, 1.0))
BAD = LinkQuality(bits_s=2e6, delay_s=0.05, loss=0.02)
_BARE = (sys.executable, "-m", "benchmarks.link.bare_mqtt")
FLEET_BYTES, DEVICES = scaled((5_000_000, 200), smoke=(5_000_000, 3))
FLEET_BYTES_S = scaled(200_000, smoke=4_000_000)
GATHER_S = scaled(8.0, smoke=0.5)
"""Two hundred devices share this machine's cores and receive 40 MB/s at this rate."""


class TransferSite:
    """mosquitto and a hub with one published bundle.

    Args:
        folder: An empty one.
        size: Of all of the bundle's files: the shipped ones, and noise.
        address: Where the broker listens.
        inside: Namespace that the hub runs in; empty for none.
        transfer: The ``[transfer]`` table.
    """

    def __init__(
        self, folder: Path, *, size: int, address: str = "127.0.0.1", inside: str = "", **transfer: float
    ) -> None:
        self.port = free_port()
        self.url = f"mqtt://{address}:{self.port}"
        self.children: list[subprocess.Popen[str]] = []
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} {address}\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            f"max_queued_messages 2000\n{'user root' if os.geteuid() == 0 else ''}\n"
        )
        self.start([find_mosquitto(), "-c", str(folder / "mosquitto.conf")])
        repository = Repository.create(folder / "hub", groups=[GROUP])
        self.bundle = _bundle(folder / "bundle", random.Random(1).randbytes(size - _shipped_bytes()))
        repository.publish(self.bundle, GROUP)
        hub = {"folder": ".", "link": {"url": self.url, "site": SITE}, "transfer": transfer}
        (folder / "hub" / "hub.toml").write_text(tomli_w.dumps(hub))
        while address == "127.0.0.1" and not listening(self.port):
            time.sleep(0.05)
        prefix = ["ip", "netns", "exec", inside] if inside else []
        config = str(folder / "hub" / "hub.toml")
        self.start([*prefix, sys.executable, "-m", "lineside_hub", "run", "--config", config])

    def start(self, arguments: list[str]) -> subprocess.Popen[str]:
        """Starts a process that ends with the site."""
        child = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.children.append(child)
        return child

    def device(self, folder: Path, *prefix: str) -> subprocess.Popen[str]:
        """Starts a device that fetches the bundle into ``folder`` for each line on its stdin."""
        manifest = str(self.bundle.path / "manifest.json")
        return self.start(
            [*prefix, sys.executable, "-m", "benchmarks.link.far_device", self.url, manifest, str(folder)]
        )

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    stream.close()


def run() -> dict[str, Any]:
    """Measures all rows."""
    return {name: row() for name, row in ROWS.items()}


def loopback() -> dict[str, Any]:
    """A bundle of 50 MB, verified and on the disk, against its bytes as bare messages, each in turn."""
    with _site(size=LOOPBACK_BYTES) as (site, folder):
        broker, hub = site.children
        device = site.device(folder / "slot")
        ends = {"ours": {"hub": hub, "broker": broker, "device": device}}
        for qos in (0, 1):
            sender = site.start([*_BARE, "send", str(site.port), str(site.bundle.path), str(qos)])
            taker = site.start([*_BARE, "take", str(site.port), str(site.bundle.path), str(qos)])
            ends[f"bare_qos{qos}"] = {"sender": sender, "broker": broker, "taker": taker}
        seconds: dict[str, list[float]] = {name: [] for name in ends}
        cores: dict[str, list[dict[str, float]]] = {name: [] for name in ends}
        for _ in range(ROUNDS + 1):
            for name, processes in ends.items():
                before = {part: _cpu_s(process) for part, process in processes.items()}
                said = json.loads(_ask(list(processes.values())[-1]))
                seconds[name].append(said["seconds"] if name == "ours" else said)
                cores[name].append({part: _cpu_s(process) - before[part] for part, process in processes.items()})
    seconds = {name: found[1:] for name, found in seconds.items()}  # the first finds everything cold
    cores = {name: found[1:] for name, found in cores.items()}
    ratios = {name: [bare / ours for bare, ours in zip(seconds[name], seconds["ours"], strict=True)] for name in ends}
    return {
        "baseline": "bare paho-mqtt through the same mosquitto: the same bytes, from memory to memory in messages of "
        "64 KiB, QoS 0 like our chunks; beside it the same with QoS 1, where the broker acknowledges each",
        "bytes": LOOPBACK_BYTES,
        "fetch_mb_s": _mb_s(seconds["ours"]),
        "bare_mb_s": _mb_s(seconds["bare_qos0"]),
        "bare_qos1_mb_s": _mb_s(seconds["bare_qos1"]),
        "goodput_ratio": round(statistics.median(ratios["bare_qos0"]), 3),
        "goodput_ratio_qos1": round(statistics.median(ratios["bare_qos1"]), 3),
        "ratios": [round(ratio, 3) for ratio in ratios["bare_qos0"]],
        "core_ms": {
            name: {part: round(1000 * statistics.median(found[part] for found in told)) for part in told[0]}
            for name, told in cores.items()
        },
    }


def _cpu_s(process: subprocess.Popen[str]) -> float:
    """What a process has used of the cores, in seconds (its CPU-time clock, clock_getcpuclockid(3))."""
    return time.clock_gettime(~process.pid << 3 | 2)


def _mb_s(seconds: list[float]) -> float:
    return round(LOOPBACK_BYTES / 1e6 / statistics.median(seconds), 1)


def bad_line() -> dict[str, Any]:
    """2 Mbit/s, 100 ms there and back, 2 % of the packets lost each way, every connection reset every 7 s."""
    if os.geteuid() != 0 and not SMOKE:
        return {"left_out": "needs root for a namespace and a tun device"}
    with _bad_wire() as wire, _site(size=BAD_BYTES, address=wire.here if wire else "127.0.0.1") as (site, folder):
        device = site.device(folder / "slot", *(("ip", "netns", "exec", wire.namespace) if wire else ()))
        told = _while_breaking(device, wire)
    up = UP_S / (UP_S + DOWN_S)
    goodput = told["bytes"] * 8 / told["seconds"]
    return {
        "baseline": f"{BAD.bits_s / 1e6:g} Mbit/s x {up:.3f} of the time",
        "congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "seconds": round(told["seconds"], 1),
        "connections": told["connects"],
        "goodput_mbit_s": round(goodput / 1e6, 3),
        "goodput_ratio": round(goodput / BAD.bits_s / up, 3),
        "piece_bytes": told["piece_bytes"],
        **({} if wire else {"left_out": "the bad line: loopback in its place"}),
    }


@contextlib.contextmanager
def _bad_wire() -> Iterator[Wire | None]:
    """Yields a bad line to a namespace; ``None`` in a smoke run."""
    if SMOKE:
        yield None
        return
    wire = Wire(BAD)
    try:
        yield wire
    finally:
        wire.close()


def _while_breaking(device: subprocess.Popen[str], wire: Wire | None) -> dict[str, Any]:
    done = threading.Event()

    def break_again_and_again() -> None:
        while wire is not None and not done.wait(UP_S):
            wire.break_for(DOWN_S)

    breaking = threading.Thread(target=break_again_and_again)
    breaking.start()
    try:
        told: dict[str, Any] = json.loads(_ask(device))
    finally:
        done.set()
        breaking.join()
    return told


def multicast() -> dict[str, Any]:
    """200 devices want 5 MB at once: what leaves the hub's interface, against what one device alone costs."""
    if os.geteuid() != 0 and not SMOKE:
        return {"left_out": "needs root for a namespace"}
    with contextlib.ExitStack() as stack:
        namespace, address, counter = stack.enter_context(_veth())
        site, folder = stack.enter_context(
            _site(
                size=FLEET_BYTES,
                address=address,
                inside=namespace,
                multicast_gather_s=GATHER_S,
                multicast_rate_bytes_s=FLEET_BYTES_S,
            )
        )
        one = _count(counter, lambda: multicast_fleet.fetch(site.url, site.bundle, folder / "one", devices=1))
        many = _count(counter, lambda: multicast_fleet.fetch(site.url, site.bundle, folder / "many", devices=DEVICES))
    return {
        "baseline": "bytes that leave the hub's interface for one device alone",
        "devices": DEVICES,
        "bundle_bytes": FLEET_BYTES,
        "one_device_bytes": one[0],
        "all_devices_bytes": many[0],
        "ratio": round(many[0] / one[0], 3),
        "asked_for_bytes": many[1]["asked_bytes"],
        "seconds": round(many[1]["seconds"], 1),
        **({"left_out": "the namespace: loopback in its place"} if SMOKE else {}),
    }


def _count(counter: Callable[[], int], work: Callable[[], dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    before = counter()
    told = work()
    return counter() - before, told


@contextlib.contextmanager
def _veth() -> Iterator[tuple[str, str, Callable[[], int]]]:
    """A namespace for the hub; yields its name, this end's address, and what has left the other end.

    In a smoke run it is this machine itself.
    """
    if SMOKE:
        yield "", "127.0.0.1", lambda: int(Path("/sys/class/net/lo/statistics/rx_bytes").read_text())
        return
    namespace = "lineside-hub"
    command("ip", "netns", "add", namespace)
    try:
        command("ip", "link", "add", "lshub0", "type", "veth", "peer", "name", "lshub1", "netns", namespace)
        command("ip", "addr", "add", "10.78.0.1/24", "dev", "lshub0")
        command("ip", "link", "set", "lshub0", "up")
        inside = ("ip", "netns", "exec", namespace, "ip")
        command(*inside, "addr", "add", "10.78.0.2/24", "dev", "lshub1")
        command(*inside, "link", "set", "lshub1", "up")
        command(*inside, "link", "set", "lo", "up")  # paho wakes its loop over it
        # What the other end sends arrives at this one.
        statistic = Path("/sys/class/net/lshub0/statistics/rx_bytes")
        yield namespace, "10.78.0.1", lambda: int(statistic.read_text())
    finally:
        command("ip", "netns", "del", namespace)


@contextlib.contextmanager
def _site(**arguments: Any) -> Iterator[tuple[TransferSite, Path]]:
    with tempfile.TemporaryDirectory() as name:
        site = TransferSite(Path(name), **arguments)
        try:
            yield site, Path(name)
        finally:
            site.close()


def _bundle(folder: Path, noise: bytes) -> Bundle:
    """The shipped bundle with one more file."""
    shutil.copytree(zoo.path("surface-12"), folder)
    (folder / "weights.bin").write_bytes(noise)
    return write_manifest(folder, open_bundle(zoo.path("surface-12")).manifest)


def _shipped_bytes() -> int:
    return open_bundle(zoo.path("surface-12"), verify=False).manifest.size_bytes


def _ask(child: subprocess.Popen[str]) -> str:
    """Makes a process work once; returns its line."""
    if child.stdin is None or child.stdout is None:
        raise ValueError("started without pipes")
    child.stdin.write("\n")
    child.stdin.flush()
    return child.stdout.readline()


ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    "loopback": loopback,
    "bad_line": bad_line,
    "multicast": multicast,
}
