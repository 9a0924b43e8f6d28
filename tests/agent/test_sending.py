"""Kept images on their way, with the hub's own worker at the other end and no broker in between."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lineside_agent import sending
from lineside_agent.config import StoreConfig
from lineside_agent.images import Archive
from lineside_agent.sending import FrameSender
from lineside_agent.store import NAME, Store
from lineside_hub.config import FramesConfig, HubConfig
from lineside_hub.database import Database
from lineside_hub.frames.inbox import FrameWorker
from lineside_hub.frames.place import frame_place
from lineside_hub.frames.rows import Key, open_rows
from lineside_hub.results import ResultsSink, read_batch
from lineside_link.config import LinkConfig
from lineside_link.messages import FrameAnswer, ResultRow, Results, decode_piece, encode
from lineside_models.frame import Frame
from tests.peers.waiting import wait_for

DEVICE = "cam-1"


class Site:
    """A device's store and sender, and a hub's worker that is called where the broker would be."""

    def __init__(self, folder: Path) -> None:
        (folder / "device").mkdir()
        (folder / "hub").mkdir()
        self.settings = StoreConfig(keep_images="all", send_bytes_s=1e9, commit_every_s=0.0)
        self.folder = folder / "device" / "images"
        self.store = self.open_store(folder / "device")
        self.database = Database.open(folder / "hub")
        self.busy = threading.Event()
        self.lose: Callable[[int], bool] = lambda _number: False
        self.offered: list[int] = []
        self.published = 0
        self.stop = threading.Event()
        self.sender: FrameSender | None = None
        self.thread: threading.Thread | None = None
        self.begin_hub()

    def open_store(self, folder: Path) -> Store:
        return Store(folder, archive=Archive(folder, self.settings), rules=self.settings, confirmed_only=True)

    def begin_hub(self, **frames: object) -> None:
        config = HubConfig(
            folder=str(self.database.path.parent),
            link=LinkConfig("mqtt://127.0.0.1:1", "s"),
            frames=FramesConfig(**frames),  # type: ignore[arg-type]
        )
        self.rows = open_rows(config, self.database)
        self.place = frame_place(config)
        self.counters: collections.Counter[str] = collections.Counter()
        self.worker = FrameWorker(
            config, self.rows, self.database, place=self.place, counters=self.counters, answer=self._answer
        )

    def begin_sender(self) -> None:
        self.stop = threading.Event()
        self.sender = FrameSender(
            self.store,
            self.folder,
            publish=self._publish,
            may_send=lambda: not self.busy.is_set(),
            settings=lambda: self.settings,
            stop=self.stop,
        )
        self.thread = threading.Thread(target=self.sender.run)
        self.thread.start()

    def end_sender(self) -> None:
        self.stop.set()
        if self.thread is not None:
            self.thread.join(60.0)

    def _publish(self, payload: bytes) -> bool:
        """In the sender's thread, as everything of the hub here."""
        self.published += 1
        head, body = decode_piece(payload)
        if not body:
            self.offered.append(head.seq)
        if not self.lose(self.published):
            self.worker.take(DEVICE, payload)
        return True

    def _answer(self, _device: str, answer: FrameAnswer) -> None:
        assert self.sender is not None
        self.sender.answered("", encode(answer))

    def keep(self, count: int, *, side: int = 128) -> None:
        for sequence in range(count):
            image = np.random.default_rng(sequence).integers(0, 255, (side, side, 3), np.uint8)
            row = ResultRow(
                seq=0, part_id=str(sequence), source="cam", sequence=sequence, verdict="reject", width=side, height=side
            )
            self.store.record(row, Frame(image=image, source="cam", sequence=sequence))
        assert self.store.flush(60.0)
        results = Results(epoch=self.store.epoch, rows=tuple(self.store.rows(0, count)))
        with self.database.transaction():
            ResultsSink(self.database).write([read_batch(DEVICE, encode(results))])

    def acknowledge(self, seq: int) -> None:
        self.store.acknowledge(self.store.epoch, seq)
        wait_for(lambda: self.store.watermark == seq)

    def at_hub(self) -> dict[int, bytes | None]:
        """By record, what the hub has of it."""
        kept = self.rows.oldest(1000)
        return {found.key.seq: self.place.read(found.sha256) for found in kept}

    def on_disk(self) -> dict[int, bytes]:
        return {int(path.stem) + 1: path.read_bytes() for path in self.folder.rglob("*.png")}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(sending, "ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(sending, "_PAUSES", sending.Pauses(0.05, 0.2))
    made = Site(tmp_path)
    yield made
    made.end_sender()
    made.store.close()
    made.database.close()


def test_every_image_of_a_record_that_the_hub_has_arrives_once(site: Site) -> None:
    site.keep(6)
    site.acknowledge(4)
    site.begin_sender()
    wait_for(lambda: site.store.unsent_images == 2, 60)
    assert site.at_hub() == {seq: data for seq, data in site.on_disk().items() if seq <= 4}
    site.acknowledge(6)
    wait_for(lambda: site.store.unsent_images == 0, 60)
    assert site.at_hub() == site.on_disk()
    assert site.offered == [1, 2, 3, 4, 5, 6]
    assert site.sender is not None
    assert (site.sender.counts.sent, site.sender.counts.refused, site.sender.counts.problem) == (6, 0, "")
    assert site.sender.resting
    assert site.counters["bytes"] == sum(len(data) for data in site.on_disk().values())


def test_a_restart_goes_on_and_sends_nothing_again_that_is_there(site: Site) -> None:
    site.keep(5)
    site.acknowledge(5)
    site.lose = lambda number: number > 9  # the second image is cut in its middle
    site.begin_sender()
    wait_for(lambda: site.published > 9, 60)
    site.end_sender()
    site.lose = lambda _number: False
    site.begin_hub()
    site.begin_sender()
    wait_for(lambda: site.store.unsent_images == 0, 60)
    assert site.at_hub() == site.on_disk()
    assert site.counters["bytes"] < sum(len(data) for seq, data in site.on_disk().items() if seq > 1)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_pieces_and_offers_that_are_lost_cost_time_only(site: Site, share: float) -> None:
    site.keep(3)
    site.acknowledge(3)
    chance = random.Random(share)
    site.lose = lambda _number: chance.random() < share
    site.begin_sender()
    wait_for(lambda: site.store.unsent_images == 0, 120)
    assert site.at_hub() == site.on_disk()


def test_what_the_hub_refuses_is_not_offered_again(site: Site) -> None:
    site.keep(3)
    (next(iter(site.folder.rglob("00000001.png")))).write_bytes(b"no image any more")
    site.acknowledge(3)
    site.begin_sender()
    wait_for(lambda: site.store.unsent_images == 0, 60)
    assert site.sender is not None
    assert (site.sender.counts.sent, site.sender.counts.refused) == (2, 1)
    assert sorted(site.at_hub()) == [1, 3]
    assert site.offered == [1, 2, 3]


def test_an_image_that_made_room_is_counted_and_said(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.keep(3)
    (next(iter(site.folder.rglob("00000001.png")))).unlink()
    site.acknowledge(3)
    site.begin_sender()
    wait_for(lambda: site.store.unsent_images == 0, 60)
    assert site.sender is not None
    assert site.sender.counts.missing == 1
    assert "made room before they were sent" in caplog.text
    assert sorted(site.at_hub()) == [1, 3]


def test_results_and_fetches_come_first(site: Site) -> None:
    site.keep(2)
    site.acknowledge(2)
    site.busy.set()
    site.begin_sender()
    looked = itertools.count()
    wait_for(lambda: next(looked) > 30, 60)
    assert site.published == 0
    site.busy.clear()
    wait_for(lambda: site.store.unsent_images == 0, 60)


def test_a_hub_that_is_full_or_takes_none_is_left_alone_and_said(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sending, "WAIT_MAX_S", 0.1)
    site.begin_hub(take=False)
    site.keep(2)
    site.acknowledge(2)
    site.begin_sender()
    wait_for(lambda: len(site.offered) > 3, 60)
    assert site.sender is not None
    assert "this hub takes no frames" in site.sender.counts.problem
    assert site.sender.resting, "an agent that is to end when it is done need not wait for this hub"
    assert site.store.unsent_images == 2
    assert sum("kept images wait" in record.message for record in caplog.records) == 1, "said once"
    site.begin_hub()
    wait_for(lambda: site.store.unsent_images == 0, 60)
    assert site.sender.counts.problem == ""


def test_an_older_hub_that_never_answers_costs_an_offer_now_and_then(site: Site) -> None:
    site.keep(1)
    site.acknowledge(1)
    site.lose = lambda _number: True
    site.begin_sender()
    wait_for(lambda: site.sender is not None and "doesn't answer" in site.sender.counts.problem, 60)
    assert site.sender is not None
    assert site.sender.counts.bytes == 0
    assert site.sender.resting


def test_nothing_is_sent_where_the_configuration_says_so(site: Site) -> None:
    site.keep(1)
    site.settings = StoreConfig(keep_images="all", send_images=False)
    site.acknowledge(1)
    site.begin_sender()
    looked = itertools.count()
    wait_for(lambda: next(looked) > 30, 60)
    assert site.published == 0
    assert site.sender is not None
    assert site.sender.resting


def test_the_same_image_of_two_parts_is_sent_once_and_belongs_to_both(site: Site) -> None:
    site.keep(1)
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    row = ResultRow(seq=0, part_id="x", source="cam", sequence=1, verdict="reject", width=128, height=128)
    site.store.record(row, Frame(image=image, source="cam", sequence=1))
    assert site.store.flush(60.0)
    rows = Results(epoch=site.store.epoch, rows=tuple(site.store.rows(0, 2)))
    with site.database.transaction():
        ResultsSink(site.database).write([read_batch(DEVICE, encode(rows))])
    site.acknowledge(2)
    site.begin_sender()
    wait_for(lambda: site.store.unsent_images == 0, 60)
    digest = hashlib.sha256(site.on_disk()[1]).hexdigest()
    assert [site.rows.digest(Key(DEVICE, site.store.epoch, seq)) for seq in (1, 2)] == [digest, digest]
    assert site.counters["bytes"] == len(site.on_disk()[1])


def test_what_is_unsent_is_known_after_a_restart_and_to_an_agent_that_knew_no_such_table(site: Site) -> None:
    site.keep(4)
    site.store.settle_image(site.store.epoch, 1)
    site.store.settle_image("another database", 2)
    site.acknowledge(4)
    wait_for(lambda: site.store.unsent_images == 3)
    site.store.close()
    site.store = site.open_store(site.folder.parent)
    assert site.store.unsent_images == 3
    found = site.store.first_unsent_image(0)
    assert found is not None
    assert found.seq == 2
    site.store.close()
    with contextlib.closing(sqlite3.connect(site.folder.parent / NAME)) as connection:
        connection.execute("DROP TABLE unsent")
        connection.commit()
    site.store = site.open_store(site.folder.parent)
    assert (site.store.unsent_images, site.store.first_unsent_image(0)) == (0, None)
    assert [row.seq for row in site.store.rows(0, 10)] == [1, 2, 3, 4]


def test_an_agent_without_a_hub_notes_nothing(tmp_path: Path) -> None:
    rules = StoreConfig(keep_images="all", commit_every_s=0.0)
    store = Store(tmp_path, archive=Archive(tmp_path, rules), rules=rules)
    row = ResultRow(seq=0, part_id="a", source="cam", sequence=0, verdict="pass")
    store.record(row, Frame(image=np.zeros((8, 8), np.uint8), source="cam", sequence=0))
    assert store.flush(60.0)
    store.close()
    assert list((tmp_path / "images").rglob("*.png"))
    assert store.unsent_images == 0
