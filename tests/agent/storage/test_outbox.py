"""Rows are sent to the hub in a window, again after silence, and count as delivered only by the hub's watermark."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_agent.recommendation.interaction_log import InteractionLog
from lineside_agent.storage import outbox as module
from lineside_agent.storage.outbox import BATCH_ROWS, WINDOW_ROWS, Outbox
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import MESSAGE_MAX_BYTES, InteractionRows, ResultRow, Results, ResultsAck, decode, encode
from lineside_models.recommendation import Recommendation
from lineside_runtime.errors import BadInputFormatError
from tests.peers.waiting import wait_for


class Hub:
    """Commits rows without a gap, as the real hub does, when the test allows it."""

    def __init__(self) -> None:
        self.up = True
        self.batches: list[Results] = []

    def publish(self, payload: bytes) -> bool:
        if self.up:
            self.batches.append(decode(payload, Results))
        return self.up

    @property
    def seqs(self) -> list[int]:
        return [row.seq for batch in self.batches for row in batch.rows]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.store = RecordStore(folder)
        self.hub = Hub()
        self.stop = threading.Event()
        self.outbox = Outbox(self.store, self.hub.publish, self.stop)
        self.thread = threading.Thread(target=self.outbox.run)

    def fill(self, count: int) -> None:
        first = self.store.last_seq
        for sequence in range(first, first + count):
            self.store.record(ResultRow(seq=0, part_id=f"p{sequence}", source="c", sequence=sequence, verdict="pass"))
        assert self.store.flush(60.0)

    def ack(self, seq: int, epoch: str | None = None) -> None:
        self.outbox.acknowledged("", encode(ResultsAck(epoch=epoch or self.store.epoch, seq=seq)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.stop.set()
    if made.thread.is_alive():
        made.thread.join(60.0)
    made.store.close()


def test_rows_are_sent_in_batches_up_to_the_window(bench: Bench) -> None:
    bench.fill(WINDOW_ROWS + 75)
    bench.thread.start()
    wait_for(lambda: len(bench.hub.seqs) == WINDOW_ROWS)
    assert bench.hub.seqs == list(range(1, WINDOW_ROWS + 1))
    assert max(len(batch.rows) for batch in bench.hub.batches) == BATCH_ROWS
    assert {batch.epoch for batch in bench.hub.batches} == {bench.store.epoch}
    bench.ack(WINDOW_ROWS)
    wait_for(lambda: len(bench.hub.seqs) == WINDOW_ROWS + 75)
    assert bench.store.pending == 75


def test_row_stays_until_the_hub_has_committed_it(bench: Bench) -> None:
    bench.fill(3)
    bench.thread.start()
    wait_for(lambda: bench.hub.seqs == [1, 2, 3])
    assert bench.store.pending == 3
    bench.ack(2)
    wait_for(lambda: bench.store.pending == 1)
    bench.ack(3, epoch="of another database")
    bench.ack(3)
    wait_for(lambda: bench.store.pending == 0)


def test_silence_sends_everything_above_the_watermark_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACK_TIMEOUT_S", 0.3)
    bench.fill(5)
    bench.thread.start()
    wait_for(lambda: len(bench.hub.seqs) >= 5)
    bench.ack(2)
    wait_for(lambda: bench.hub.seqs[-3:] == [3, 4, 5] and len(bench.hub.seqs) >= 8)
    assert bench.outbox.resent >= 1


def test_reconnection_sends_everything_above_the_watermark_again(bench: Bench) -> None:
    bench.fill(4)
    bench.thread.start()
    wait_for(lambda: bench.hub.seqs == [1, 2, 3, 4])
    bench.outbox.connected()
    wait_for(lambda: bench.hub.seqs == [1, 2, 3, 4, 1, 2, 3, 4])
    assert bench.outbox.resent == 0


def test_nothing_is_counted_as_sent_without_a_connection(bench: Bench) -> None:
    bench.hub.up = False
    bench.fill(4)
    bench.thread.start()
    bench.fill(4)
    assert bench.hub.seqs == []
    bench.hub.up = True  # and no word of a new connection, which would send all of it again anyway
    wait_for(lambda: len(bench.hub.seqs) >= 8)
    assert bench.hub.seqs[:8] == list(range(1, 9))


def test_hub_that_was_restored_gets_the_older_rows_again(bench: Bench) -> None:
    bench.fill(6)
    bench.thread.start()
    wait_for(lambda: len(bench.hub.seqs) == 6)
    bench.ack(6)
    wait_for(lambda: bench.store.pending == 0)
    bench.hub.batches.clear()
    bench.ack(4)
    wait_for(lambda: bench.hub.seqs == [5, 6])


def test_rows_that_come_later_wait_for_no_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.outbox, "_timeout_s", 3600.0)
    bench.thread.start()
    for _ in range(3):
        bench.fill(1)
        wait_for(lambda: len(bench.hub.seqs) == bench.store.last_seq)
    assert bench.hub.seqs == [1, 2, 3]


def test_what_is_no_answer_is_refused(bench: Bench) -> None:
    with pytest.raises(BadInputFormatError):
        bench.outbox.acknowledged("", b"{}")


def test_a_hub_that_is_behind_makes_the_window_smaller_and_gives_it_back(bench: Bench) -> None:
    bench.outbox.acknowledged("", encode(ResultsAck(epoch=bench.store.epoch, seq=0, window=50)))
    bench.fill(WINDOW_ROWS + 100)
    bench.thread.start()
    wait_for(lambda: len(bench.hub.seqs) == 50)
    bench.outbox.acknowledged("", encode(ResultsAck(epoch=bench.store.epoch, seq=50, window=50)))
    wait_for(lambda: len(bench.hub.seqs) == 100)
    bench.ack(100)
    wait_for(lambda: len(bench.hub.seqs) == 100 + WINDOW_ROWS)


def test_repeats_to_a_silent_hub_come_ever_more_rarely(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "ACK_TIMEOUT_MAX_S", 0.2)
    bench.outbox.connected()
    bench.fill(1)
    bench.thread.start()
    wait_for(lambda: bench.outbox.resent >= 3)
    wait_for(lambda: "the hub does not answer" in str(bench.outbox.problem))
    assert bench.outbox._timeout_s == 0.2
    bench.ack(1)
    bench.fill(1)
    wait_for(lambda: bench.hub.seqs[-1] == 2 and bench.outbox.problem is None)


def test_interactions_wait_for_records_and_ask_an_older_hub_little(bench: Bench, tmp_path: Path) -> None:
    log = InteractionLog(tmp_path, answers_max=100)
    answers = [log.shown("u", "m@1", [Recommendation(item="a", score=1.0)] * 30) for _ in range(10)]
    sent: list[InteractionRows] = []
    is_free = threading.Event()

    def publish(payload: bytes) -> bool:
        sent.append(decode(payload, InteractionRows))
        return True

    outbox = Outbox(log, publish, bench.stop, message=InteractionRows, first_window=1, may_send=is_free.is_set)
    bench.thread = threading.Thread(target=outbox.run)
    bench.thread.start()
    log.chose("u", "a", answers[0])
    assert sent == []
    is_free.set()
    wait_for(lambda: len(sent) == 1)
    assert [row.seq for row in sent[0].rows] == [1]
    outbox.connected()  # of an older hub, which never answered
    wait_for(lambda: len(sent) == 2)
    assert sent[1] == sent[0]
    outbox.acknowledged("", encode(ResultsAck(epoch=log.epoch, seq=1)))
    wait_for(lambda: sum(len(each.rows) for each in sent[2:]) == WINDOW_ROWS)
    outbox.acknowledged("", encode(ResultsAck(epoch=log.epoch, seq=WINDOW_ROWS + 1)))
    wait_for(lambda: sent[-1].through == 301)
    assert [row.seq for each in sent[2:] for row in each.rows] == list(range(2, 302))
    bench.stop.set()
    bench.thread.join(60.0)
    log.close()


def test_rows_with_much_in_them_go_in_messages_that_the_broker_takes(bench: Bench) -> None:
    detections = (("scratch", 0.123456, 1000.123, 1000.123, 1000.123, 1000.123),) * 1000
    for sequence in range(60):
        row = ResultRow(seq=0, part_id="p", source="c", sequence=sequence, verdict="reject", detections=detections)
        bench.store.record(row)
    assert bench.store.flush(60.0)
    bench.thread.start()
    wait_for(lambda: len(bench.hub.seqs) == 60, 60.0)
    assert bench.hub.seqs == list(range(1, 61))
    sizes = [len(encode(batch)) for batch in bench.hub.batches]
    assert len(sizes) > 2
    assert max(sizes) <= MESSAGE_MAX_BYTES
