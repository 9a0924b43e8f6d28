"""What all tests of the converters share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def short_gates_here(short_gates: None) -> None:
    """Applies to every file of this folder."""
