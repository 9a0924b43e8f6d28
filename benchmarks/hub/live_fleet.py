"""Simulated devices that inspect and report, behind a hub and a broker that run already."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lineside_hub.repository.repository import Repository
from lineside_hub.rollouts.push import push
from lineside_hub.simulate.bundles import make_bundle
from lineside_hub.simulate.processes import Child
from lineside_hub.simulate.worker import Orders, start_workers
from lineside_link.config import LinkConfig
from lineside_runtime.errors import RolloutError

BUNDLE_BYTES = 16 << 10


class LiveFleet:
    """Devices under one hub; they run version 1 of a small bundle.

    Args:
        hub: Folder of the hub, with its groups.
        groups: Group of each device.
        folder: For their disks and the logs of their processes.
        workers: Processes that the devices share.
    """

    def __init__(
        self, hub: Path, link: LinkConfig, groups: Mapping[str, str], folder: Path, *, workers: int = 4
    ) -> None:
        self._hub = hub
        self._groups = dict(groups)
        self._folder = folder
        self._stack = contextlib.ExitStack()
        folder.mkdir(exist_ok=True, parents=True)
        root = folder / "root.json"
        root.write_bytes(Repository.open(hub).root_bytes())
        orders = Orders(link=link, root=str(root), folder=str(folder / "devices"), groups=self._groups)
        self._workers = start_workers(orders, workers, folder, self._stack)

    def __enter__(self) -> LiveFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, timeout_s: float) -> None:
        """Switches all on and installs a bundle on each.

        Raises:
            RolloutError: It took longer than it may.
        """
        self._tell({worker: ("on", *key.split()) for key, worker in self._workers.items()})
        bundle = make_bundle(self._folder / "bundle", 1, BUNDLE_BYTES)
        for group in sorted(set(self._groups.values())):
            push(self._hub, bundle.path, group=group, canary=0, healthy_for_s=0)
        deadline_s = time.monotonic() + timeout_s
        while (count := self._active()) < len(self._groups):
            if time.monotonic() > deadline_s:
                raise RolloutError(f"{count} of {len(self._groups)} simulated devices run the bundle", action="Wait.")
            time.sleep(0.5)

    def inspect(self, *, every_s: float, parts: int) -> None:
        """Has each device inspect so many parts and report, every so often from now on."""
        self._tell({worker: ("inspect", str(every_s), str(parts)) for worker in self._workers.values()})

    def results(self) -> dict[str, int]:
        """Returns how many results were ``made``, and how many of them the hub has ``acknowledged``."""
        answers = self._tell(dict.fromkeys(self._workers.values(), ("states",)))
        return {name: sum(one["results"][name] for one in answers) for name in ("made", "acknowledged")}

    def _active(self) -> int:
        answers = self._tell(dict.fromkeys(self._workers.values(), ("states",)))
        return sum(one["states"].get("active 1.0.0", 0) for one in answers)

    def _tell(self, orders: Mapping[Child, Sequence[str]]) -> list[dict[str, Any]]:
        for worker, words in orders.items():
            worker.send(*words)
        return [worker.answer() for worker in orders]
