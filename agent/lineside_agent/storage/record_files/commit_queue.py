"""`CommitQueue`: what waits for the writer of the records, and when the next commit is due."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable

from lineside_agent.storage.record_files.missing_records import MissingRecords
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame

WAITING_MAX = 1000
"""Records that may wait for the disk, about 1 KB each without an image."""

GROUP_MAX = 100
"""Records a commit: at 50 a record costs a fortieth of a commit of its own (145 µs against 6.3 ms)."""


@dataclasses.dataclass(frozen=True, slots=True)
class RecordEntry:
    """A record; its images are to be written first, and ``image`` is the one to send."""

    row: ResultRow
    frames: tuple[Frame, ...] = ()
    image: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class NewWatermark:
    """The hub's watermark has changed."""

    epoch: str


@dataclasses.dataclass(frozen=True, slots=True)
class SettledImage:
    """The image of a record need not be sent any more."""

    epoch: str
    seq: int


@dataclasses.dataclass(frozen=True, slots=True)
class LateImage:
    """An image was kept after its record was written; ``path`` is below the archive's folder."""

    epoch: str
    seq: int
    path: str


Item = RecordEntry | MissingRecords | NewWatermark | SettledImage | LateImage


class CommitQueue:
    """Items in order, taken in groups by one writer."""

    def __init__(self) -> None:
        self._items: queue.Queue[Item] = queue.Queue(WAITING_MAX)
        self._urgent = threading.Event()
        self._wake = threading.Event()
        self._closing = threading.Event()

    @property
    def is_urgent(self) -> bool:
        """Whether everything is to be committed at once."""
        return self._urgent.is_set()

    @property
    def is_filling(self) -> bool:
        """Whether the writer should take items into its group, so that there is room for others."""
        return self._items.qsize() >= GROUP_MAX

    def put(self, item: Item, *, wait: bool = True) -> bool:
        """Appends an item; false if there is no room, and ``wait`` is not set."""
        try:
            self._items.put(item, block=wait)
        except queue.Full:
            return False
        return True

    def offer(self, item: NewWatermark | SettledImage) -> None:
        """Appends what can be repeated later; on a full disk it is dropped."""
        with contextlib.suppress(queue.Full):
            self._items.put_nowait(item)

    def hurry(self) -> None:
        """Has everything committed at once, until `calm`."""
        self._urgent.set()
        self._wake.set()

    def calm(self) -> None:
        """Ends `hurry`."""
        self._urgent.clear()

    def wake(self) -> None:
        """Has the writer look at the queue now."""
        self._wake.set()

    def close(self) -> None:
        """Has the writer end when the queue is empty."""
        self._closing.set()
        self._wake.set()

    def wait_closing(self, timeout_s: float) -> bool:
        """Waits for `close`; returns whether it was called."""
        return self._closing.wait(timeout_s)

    def next_group(
        self,
        commit_every_s: Callable[[], float],
        group_max: Callable[[], int],
        prepare: Callable[[Item], Item],
        take_lost: Callable[[], list[Item]],
        is_due: Callable[[], bool],
    ) -> list[Item] | None:
        """Waits until something is due; ``None`` when closing and nothing is left.

        Args:
            commit_every_s: Returns how long the first item of a group may wait.
            group_max: Returns how many items a group may have.
            prepare: Is applied to each item as soon as it is taken.
            take_lost: Returns items for records that found no room; asked when the queue is empty.
            is_due: Returns whether there is maintenance although nothing waits; the group is empty then.
        """
        group: list[Item] = []
        due_s = 0.0
        while len(group) < group_max():
            left_s = due_s - time.monotonic() if group else 0.0
            at_once = self._urgent.is_set() or self._closing.is_set() or (group and left_s <= 0)
            try:
                item = self._items.get(not group, 0.001 if at_once else 0.05)
            except queue.Empty:
                if at_once and group:
                    break
                if group:  # not woken by each record, which took as much processor time as to write it
                    self._wake.wait(left_s)
                    self._wake.clear()
                    continue
                if lost := take_lost():
                    return lost
                if self._closing.is_set():
                    return None
                if is_due():
                    break
                continue
            due_s = due_s or time.monotonic() + commit_every_s()
            group.append(prepare(item))
        return group
