"""A job whose pieces several threads work on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lineside_agent.inspection.worker_pool import WorkerPool
from tests.peers.waiting import wait_for


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pool under test"]


@pytest.fixture
def pool() -> WorkerPool:
    wait_for(lambda: not threads(), what="the end of the threads of the test before")
    return WorkerPool(3, "pool under test")


def test_pieces_are_done_at_once_and_come_back_in_their_order(pool: WorkerPool) -> None:
    meeting = threading.Barrier(3)

    def work(piece: int) -> int:
        meeting.wait(60.0)  # returns only if all three are in here
        return 10 * piece

    assert pool.map(work, (1, 2, 3)) == [10, 20, 30]
    pool.close()


def test_no_more_pieces_at_once_than_its_size_whoever_brings_them(pool: WorkerPool) -> None:
    lock, inside, most = threading.Lock(), 0, 0
    pause = threading.Event()

    def work(piece: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        pause.wait(0.005)
        with lock:
            inside -= 1
        return piece

    with ThreadPoolExecutor(4) as callers:
        jobs = [callers.submit(pool.map, work, tuple(range(10))) for _ in range(4)]
        assert [job.result(60.0) for job in jobs] == [list(range(10))] * 4
    assert most == 3
    pool.close()


def test_a_piece_that_fails_is_told_when_all_have_ended(pool: WorkerPool) -> None:
    done: list[int] = []
    last = threading.Event()

    def work(piece: int) -> None:
        if piece == 0:
            raise ValueError("first")
        last.wait(0.05)
        done.append(piece)

    with pytest.raises(ValueError, match="first"):
        pool.map(work, (0, 1, 2))
    assert sorted(done) == [1, 2]
    pool.close()


def test_one_piece_or_a_size_of_one_needs_no_thread(pool: WorkerPool) -> None:
    here = threading.current_thread()
    assert pool.map(lambda _: threading.current_thread(), (1,)) == [here]
    assert WorkerPool(1, "pool under test").map(lambda _: threading.current_thread(), (1, 2)) == [here, here]
    assert threads() == []


def test_closed_it_leaves_no_thread_and_a_later_job_starts_it_again(pool: WorkerPool) -> None:
    assert pool.map(abs, (-1, -2)) == [1, 2]
    assert len(threads()) == 3
    pool.close()
    pool.close()
    wait_for(lambda: not threads(), what="the threads end")
    assert pool.map(abs, (-1, -2)) == [1, 2]
    pool.close()
