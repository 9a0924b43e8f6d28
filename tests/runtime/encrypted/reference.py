"""The sums of a linear head, in plain Python: imports nothing of lineside and nothing of numpy."""

from __future__ import annotations

from collections.abc import Sequence


def sums(weights: Sequence[Sequence[int]], bias: Sequence[int], features: Sequence[int]) -> list[int]:
    result = []
    for row, offset in zip(weights, bias, strict=True):
        total = int(offset)
        for weight, feature in zip(row, features, strict=True):
            total += int(weight) * int(feature)
        result.append(total)
    return result
