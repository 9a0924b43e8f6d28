"""The window as a pure machine: every schedule of losses, repetitions and pauses ends with each piece once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lineside_link.transfer.pull_window import PullWindow, RequestedPiece


def pieces(count: int) -> list[RequestedPiece]:
    return [RequestedPiece("chunk", str(number)) for number in range(count)]


def window_of(count: int, *, window: int = 4, timeout_s: float = 5.0) -> PullWindow:
    return PullWindow(pieces(count), window=window, timeout_s=timeout_s, prefix="p")


def test_questions_wait_for_company_but_not_for_ever() -> None:
    wanted = [RequestedPiece("chunk", str(number)) for number in range(10)]
    window = PullWindow(wanted, window=8, timeout_s=5.0, prefix="t")
    window.batch = 4
    first = window.due(0.0)
    assert len(first) == 8
    for request_id, _ in first[:1]:
        window.answered(request_id, 1.0)
    assert window.due(1.0) == []
    window.answered(first[1][0], 1.1)
    assert len(window.due(1.1)) == 2, "two have room, and there are no more than two"
    assert len(window.due(20.0)) == 8, "what is lost waits for nobody"


def test_no_more_than_a_window_is_on_its_way() -> None:
    pull = window_of(10)
    first = pull.due(0.0)
    assert [piece.path for _, piece in first] == ["0", "1", "2", "3"]
    assert pull.due(0.1) == []
    assert pull.answered(first[1][0], 0.2) == RequestedPiece("chunk", "1")
    assert [piece.path for _, piece in pull.due(0.2)] == ["4"]
    assert pull.in_flight == 4


def test_silence_repeats_every_question_with_growing_patience() -> None:
    pull = window_of(1, timeout_s=1.0)
    [(first, _)] = pull.due(0.0)
    assert pull.due(0.9) == []
    [(second, _)] = pull.due(1.1)
    assert second != first
    assert pull.due(2.2) == [], "the second time it waits half as long again"
    assert len(pull.due(2.7)) == 1
    assert pull.repeated == 2


def test_a_slow_link_whose_answers_flow_is_not_asked_twice() -> None:
    pull = window_of(8, window=8, timeout_s=1.0)
    asked = pull.due(0.0)
    for number, (request_id, _) in enumerate(asked):
        now = 0.9 * (number + 1)
        assert pull.due(now) == []
        assert pull.answered(request_id, now) is not None
    assert pull.repeated == 0


def test_a_question_that_was_overtaken_is_repeated_though_others_flow() -> None:
    pull = window_of(6, window=2, timeout_s=1.0)
    (lost, lost_piece), (second, _) = pull.due(0.0)
    pull.answered(second, 0.5)
    [(third, _)] = pull.due(0.5)
    pull.answered(third, 0.99)
    repeated = pull.due(1.05)
    assert lost_piece in [piece for _, piece in repeated]
    assert pull.answered(lost, 1.1) == lost_piece, "the late answer counts"
    assert all(pull.answered(request_id, 1.2) is None for request_id, piece in repeated if piece == lost_piece)


def test_an_answer_counts_once_and_a_foreign_one_never() -> None:
    pull = window_of(1)
    [(request_id, _)] = pull.due(0.0)
    assert pull.answered("other", 0.1) is None
    assert pull.answered(request_id, 0.1) == RequestedPiece("chunk", "0")
    assert pull.answered(request_id, 0.1) is None
    assert pull.done


def test_a_busy_hub_is_asked_again_after_growing_pauses() -> None:
    pull = window_of(1)
    now, pauses = 0.0, []
    for _ in range(8):
        [(request_id, _)] = pull.due(now)
        pull.refused_busy(request_id, now)
        pauses.append(pull.next_due_s(now))
        assert pull.due(now + pauses[-1] / 2) == []
        now += pauses[-1]
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5 < pauses[-1] <= 5.0
    assert pull.busy == 8


def test_after_a_broken_connection_everything_open_is_asked_again() -> None:
    pull = window_of(3, window=3)
    before = {request_id for request_id, _ in pull.due(0.0)}
    pull.ask_all_again(0.5)
    after = pull.due(0.5)
    assert [piece.path for _, piece in after] == ["0", "1", "2"]
    assert not before & {request_id for request_id, _ in after}


def test_a_piece_can_be_asked_for_again_by_wanting_it_again() -> None:
    pull = window_of(1)
    [(request_id, _)] = pull.due(0.0)
    piece = pull.answered(request_id, 0.1)
    assert piece is not None
    pull.wanted.append(piece)
    assert not pull.done
    assert len(pull.due(0.2)) == 1


@given(
    count=st.integers(1, 12),
    window=st.integers(1, 5),
    events=st.lists(st.tuples(st.sampled_from(["answer", "lose", "busy", "break", "twice"]), st.floats(0.0, 3.0))),
)
def test_every_piece_is_delivered_exactly_once(count: int, window: int, events: list[tuple[str, float]]) -> None:
    pull = PullWindow(pieces(count), window=window, timeout_s=1.0, prefix="p")
    delivered: list[RequestedPiece] = []
    open_ids: list[str] = []
    now = 0.0
    for event, wait in events:
        now += wait
        open_ids += [request_id for request_id, _ in pull.due(now)]
        assert pull.in_flight <= window
        if event == "break":
            pull.ask_all_again(now)
        if not open_ids or event == "break":
            continue
        request_id = open_ids.pop(0)
        if event == "busy":
            pull.refused_busy(request_id, now)
        elif event in ("answer", "twice"):
            delivered += [piece for piece in [pull.answered(request_id, now)] if piece is not None]
            open_ids += [request_id] if event == "twice" else []
    for _ in range(count + 2):
        now += 40.0
        open_ids += [request_id for request_id, _ in pull.due(now)]
        assert pull.in_flight <= window
        delivered += [
            piece for piece in (pull.answered(request_id, now) for request_id in open_ids) if piece is not None
        ]
    assert sorted(delivered) == sorted(pieces(count))
    assert pull.done
