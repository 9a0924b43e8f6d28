"""What all tests of the converters share."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

ROUNDS = 4


@pytest.fixture(scope="module", autouse=True)
def short_timing() -> Iterator[None]:
    """Gates time models for fewer rounds; what seems slow is timed again at length, as ever, before it is refused."""
    from lineside_converters.gates import runner
    from lineside_converters.gates.checks import time_together

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "time_together", functools.partial(time_together, rounds=ROUNDS))
        yield
