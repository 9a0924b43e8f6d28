"""Who is answered next, and when: without a clock."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_hub.repository.pacing import DEVICE_WAITING_MAX, TURN_MAX, FairQueue
from lineside_link.messages import RepoRequest

CHUNK = 64 * 1024


def request(number: int, *, request_id: str = "") -> RepoRequest:
    return RepoRequest(id=request_id or str(number), kind="chunk", path=f"{number:064x}")


def served(turns: FairQueue, seconds: float, *, step_s: float = 0.001) -> collections.Counter[str]:
    """Bytes by device after so long, with a chunk for every question."""
    sent: collections.Counter[str] = collections.Counter()
    now_s = 100.0
    while now_s < 100.0 + seconds:
        turn = turns.take(now_s)
        if isinstance(turn, tuple):
            sent[turn[0]] += CHUNK * len(turn[1])
            turns.sent(turn[0], CHUNK * len(turn[1]), now_s)
        elif turn is None:
            break
        else:
            assert turn > 0
            now_s += max(turn, step_s)
    return sent


def asking(turns: FairQueue, **devices: int) -> None:
    for device, count in devices.items():
        for number in range(count):
            assert turns.offer(device, request(number))


def test_devices_take_turns() -> None:
    turns = FairQueue()
    asking(turns, greedy=50, modest=2)
    order = []
    while isinstance(turn := turns.take(0.0), tuple):
        order.append((turn[0], len(turn[1])))
        turns.sent(turn[0], 0, 0.0)
    assert order[:3] == [("greedy", TURN_MAX), ("modest", 2), ("greedy", TURN_MAX)]
    assert sum(count for _, count in order) == 52
    assert turns.take(0.0) is None


def test_a_device_that_is_being_answered_has_no_second_turn() -> None:
    turns = FairQueue()
    asking(turns, cam=TURN_MAX + 1)
    first = turns.take(0.0)
    assert isinstance(first, tuple)
    assert [question.id for question in first[1]] == [str(number) for number in range(TURN_MAX)]
    assert turns.take(0.0) is None, "another thread would overtake the answers"
    assert not turns.another
    asking(turns, other=1)
    assert turns.another
    second = turns.take(0.0)
    assert isinstance(second, tuple)
    assert second[0] == "other"
    turns.sent("cam", TURN_MAX * CHUNK, 0.0)
    last = turns.take(0.0)
    assert isinstance(last, tuple)
    assert (last[0], [question.id for question in last[1]]) == ("cam", [str(TURN_MAX)])


@pytest.mark.parametrize("rates", [{"bytes_s": 1e6}, {"device_bytes_s": 1e6}])
def test_where_there_is_a_rate_one_question_is_answered_at_a_time(rates: dict[str, float]) -> None:
    turns = FairQueue(**rates)
    asking(turns, cam=3)
    turn = turns.take(0.0)
    assert isinstance(turn, tuple)
    assert len(turn[1]) == 1


@pytest.mark.parametrize("rate", [200_000, 1_000_000])
def test_no_device_is_sent_more_than_its_rate(rate: int) -> None:
    turns = FairQueue(device_bytes_s=rate)
    asking(turns, one=100, two=100)
    sent = served(turns, 5.0)
    for device in ("one", "two"):
        assert sent[device] <= rate * 5.25 + CHUNK
        assert sent[device] >= min(rate * 4.9, 100 * CHUNK) - CHUNK


def test_all_together_are_not_sent_more_than_the_hubs_rate_and_share_it() -> None:
    turns = FairQueue(bytes_s=1_000_000)
    asking(turns, one=100, two=100, three=100)
    sent = served(turns, 5.0)
    assert 4_900_000 - CHUNK <= sum(sent.values()) <= 5_250_000 + CHUNK
    assert max(sent.values()) - min(sent.values()) <= CHUNK


def test_what_is_sent_to_all_counts_against_the_hubs_rate() -> None:
    turns = FairQueue(bytes_s=1_000_000)
    pauses = [turns.sent_to_all(CHUNK, 0.0) for _ in range(16)]
    assert pauses[0] == 0
    assert pauses[-1] == pytest.approx(16 * CHUNK / 1e6 - 0.25, abs=0.01)


def test_a_question_asked_again_waits_once_under_its_newest_id() -> None:
    turns = FairQueue()
    for number in range(5):
        assert turns.offer("cam", request(7, request_id=f"try-{number}"))
    assert len(turns) == 1
    turn = turns.take(0.0)
    assert isinstance(turn, tuple)
    assert [question.id for question in turn[1]] == ["try-4"]
    turns.sent("cam", CHUNK, 0.0)
    assert turns.take(0.0) is None


def test_what_waits_for_one_device_is_bounded() -> None:
    turns = FairQueue()
    asking(turns, cam=DEVICE_WAITING_MAX)
    assert not turns.offer("cam", request(DEVICE_WAITING_MAX))
    assert turns.offer("other", request(0))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans()), max_size=60))
def test_every_question_is_answered_once_in_whatever_order(steps: list[tuple[str, int, bool]]) -> None:
    turns = FairQueue()
    asked: set[tuple[str, str]] = set()
    for device, number, take in steps:
        if take:
            turn = turns.take(0.0)
            assert (turn is None) == (not asked)
            if isinstance(turn, tuple):
                asked -= {(turn[0], question.path) for question in turn[1]}
                turns.sent(turn[0], 0, 0.0)
        else:
            turns.offer(device, request(number))
            asked.add((device, request(number).path))
        assert len(turns) == len(asked)
