"""A device of its own process that fetches bundles: ``python -m benchmarks.link.far_device URL MANIFEST FOLDER``.

Fetches once for each line on stdin, into a new folder each time, and prints one JSON object when it has it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.topics import Topics
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.transfer.transfer import fetch_files
from lineside_runtime.bundle import parse_manifest

SITE, DEVICE = "bench", "cam-01"


def main(url: str, manifest: str, folder: str) -> int:
    client = LinkClient(LinkConfig(url, SITE), DEVICE)
    repo = RepoClient(client, Topics(SITE), DEVICE)
    client.start()
    if not client.wait_connected(60):
        print(client.last_error, file=sys.stderr)
        return 1
    repo.metadata("timestamp.json")
    wanted = parse_manifest(Path(manifest).read_bytes())
    for _ in sys.stdin:
        shutil.rmtree(folder, ignore_errors=True)
        before = client.counters["received_bytes"]
        began = time.perf_counter()
        report = fetch_files(repo, wanted, Path(folder))
        seconds = time.perf_counter() - began
        figures = {
            "seconds": seconds,
            "bytes": report.fetched_bytes,
            "received_bytes": client.counters["received_bytes"] - before,
            "connects": client.counters["connects"],
            "piece_bytes": repo.piece_bytes,
            "window": repo.pace.window,
            **repo.counters,
        }
        print(json.dumps(figures), flush=True)
    client.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
