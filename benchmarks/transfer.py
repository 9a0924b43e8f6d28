"""What a push costs: over loopback, over a bad line, as a patch, and to 200 devices at once.

| row | bar | baseline |
| --- | --- | --- |
| ``loopback`` | 0.8 | bare paho-mqtt, the same bytes through the same mosquitto, QoS 0, unverified and unwritten |
| ``bad_line`` | 0.8 | the line's rate times the share of time that it is up |
| ``deltas`` | 0.02, 0.03, 0.06 | the whole new file, zstd level 19 |
| ``multicast`` | 1.1 | what one device costs |

Every row runs the hub's own process behind Debian's mosquitto. ``bad_line`` and ``multicast`` need root, for namespaces
and a tun device; without it they say so and are left out. ``python -m benchmarks.transfer ROW ...`` runs some of them.
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

import msgspec
import tomli_w

from benchmarks import multicast_fleet, retraining
from benchmarks.far_device import SITE
from benchmarks.wire import Line, Wire
from benchmarks.wire import run as command
from lineside.demo.processes import free_port, listening
from lineside_hub.patching import make_patches
from lineside_hub.repository import Repository
from lineside_link import deltas
from lineside_models import zoo
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest

GROUP = "line"
LOOPBACK_BYTES, ROUNDS = 50_000_000, 15
BAD_BYTES, UP_S, DOWN_S = 6_000_000, 7.0, 1.0
BAD = Line(bits_s=2e6, delay_s=0.05, loss=0.02)
_BARE = (sys.executable, "-m", "benchmarks.bare_mqtt")
FLEET_BYTES, DEVICES = 5_000_000, 200
FLEET_BYTES_S = 200_000
"""Two hundred devices share this machine's cores and receive 40 MB/s at this rate."""


class Site:
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
        self.start([_mosquitto(), "-c", str(folder / "mosquitto.conf")])
        repository = Repository.create(folder / "hub", groups=[GROUP])
        self.bundle = _bundle(
            folder / "bundle", {"weights.bin": random.Random(1).randbytes(size - _shipped_bytes())}, "1.0.0"
        )
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
        return self.start([*prefix, sys.executable, "-m", "benchmarks.far_device", self.url, manifest, str(folder)])

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
    for found in (*seconds.values(), *cores.values()):
        del found[0]  # the first finds everything cold
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
    if os.geteuid() != 0:
        return {"left_out": "needs root for a namespace and a tun device"}
    wire = Wire(BAD)
    try:
        with _site(size=BAD_BYTES, address=wire.here) as (site, folder):
            device = site.device(folder / "slot", "ip", "netns", "exec", wire.namespace)
            told = _while_breaking(device, wire)
    finally:
        wire.close()
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
    }


def _while_breaking(device: subprocess.Popen[str], wire: Wire) -> dict[str, Any]:
    done = threading.Event()

    def break_again_and_again() -> None:
        while not done.wait(UP_S):
            wire.break_for(DOWN_S)

    breaking = threading.Thread(target=break_again_and_again)
    breaking.start()
    try:
        told: dict[str, Any] = json.loads(_ask(device))
    finally:
        done.set()
        breaking.join()
    return told


def patches() -> dict[str, Any]:
    """What is sent of the shipped detector, retrained in three ways: the hub's own choice for the model's file."""
    shipped = (zoo.path("surface-12") / "onnx-int8" / "model.onnx").read_bytes()
    found: dict[str, Any] = {"baseline": "the new file, zstd level 19", "cases": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = Repository.create(folder / "hub", groups=[GROUP])
        old = _bundle(folder / "shipped", {"model.onnx": shipped}, "1.0.0")
        repository.publish(old, GROUP)
        for number, case in enumerate(retraining.CASES, 2):
            new = retraining.retrained(case)
            bundle = _bundle(folder / case, {"model.onnx": new}, f"{number}.0.0")
            repository.publish(bundle, GROUP)
            made = make_patches(folder / "hub", bundle.digest, old.digest).patches
            whole = len(deltas.make("zstd", b"", new))
            sent = sum(patch.size for patch in made)
            found["cases"][case] = {
                "file_bytes": len(new),
                "whole_zstd_19_bytes": whole,
                "sent_bytes": sent,
                "format": made[0].format if made else "unchanged",
                "ratio": round(sent / whole, 4),
            }
    return found


def multicast() -> dict[str, Any]:
    """200 devices want 5 MB at once: what leaves the hub's interface, against what one device alone costs."""
    if os.geteuid() != 0:
        return {"left_out": "needs root for a namespace"}
    with contextlib.ExitStack() as stack:
        namespace, address, counter = stack.enter_context(_veth())
        site, folder = stack.enter_context(
            _site(
                size=FLEET_BYTES,
                address=address,
                inside=namespace,
                multicast_gather_s=8.0,
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
    }


def _count(counter: Callable[[], int], work: Callable[[], dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    before = counter()
    told = work()
    return counter() - before, told


@contextlib.contextmanager
def _veth() -> Iterator[tuple[str, str, Callable[[], int]]]:
    """A namespace for the hub; yields its name, this end's address, and what has left the other end."""
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
def _site(**arguments: Any) -> Iterator[tuple[Site, Path]]:
    with tempfile.TemporaryDirectory() as name:
        site = Site(Path(name), **arguments)
        try:
            yield site, Path(name)
        finally:
            site.close()


def _bundle(folder: Path, files: dict[str, bytes], version: str) -> Bundle:
    """The shipped bundle's description around other files."""
    manifest = open_bundle(zoo.path("surface-12")).manifest
    shutil.copytree(zoo.path("surface-12"), folder)
    for relative, data in files.items():
        place = manifest.variants[0].file if relative == "model.onnx" else relative
        (folder / place).write_bytes(data)
    return write_manifest(folder, msgspec.structs.replace(manifest, version=version))


def _shipped_bytes() -> int:
    return open_bundle(zoo.path("surface-12"), verify=False).manifest.size_bytes


def _ask(child: subprocess.Popen[str]) -> str:
    """Has a process do its work once; returns the line that it says."""
    if child.stdin is None or child.stdout is None:
        raise ValueError("started without pipes")
    child.stdin.write("\n")
    child.stdin.flush()
    return child.stdout.readline()


def _mosquitto() -> str:
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise SystemExit("mosquitto is not installed: tests/peers/install.sh peers")
    return found


ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    "loopback": loopback,
    "bad_line": bad_line,
    "deltas": patches,
    "multicast": multicast,
}

if __name__ == "__main__":
    print(json.dumps({name: ROWS[name]() for name in sys.argv[1:] or ROWS}, indent=1))
