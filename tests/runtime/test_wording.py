from __future__ import annotations

from lineside_runtime.wording import counted


def test_one_has_a_singular_and_other_counts_a_plural() -> None:
    assert (counted(1, "frame"), counted(0, "frame"), counted(2, "frame")) == ("1 frame", "0 frames", "2 frames")
    assert (counted(1, "box", "boxes"), counted(3, "box", "boxes")) == ("1 box", "3 boxes")
