"""Records and images of the device, and the limits of both."""

from __future__ import annotations

import logging
import threading
import time

from lineside_agent.config import AgentConfig, StoreConfig
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.record_files.journal import memory_folder
from lineside_agent.storage.records import RecordStore
from lineside_agent.storage.write_budget import WriteBudget
from lineside_link.age_limit import SWEEP_S

log = logging.getLogger("lineside.store")

LOOK_EVERY_S = 5.0


class DeviceStorage:
    """The record store with all that belongs to it.

    Attributes:
        memory: Folder that a kill leaves as it is and a power cut does not.
        write_budget: Bytes written a day.
    """

    def __init__(self, config: AgentConfig, rules: StoreConfig, stop: threading.Event) -> None:
        self._stop = stop
        self.memory = memory_folder(config.folder)
        self.write_budget = WriteBudget(config.folder, max_bytes_a_day=rules.writes_max_bytes_a_day)
        self.archive = ImageArchive(config.folder, rules, may_write=self.write_budget.may_write_picture)
        self.store = RecordStore(
            config.folder,
            archive=self.archive,
            rules=rules,
            confirmed_only=config.link is not None,
            saving=lambda: self.write_budget.saving,
            memory=self.memory,
        )

    def use(self, rules: StoreConfig) -> None:
        """Applies another ``[store]`` table."""
        self.archive.use(rules)
        self.store.use(rules)
        self.write_budget.use(rules.writes_max_bytes_a_day)

    def housekeep(self) -> None:
        """Applies the limits again and again, in the caller's thread until stopped."""
        swept_s = -SWEEP_S
        while True:
            now_s = time.monotonic()
            self.write_budget.sample(now_s)
            is_due = now_s - swept_s >= SWEEP_S
            if is_due or self.archive.is_over:
                self._sweep_images()
            if is_due:
                swept_s = now_s
                self.store.retention.request()
            if self._stop.wait(LOOK_EVERY_S):
                break
        self.write_budget.sample()
        self.write_budget.save()

    def _sweep_images(self) -> None:
        try:
            self.archive.sweep()
        except OSError as error:
            log.error("images can't be swept: %s", error)
