"""The camera's thread and its queue, also when the queue is full."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from lineside_agent.cameras import Camera, LostFrame, RawShot, Shot
from lineside_agent.cameras.reader import FrameQueue, Reader
from lineside_models.frame import Frame
from lineside_runtime.errors import CameraError
from tests.peers.waiting import wait_for

IMAGE = np.zeros((4, 4), np.uint8)


class Numbers(Camera):
    """Gives numbered frames; fails before those in ``fail_at``, once each."""

    def __init__(self, count: int, *, finite: bool = True, fail_at: tuple[int, ...] = ()) -> None:
        super().__init__("numbers", finite=finite)
        self.count = count
        self.fail_at = set(fail_at)

    def _frames(self, start_at: int) -> Iterator[Shot]:
        for sequence in range(start_at, self.count):
            if sequence in self.fail_at:
                self.fail_at.remove(sequence)
                raise CameraError("gone")
            yield Frame(image=IMAGE, source=self.source, sequence=sequence, part_id=str(sequence))


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def start(reader: Reader, start_at: int = 0) -> threading.Thread:
    thread = threading.Thread(target=reader.run, args=(start_at,))
    thread.start()
    return thread


def take_all(queue: FrameQueue) -> list[RawShot]:
    return list(iter(queue.get, None))


def test_every_frame_of_a_finite_source_arrives_in_order(stop: threading.Event) -> None:
    queue = FrameQueue(2, stop)
    thread = start(Reader(Numbers(50), queue, stop))
    assert [shot.sequence for shot in take_all(queue)] == list(range(50))
    thread.join(60.0)


def test_finite_source_waits_for_room(stop: threading.Event) -> None:
    queue = FrameQueue(2, stop)
    reader = Reader(Numbers(50), queue, stop)
    thread = start(reader)
    wait_for(lambda: reader.counts.frames == 3)
    assert thread.is_alive()
    shots = take_all(queue)
    assert len(shots) == 50
    assert all(isinstance(shot, Frame) for shot in shots)
    assert reader.counts.dropped == 0
    thread.join(60.0)


def test_live_frame_without_room_becomes_a_lost_frame_in_its_place(stop: threading.Event) -> None:
    queue = FrameQueue(2, stop)
    reader = Reader(Numbers(6, finite=False), queue, stop)
    start(reader).join(60.0)
    shots = take_all(queue)
    assert [shot.sequence for shot in shots] == list(range(6))
    assert [isinstance(shot, LostFrame) for shot in shots] == [False, False, True, True, True, True]
    assert reader.counts.dropped == 4
    assert isinstance(shots[2], LostFrame)
    assert "waiting for the engine" in shots[2].reason


def test_limit_counts_from_the_first_frame_ever(stop: threading.Event) -> None:
    queue = FrameQueue(100, stop)
    start(Reader(Numbers(50), queue, stop, frames=10), start_at=7).join(60.0)
    assert [shot.sequence for shot in take_all(queue)] == [7, 8, 9]


def test_source_that_was_finished_gives_nothing_more(stop: threading.Event) -> None:
    queue = FrameQueue(100, stop)
    start(Reader(Numbers(50), queue, stop, frames=10), start_at=10).join(60.0)
    assert take_all(queue) == []


def test_camera_that_fails_is_opened_again_where_it_failed(stop: threading.Event) -> None:
    queue = FrameQueue(100, stop)
    reader = Reader(Numbers(6, fail_at=(3,)), queue, stop)
    start(reader).join(60.0)
    assert [shot.sequence for shot in take_all(queue)] == list(range(6))
    assert (reader.counts.camera_errors, reader.problem) == (1, None)


def test_live_camera_that_is_lost_makes_one_fault_an_outage(stop: threading.Event) -> None:
    queue = FrameQueue(100, stop)
    camera = Numbers(8, finite=False, fail_at=(3, 4))  # fails, and fails again when it is opened again
    reader = Reader(camera, queue, stop)
    start(reader).join(60.0)
    shots = take_all(queue)
    assert [shot.sequence for shot in shots] == list(range(8))
    assert [shot.sequence for shot in shots if isinstance(shot, LostFrame)] == [3]
    assert isinstance(shots[3], LostFrame)
    assert "camera lost: [2009] gone" in shots[3].reason
    assert (reader.counts.camera_errors, reader.counts.outages, reader.problem) == (2, 1, None)


def test_camera_that_fails_for_good_ends_a_batch_with_its_reason(stop: threading.Event) -> None:
    queue = FrameQueue(100, stop)
    reader = Reader(Numbers(6, fail_at=(3,)), queue, stop, retry=False)
    start(reader).join(60.0)
    assert len(take_all(queue)) == 3
    assert reader.problem is not None


def test_rate_spaces_frames_of_a_file(stop: threading.Event) -> None:
    queue = FrameQueue(100, stop)
    started_s = time.monotonic()
    start(Reader(Numbers(6), queue, stop, rate_hz=50.0)).join(60.0)
    assert time.monotonic() - started_s >= 0.1
    assert len(take_all(queue)) == 6


def test_stop_ends_every_wait_and_drops_nothing(stop: threading.Event) -> None:
    queue = FrameQueue(1, stop)
    reader = Reader(Numbers(50), queue, stop)
    thread = start(reader)
    wait_for(lambda: reader.counts.frames == 2)
    stop.set()
    thread.join(60.0)
    assert not thread.is_alive()
    assert queue.get() is None
    assert reader.counts.dropped == 0
    assert [shot.sequence for shot in queue.drain()] == [0]
