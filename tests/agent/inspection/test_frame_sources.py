"""Which frame a triggered part gets, and which frames watch mode drops."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np

from lineside_agent.inspection.frame_sources import LatestFrame, TriggeredFrames
from lineside_models.frame import Frame
from tests.peers.waiting import wait_for


def frame(sequence: int) -> Frame:
    return Frame(image=np.zeros((4, 4, 3), np.uint8), source="cam", sequence=sequence)


def later() -> float:
    return time.monotonic() + 20.0


def frame_of(frames: TriggeredFrames, number: int) -> int | None:
    shot = frames.wait_for_frame(number, later())
    return None if shot is None else shot.sequence


def test_live_camera_gives_the_first_frame_after_the_trigger() -> None:
    frames = TriggeredFrames(threading.Event())
    frames.put(frame(0), wait=False)  # before the trigger: nobody wants it
    frames.request(7, time.monotonic())
    frames.put(frame(1), wait=False)
    frames.put(frame(2), wait=False)
    assert frame_of(frames, 7) == 1


def test_each_of_several_parts_keeps_its_own_frame_while_the_engine_is_busy() -> None:
    frames = TriggeredFrames(threading.Event())
    for number in range(3):
        frames.request(number, time.monotonic())
        frames.put(frame(10 + number), wait=False)
    assert [frame_of(frames, number) for number in range(3)] == [10, 11, 12]


def test_frame_that_follows_the_triggers_of_two_parts_goes_to_neither() -> None:
    frames = TriggeredFrames(threading.Event())
    frames.request(0, time.monotonic())
    frames.request(1, time.monotonic())
    frames.put(frame(10), wait=False)
    frames.request(2, time.monotonic())
    frames.put(frame(11), wait=False)
    assert [frame_of(frames, number) for number in range(3)] == [None, None, 11]
    assert [bool(frames.lost_reason(number)) for number in range(3)] == [True, True, False]


def test_frame_that_may_show_a_refused_part_does_not_go_to_the_part_before_it() -> None:
    frames = TriggeredFrames(threading.Event(), frame_delay_s=5.0)
    now_s = time.monotonic()
    frames.request(0, now_s - 10.0)
    frames.note_refused(now_s)  # its frames come from 5 s on
    frames.put(frame(10), wait=False)
    frames.request(1, now_s - 10.0)
    frames.note_refused(now_s - 6.0)
    frames.put(frame(11), wait=False)
    assert [frame_of(frames, number) for number in range(2)] == [10, None]


def test_frame_that_was_on_its_way_at_the_trigger_is_not_taken() -> None:
    frames = TriggeredFrames(threading.Event(), frame_delay_s=3600.0)
    frames.request(0, time.monotonic())
    frames.put(frame(0), wait=False)
    assert not frames.has_frame(0)
    frames.request(1, time.monotonic() - 3601.0)
    frames.put(frame(1), wait=False)
    assert (frames.has_frame(0), frame_of(frames, 1)) == (False, 1)


def test_frame_of_a_finite_source_is_captured_when_its_trigger_takes_it() -> None:
    frames = TriggeredFrames(threading.Event())
    drawn = dataclasses.replace(frame(0), captured_at_ns=1)  # long before the trigger
    thread = threading.Thread(target=frames.put, args=(drawn,), kwargs={"wait": True})
    thread.start()
    triggered_at_ns = time.time_ns()
    frames.request(0, time.monotonic())
    shot = frames.wait_for_frame(0, later())
    thread.join(60.0)
    assert shot is not None
    assert triggered_at_ns <= shot.captured_at_ns <= time.time_ns()


def test_finite_source_gives_each_frame_to_one_part_and_waits_in_between() -> None:
    frames = TriggeredFrames(threading.Event())
    given: list[int] = []

    def give() -> None:
        for sequence in range(3):
            frames.put(frame(sequence), wait=True)
            given.append(sequence)

    thread = threading.Thread(target=give)
    thread.start()
    for number in range(3):
        assert len(given) == number
        frames.request(number, time.monotonic())
        assert frame_of(frames, number) == number
        wait_for(lambda: len(given) == number + 1)  # noqa: B023
        frames.forget(number)
    thread.join(60.0)


def test_part_whose_time_is_over_gets_no_frame() -> None:
    frames = TriggeredFrames(threading.Event())
    frames.request(0, time.monotonic())
    frames.put(frame(0), wait=False)
    assert frames.wait_for_frame(0, time.monotonic() - 1.0) is None
    frames.request(1, time.monotonic())
    assert frames.wait_for_frame(1, time.monotonic() + 0.01) is None
    frames.forget(1)
    assert frames.wait_for_frame(1, later()) is None


def test_end_of_the_source_and_a_stop_end_the_wait() -> None:
    stop = threading.Event()
    frames = TriggeredFrames(stop)
    frames.request(0, time.monotonic())
    threading.Timer(0.05, frames.end).start()
    assert frames.wait_for_frame(0, later()) is None
    other = TriggeredFrames(stop)
    other.request(0, time.monotonic())
    threading.Timer(0.05, stop.set).start()
    assert other.wait_for_frame(0, later()) is None


def test_watching_takes_the_latest_frame_and_counts_the_others() -> None:
    frames = LatestFrame(threading.Event())
    assert frames.put(frame(0), wait=True)
    assert not frames.put(frame(1), wait=True)
    assert not frames.put(frame(2), wait=False)
    shot = frames.get()
    assert shot is not None and shot.sequence == 2
    assert frames.replaced == 2
    frames.end()
    assert frames.get() is None


def test_watching_at_a_lower_rate_takes_the_latest_frame_of_each_period() -> None:
    frames = LatestFrame(threading.Event())
    frames.put(frame(0), wait=False)
    assert frames.get() is not None
    frames.least_period_s = 3600.0
    frames.put(frame(1), wait=False)
    took: list[object] = []
    taker = threading.Thread(target=lambda: took.append(frames.get()))
    taker.start()
    frames.put(frame(2), wait=False)
    assert not took
    frames.least_period_s = 0.0
    taker.join(60.0)
    assert [shot.sequence for shot in took] == [2]  # type: ignore[attr-defined]  # no frame of these was lost
