"""A process with many simulated devices. It reads orders from stdin and answers each with a line of JSON on stdout.

``on NAME …`` and ``cut NAME …`` switch devices on and off; ``inspect SECONDS PARTS`` has each one inspect so many parts
and report, every so often from now on; ``states`` counts devices and results; ``end`` reads every slot again and ends
the process.
"""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import logging
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from lineside_hub.simulate.device import SimulatedDevice
from lineside_hub.simulate.processes import Child
from lineside_link.config import LinkConfig
from lineside_runtime.decoding import decode_json

THREADS = 6
"""Devices that work at a time in one process; one that has nothing to do needs no thread."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is started with.

    Attributes:
        root: File with the root metadata.
        folder: With the disk of each device.
        fails: Versions whose health check fails, by device.
    """

    link: LinkConfig
    root: str
    folder: str
    groups: dict[str, str]
    fails: dict[str, tuple[str, ...]] = {}


def start_workers(orders: Orders, count: int, folder: Path, stack: contextlib.ExitStack) -> dict[str, Child]:
    """Shares devices among processes; returns each process under the names of its devices.

    Args:
        folder: For their orders and logs.
    """
    workers: dict[str, Child] = {}
    names = tuple(orders.groups)
    for number in range(min(count, len(names))):
        own = names[number::count]
        part = msgspec.structs.replace(
            orders,
            groups={name: orders.groups[name] for name in own},
            fails={name: orders.fails[name] for name in own if name in orders.fails},
        )
        file = folder / f"worker-{number}.json"
        file.write_bytes(msgspec.json.encode(part))
        command = [sys.executable, "-m", "lineside_hub.simulate.worker", str(file)]
        workers[" ".join(own)] = stack.enter_context(Child(command, folder / f"worker-{number}.log", talks=True))
    return workers


def main(path: str) -> int:
    """Runs until ``end`` or the end of stdin."""
    faulthandler.enable()
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("lineside").setLevel(logging.CRITICAL)  # these devices are there to fail and to vanish
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    orders = decode_json(Path(path).read_bytes(), type=Orders)
    with ThreadPoolExecutor(THREADS) as threads, ThreadPoolExecutor(THREADS) as switches:

        def schedule(device: SimulatedDevice) -> None:
            threads.submit(device.work)

        root = Path(orders.root).read_bytes()
        devices = {
            name: SimulatedDevice(
                name,
                folder=Path(orders.folder) / name,
                link=orders.link,
                group=group,
                root=root,
                fails=frozenset(orders.fails.get(name, ())),
                schedule=schedule,
            )
            for name, group in orders.groups.items()
        }
        stop = threading.Event()
        lines: list[threading.Thread] = []
        for line in sys.stdin:
            order, *names = line.split()
            if order == "end":
                break
            if order == "on":
                list(switches.map(lambda name: devices[name].switch_on(), names))
            elif order == "cut":
                list(switches.map(lambda name: devices[name].cut_power(), names))
            elif order == "inspect":
                every_s, parts = float(names[0]), int(names[1])
                lines.append(threading.Thread(target=_inspect, args=(tuple(devices.values()), every_s, parts, stop)))
                lines[-1].start()
            states = collections.Counter(
                f"{device.machine.state} {device.machine.installed.version if device.machine.installed else '-'}"
                for device in devices.values()
            )
            results = [device.results for device in devices.values()]
            counts = {
                "made": sum(one.made for one in results),
                "acknowledged": sum(one.acknowledged for one in results),
            }
            _answer({"states": states, "results": counts})
        stop.set()
        for thread in lines:
            thread.join()
        _answer({"outcomes": [device.outcome() for device in devices.values()]})
        list(switches.map(lambda device: device.cut_power(), devices.values()))
    return 0


def _inspect(devices: tuple[SimulatedDevice, ...], every_s: float, parts: int, stop: threading.Event) -> None:
    """Has one device after the other inspect, spread over the time."""
    while True:
        for device in devices:
            if device.is_on:
                device.inspect(parts)
            if stop.wait(every_s / len(devices)):
                return


def _answer(value: dict[str, object]) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
