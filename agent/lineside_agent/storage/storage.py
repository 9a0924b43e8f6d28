"""Records and images of the device, with the limits of both."""

from __future__ import annotations

import threading

from lineside_agent.config import AgentConfig, StoreConfig
from lineside_agent.storage.housekeeping import Housekeeping
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_agent.storage.write_budget import WriteBudget


class DeviceStorage:
    """The store with all that belongs to it.

    Attributes:
        wear: What is written to the disk.
        archive: Images.
        store: Records.
        housekeeping: Sees to the bounds, in a thread.

    Args:
        config: Of the agent.
        rules: The ``[store]`` table that holds now.
        stop: Ends the thread.

    Raises:
        DatabaseError: Somebody else holds the database, or it may not be written.
    """

    def __init__(self, config: AgentConfig, rules: StoreConfig, stop: threading.Event) -> None:
        self.wear = WriteBudget(config.folder, max_bytes_a_day=rules.writes_max_bytes_a_day)
        self.archive = ImageArchive(config.folder, rules, may_write=self.wear.may_write_picture)
        self.store = RecordStore(
            config.folder,
            archive=self.archive,
            rules=rules,
            confirmed_only=config.link is not None,
            must_save=self.wear.must_save,
        )
        self.housekeeping = Housekeeping(self.archive, self.store, self.wear, stop)

    def use(self, rules: StoreConfig) -> None:
        """Takes other rules.

        Args:
            rules: The ``[store]`` table.
        """
        self.archive.use(rules)
        self.store.use(rules)
        self.wear.use(rules.writes_max_bytes_a_day)
