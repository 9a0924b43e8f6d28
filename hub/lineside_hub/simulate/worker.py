"""A process with many simulated devices. It reads orders from stdin and answers each with a line of JSON on stdout.

``on NAME …`` and ``cut NAME …`` switch devices on and off; ``states`` counts them; ``end`` reads every slot again and
ends the process.
"""

from __future__ import annotations

import collections
import faulthandler
import logging
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from lineside_hub.simulate.device import SimulatedDevice
from lineside_link.config import LinkConfig
from lineside_runtime.decoding import decode_json

THREADS = 6
"""Devices that work at a time in one process; one that has nothing to do needs no thread."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is started with.

    Attributes:
        link: The broker.
        group: Of all devices.
        root: File with the root metadata.
        folder: With the disk of each device.
        names: Of the devices.
        fails: Versions whose health check fails, by device.
    """

    link: LinkConfig
    group: str
    root: str
    folder: str
    names: tuple[str, ...]
    fails: dict[str, tuple[str, ...]] = {}


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
                group=orders.group,
                root=root,
                fails=frozenset(orders.fails.get(name, ())),
                schedule=schedule,
            )
            for name in orders.names
        }
        for line in sys.stdin:
            order, *names = line.split()
            if order == "end":
                break
            if order == "on":
                list(switches.map(lambda name: devices[name].switch_on(), names))
            elif order == "cut":
                list(switches.map(lambda name: devices[name].cut_power(), names))
            states = collections.Counter(
                f"{device.machine.state} {device.machine.installed.version if device.machine.installed else '-'}"
                for device in devices.values()
            )
            _answer({"states": states})
        _answer({"outcomes": [device.outcome() for device in devices.values()]})
        list(switches.map(lambda device: device.cut_power(), devices.values()))
    return 0


def _answer(value: dict[str, object]) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
