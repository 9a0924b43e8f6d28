"""A device of its own process that fetches one bundle: ``python -m benchmarks.far_device URL MANIFEST FOLDER``.

Prints one JSON object when it has it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from lineside_link.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.fetch import RepoClient
from lineside_link.topics import Topics
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
    began = time.monotonic()
    report = repo.fetch_files(parse_manifest(Path(manifest).read_bytes()), Path(folder))
    seconds = time.monotonic() - began
    print(
        json.dumps(
            {
                "seconds": seconds,
                "bytes": report.fetched_bytes,
                "received_bytes": client.counters["received_bytes"],
                "connects": client.counters["connects"],
                "piece_bytes": repo.piece_bytes,
                "window": repo.pace.window,
                **repo.counters,
            }
        )
    )
    client.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
