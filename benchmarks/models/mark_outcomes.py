"""What readers of codes and printed text make of drawn pictures: counted alike by `codes` and `text_marks`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lineside_models.metrics import wilson

Picture = npt.NDArray[np.uint8]
Read = Callable[[Picture], Sequence[str]]
"""Gives all texts that a reader finds."""


class Outcome(NamedTuple):
    """One picture by one reader.

    Attributes:
        read: Whether its text was read.
        wrong: Whether another text was given.
        ms: Processor time.
    """

    read: bool
    wrong: bool
    ms: float


def outcome_of(read: Read, picture: Picture, text: str) -> Outcome:
    """Returns a reader's outcome on a picture."""
    began_ns = time.process_time_ns()
    texts = read(picture)
    took_ms = (time.process_time_ns() - began_ns) / 1e6
    return Outcome(text in texts, any(one != text for one in texts), took_ms)


def rates(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Returns the share of pictures that were read, with its interval, and how many were read wrongly."""
    read = sum(one.read for one in outcomes)
    return {
        "read": read / len(outcomes),
        "interval": list(wilson(read, len(outcomes))),
        "wrong": sum(one.wrong for one in outcomes),
    }


def all_rates(conditions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean of the shares and the sum of the wrong ones over conditions, each as of `rates`."""
    return {
        "read": float(np.mean([one["read"] for one in conditions])),
        "wrong": sum(one["wrong"] for one in conditions),
    }
