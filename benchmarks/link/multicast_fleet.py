"""Many devices in one process that fetch the same bundle at the same time, each verifying what it received."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.link.far_device import SITE
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.topics import Topics
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.transfer.transfer import ChunkSource, fetch_files
from lineside_runtime.bundle import Bundle


def fetch(url: str, bundle: Bundle, folder: Path, *, devices: int) -> dict[str, Any]:
    """Fetches a bundle with so many devices.

    Args:
        folder: Each device has a folder of its own in it.

    Returns:
        ``seconds`` from the first question to the last byte, ``asked_bytes`` that were not sent to all.
    """
    logging.getLogger("lineside.link").setLevel(logging.ERROR)  # not two hundred times that loopback is in clear text
    names = [f"cam-{number:03d}" for number in range(devices)]
    clients = [LinkClient(LinkConfig(url, SITE), name) for name in names]
    repos = [RepoClient(client, Topics(SITE), name) for client, name in zip(clients, names, strict=True)]
    for client in clients:
        client.start()
    for client, repo in zip(clients, repos, strict=True):
        if not client.wait_connected(60):
            raise SystemExit(f"{client.client_id}: {client.last_error}")
        repo.metadata("timestamp.json")
    source = ChunkSource(f"line/{bundle.manifest.name}-{bundle.manifest.version}.json", bundle.digest)
    reports: dict[str, Any] = {}

    def one(name: str, repo: RepoClient) -> None:
        reports[name] = fetch_files(repo, bundle.manifest, folder / name, source=source)

    began = time.monotonic()
    threads = [threading.Thread(target=one, args=pair) for pair in zip(names, repos, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    for client in clients:
        client.close()
    if len(reports) != devices:
        raise SystemExit(f"{devices - len(reports)} of {devices} devices did not get it")
    asked = sum(report.fetched_bytes - report.multicast_bytes for report in reports.values())
    return {"seconds": seconds, "asked_bytes": asked}
