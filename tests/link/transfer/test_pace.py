"""How much is asked for at a time, by what was seen of the link."""

from __future__ import annotations

import pytest

from lineside_link.transfer.pace import PIECE_MIN_BYTES, WINDOW_MAX, WINDOW_MIN, RequestPace
from lineside_runtime.bundle import CHUNK_BYTES


def watched(bytes_s: float, *, seconds: float = 10.0, life_s: float | None = None) -> RequestPace:
    """A link of this speed, whose connections live so long."""
    pace = RequestPace()
    pace.begin(0.0)
    next_break_s = life_s
    for step in range(1, int(seconds * 10) + 1):
        pace.arrived(int(bytes_s / 10), step / 10)
        if next_break_s is not None and step / 10 >= next_break_s:
            pace.broke()
            next_break_s += life_s or 0.0
    return pace


def test_nothing_is_assumed_before_anything_was_seen() -> None:
    assert (RequestPace(8).piece_bytes, RequestPace(8).window, RequestPace(8).rate_bytes_s) == (CHUNK_BYTES, 8, None)


@pytest.mark.parametrize(
    ("bytes_s", "life_s", "piece_bytes"),
    [
        (100e6, None, CHUNK_BYTES),
        (1e6, None, CHUNK_BYTES),
        (250e3, None, CHUNK_BYTES // 2),
        (250e3, 7.0, CHUNK_BYTES // 4),
        (250e3, 2.0, PIECE_MIN_BYTES),
        (5e3, None, PIECE_MIN_BYTES),
        (1.0, 1.0, PIECE_MIN_BYTES),
    ],
)
def test_worse_links_have_smaller_pieces(bytes_s: float, life_s: float | None, piece_bytes: int) -> None:
    assert watched(bytes_s, life_s=life_s).piece_bytes == piece_bytes


@pytest.mark.parametrize("bytes_s", [1.0, 5e3, 250e3, 10e6, 500e6])
def test_a_second_is_on_its_way_within_bounds(bytes_s: float) -> None:
    pace = watched(bytes_s)
    assert WINDOW_MIN <= pace.window <= WINDOW_MAX
    if WINDOW_MIN < pace.window < WINDOW_MAX:
        assert pace.window * pace.piece_bytes == pytest.approx(bytes_s, rel=0.5)


def test_a_connection_that_brought_nothing_says_nothing() -> None:
    pace = watched(1e6)
    for _ in range(50):
        pace.broke()
    assert pace.piece_bytes == CHUNK_BYTES, "ten million bytes a life, and fifty lives of nothing"


def test_the_time_between_two_pulls_does_not_count() -> None:
    pace = watched(1e6)
    pace.begin(1000.0)
    pace.arrived(600_000, 1000.6)
    assert pace.rate_bytes_s == pytest.approx(1e6, rel=0.1)


def test_a_fast_link_is_known_before_a_small_bundle_has_come() -> None:
    pace = RequestPace(8)
    pace.begin(100.0)
    for number in range(1, 33):
        pace.arrived(CHUNK_BYTES, 100.0 + number * 0.001)
    assert pace.window == WINDOW_MAX
    assert pace.rate_bytes_s == pytest.approx(CHUNK_BYTES / 0.001, rel=0.1)


def test_chunks_that_come_in_the_same_instant_say_nothing_yet() -> None:
    pace = RequestPace(8)
    pace.begin(100.0)
    for _ in range(20):
        pace.arrived(CHUNK_BYTES, 100.0)
    assert (pace.window, pace.rate_bytes_s) == (8, None)
