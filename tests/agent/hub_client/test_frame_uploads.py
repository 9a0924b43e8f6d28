"""Uploads of kept images to the hub's own worker, without a broker in between."""

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
from typing import Any

import numpy as np
import pytest

from lineside_agent.config import StoreConfig
from lineside_agent.hub_client import frame_uploads
from lineside_agent.hub_client.frame_uploads import FrameUploader
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import NAME, RecordStore
from lineside_hub.config import FramesConfig, HubConfig
from lineside_hub.results.database import Database
from lineside_hub.results.frames.inbox import FrameWorker
from lineside_hub.results.frames.rows import ResultKey, open_rows
from lineside_hub.results.frames.storage import frame_blobs
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_link.config import LinkConfig
from lineside_link.messages import FrameAnswer, FramePiece, ResultRow, Results, decode_framed, encode
from lineside_models.frame import Frame
from lineside_runtime.serving.backoff import Backoff
from tests.peers.waiting import wait_for

DEVICE = "cam-1"


class FrameExchange:
    """A device's store and uploader, and a hub's worker that is called in place of the broker."""

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
        self.sender: FrameUploader | None = None
        self.thread: threading.Thread | None = None
        self.begin_hub()

    def open_store(self, folder: Path) -> RecordStore:
        return RecordStore(
            folder, archive=ImageArchive(folder, self.settings), rules=self.settings, confirmed_only=True
        )

    def begin_hub(self, **frames: Any) -> None:
        config = HubConfig(
            folder=str(self.database.path.parent),
            link=LinkConfig("mqtt://127.0.0.1:1", "s"),
            frames=FramesConfig(**frames),
        )
        self.rows = open_rows(config, self.database)
        self.place = frame_blobs(config)
        self.counters: collections.Counter[str] = collections.Counter()
        self.worker = FrameWorker(
            config, self.rows, self.database, blobs=self.place, counters=self.counters, answer=self._answer
        )

    def begin_sender(self) -> None:
        self.stop = threading.Event()
        self.sender = FrameUploader(
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
        """Runs in the uploader's thread, as all of the hub here."""
        self.published += 1
        head, body = decode_framed(payload, FramePiece)
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
        """Images at the hub, by record."""
        kept = self.rows.oldest(1000)
        return {found.key.seq: self.place.read(found.sha256) for found in kept}

    def on_disk(self) -> dict[int, bytes]:
        return {int(path.stem) + 1: path.read_bytes() for path in self.folder.rglob("*.png")}


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FrameExchange]:
    monkeypatch.setattr(frame_uploads, "ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(frame_uploads, "_PAUSES", Backoff(0.05, 0.2))
    made = FrameExchange(tmp_path)
    yield made
    made.end_sender()
    made.store.close()
    made.database.close()


def test_every_image_of_a_record_that_the_hub_has_arrives_once(exchange: FrameExchange) -> None:
    exchange.keep(6)
    exchange.acknowledge(4)
    exchange.begin_sender()
    wait_for(lambda: exchange.store.unsent_images == 2, 60)
    assert exchange.at_hub() == {seq: data for seq, data in exchange.on_disk().items() if seq <= 4}
    exchange.acknowledge(6)
    wait_for(lambda: exchange.store.unsent_images == 0, 60)
    assert exchange.at_hub() == exchange.on_disk()
    assert exchange.offered == [1, 2, 3, 4, 5, 6]
    assert exchange.sender is not None
    assert (exchange.sender.counts.sent, exchange.sender.counts.refused, exchange.sender.counts.problem) == (6, 0, "")
    assert exchange.sender.is_idle
    assert exchange.counters["bytes"] == sum(len(data) for data in exchange.on_disk().values())


def test_a_restart_goes_on_and_sends_nothing_again_that_is_there(exchange: FrameExchange) -> None:
    exchange.keep(5)
    exchange.acknowledge(5)
    exchange.lose = lambda number: number > 9  # the second image is cut in its middle
    exchange.begin_sender()
    wait_for(lambda: exchange.published > 9, 60)
    exchange.end_sender()
    exchange.lose = lambda _number: False
    exchange.begin_hub()
    exchange.begin_sender()
    wait_for(lambda: exchange.store.unsent_images == 0, 60)
    assert exchange.at_hub() == exchange.on_disk()
    assert exchange.counters["bytes"] < sum(len(data) for seq, data in exchange.on_disk().items() if seq > 1)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_pieces_and_offers_that_are_lost_cost_time_only(exchange: FrameExchange, share: float) -> None:
    exchange.keep(3)
    exchange.acknowledge(3)
    chance = random.Random(share)
    exchange.lose = lambda _number: chance.random() < share
    exchange.begin_sender()
    wait_for(lambda: exchange.store.unsent_images == 0, 120)
    assert exchange.at_hub() == exchange.on_disk()


def test_what_the_hub_refuses_is_not_offered_again(exchange: FrameExchange) -> None:
    exchange.keep(3)
    (next(iter(exchange.folder.rglob("00000001.png")))).write_bytes(b"no image any more")
    exchange.acknowledge(3)
    exchange.begin_sender()
    wait_for(lambda: exchange.store.unsent_images == 0, 60)
    assert exchange.sender is not None
    assert (exchange.sender.counts.sent, exchange.sender.counts.refused) == (2, 1)
    assert sorted(exchange.at_hub()) == [1, 3]
    assert exchange.offered == [1, 2, 3]


def test_an_image_that_made_room_is_counted_and_said(exchange: FrameExchange, caplog: pytest.LogCaptureFixture) -> None:
    exchange.keep(3)
    (next(iter(exchange.folder.rglob("00000001.png")))).unlink()
    exchange.acknowledge(3)
    exchange.begin_sender()
    wait_for(lambda: exchange.store.unsent_images == 0, 60)
    assert exchange.sender is not None
    assert exchange.sender.counts.missing == 1
    assert "made room before they were sent" in caplog.text
    assert sorted(exchange.at_hub()) == [1, 3]


def test_results_and_fetches_come_first(exchange: FrameExchange) -> None:
    exchange.keep(2)
    exchange.acknowledge(2)
    exchange.busy.set()
    exchange.begin_sender()
    looked = itertools.count()
    wait_for(lambda: next(looked) > 30, 60)
    assert exchange.published == 0
    exchange.busy.clear()
    wait_for(lambda: exchange.store.unsent_images == 0, 60)


def test_a_hub_that_is_full_or_takes_none_is_left_alone_and_said(
    exchange: FrameExchange, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frame_uploads, "WAIT_MAX_S", 0.1)
    exchange.begin_hub(take=False)
    exchange.keep(2)
    exchange.acknowledge(2)
    exchange.begin_sender()
    wait_for(lambda: len(exchange.offered) > 3, 60)
    assert exchange.sender is not None
    assert "this hub takes no frames" in exchange.sender.counts.problem
    assert exchange.sender.is_idle, "an agent that is to end when it is done need not wait for this hub"
    assert exchange.store.unsent_images == 2
    assert sum("kept images wait" in record.message for record in caplog.records) == 1, "said once"
    exchange.begin_hub()
    wait_for(lambda: exchange.store.unsent_images == 0, 60)
    assert exchange.sender.counts.problem == ""


def test_an_older_hub_that_never_answers_costs_an_offer_now_and_then(exchange: FrameExchange) -> None:
    exchange.keep(1)
    exchange.acknowledge(1)
    exchange.lose = lambda _number: True
    exchange.begin_sender()
    wait_for(lambda: exchange.sender is not None and "doesn't answer" in exchange.sender.counts.problem, 60)
    assert exchange.sender is not None
    assert exchange.sender.counts.bytes == 0
    assert exchange.sender.is_idle


def test_nothing_is_sent_where_the_configuration_says_so(exchange: FrameExchange) -> None:
    exchange.keep(1)
    exchange.settings = StoreConfig(keep_images="all", send_images=False)
    exchange.acknowledge(1)
    exchange.begin_sender()
    looked = itertools.count()
    wait_for(lambda: next(looked) > 30, 60)
    assert exchange.published == 0
    assert exchange.sender is not None
    assert exchange.sender.is_idle


def test_the_same_image_of_two_parts_is_sent_once_and_belongs_to_both(exchange: FrameExchange) -> None:
    exchange.keep(1)
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    row = ResultRow(seq=0, part_id="x", source="cam", sequence=1, verdict="reject", width=128, height=128)
    exchange.store.record(row, Frame(image=image, source="cam", sequence=1))
    assert exchange.store.flush(60.0)
    rows = Results(epoch=exchange.store.epoch, rows=tuple(exchange.store.rows(0, 2)))
    with exchange.database.transaction():
        ResultsSink(exchange.database).write([read_batch(DEVICE, encode(rows))])
    exchange.acknowledge(2)
    exchange.begin_sender()
    wait_for(lambda: exchange.store.unsent_images == 0, 60)
    digest = hashlib.sha256(exchange.on_disk()[1]).hexdigest()
    assert [exchange.rows.digest(ResultKey(DEVICE, exchange.store.epoch, seq)) for seq in (1, 2)] == [digest, digest]
    assert exchange.counters["bytes"] == len(exchange.on_disk()[1])


def test_what_is_unsent_is_known_after_a_restart_and_to_an_agent_that_knew_no_such_table(
    exchange: FrameExchange,
) -> None:
    exchange.keep(4)
    exchange.store.settle_image(exchange.store.epoch, 1)
    exchange.store.settle_image("another database", 2)
    exchange.acknowledge(4)
    wait_for(lambda: exchange.store.unsent_images == 3)
    exchange.store.close()
    exchange.store = exchange.open_store(exchange.folder.parent)
    assert exchange.store.unsent_images == 3
    found = exchange.store.first_unsent_image(0)
    assert found is not None
    assert found.seq == 2
    exchange.store.close()
    with contextlib.closing(sqlite3.connect(exchange.folder.parent / NAME)) as connection:
        connection.execute("DROP TABLE unsent")
        connection.commit()
    exchange.store = exchange.open_store(exchange.folder.parent)
    assert (exchange.store.unsent_images, exchange.store.first_unsent_image(0)) == (0, None)
    assert [row.seq for row in exchange.store.rows(0, 10)] == [1, 2, 3, 4]


def test_an_agent_without_a_hub_notes_nothing(tmp_path: Path) -> None:
    rules = StoreConfig(keep_images="all", commit_every_s=0.0)
    store = RecordStore(tmp_path, archive=ImageArchive(tmp_path, rules), rules=rules)
    row = ResultRow(seq=0, part_id="a", source="cam", sequence=0, verdict="pass")
    store.record(row, Frame(image=np.zeros((8, 8), np.uint8), source="cam", sequence=0))
    assert store.flush(60.0)
    store.close()
    assert list((tmp_path / "images").rglob("*.png"))
    assert store.unsent_images == 0
