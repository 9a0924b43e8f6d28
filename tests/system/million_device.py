"""Many devices' outboxes in one process: the agent's own store, outbox and link; killed and started again at will.

    python million_device.py URL SITE FOLDER ROWS NAME ...

Each device records ``ROWS`` results and sends them home. Started again it goes on where its database ends.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from lineside_agent.storage.outbox import Outbox
from lineside_agent.storage.records import RecordStore
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.messages import ResultRow
from lineside_link.topics import Topics


class Device:
    def __init__(self, config: LinkConfig, folder: Path, name: str, rows: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        topics = Topics(config.site)
        self.rows = rows
        self.name = name
        self.store = RecordStore(folder)
        self.link = LinkClient(config, name)
        self.outbox = Outbox(self.store, self._publish, threading.Event())
        self._topic = topics.results(name)
        self.link.subscribe(topics.results_ack(name), self.outbox.acknowledged)
        self.link.on_connect(self.outbox.connected)

    def _publish(self, payload: bytes) -> bool:
        return self.link.connected and self.link.publish(self._topic, payload)

    def run(self) -> None:
        self.link.start()
        threading.Thread(target=self.outbox.run, daemon=True).start()
        for sequence in range(self.store.last_seq, self.rows):
            self.store.record(
                ResultRow(
                    seq=0,
                    part_id=f"{self.name}-{sequence}",
                    source="line",
                    sequence=sequence,
                    captured_at_ns=sequence,
                    verdict="reject" if sequence % 20 == 0 else "pass",
                    bundle="surface@1.0.0",
                )
            )


def main() -> None:
    url, site, folder, rows, *names = sys.argv[1:]
    config = LinkConfig(url, site, reconnect_min_s=0.1, reconnect_max_s=1.0)
    for name in names:
        device = Device(config, Path(folder) / name, name, int(rows))
        threading.Thread(target=device.run, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
