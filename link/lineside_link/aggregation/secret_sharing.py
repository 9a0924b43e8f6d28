"""Shamir's secret sharing of 32-byte secrets over the prime field of 2^521 - 1."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

PRIME = (1 << 521) - 1
SECRET_BYTES = 32
SHARE_BYTES = 66


def split(secret: bytes, threshold: int, points: Sequence[int]) -> dict[int, bytes]:
    """Splits a secret.

    Args:
        secret: `SECRET_BYTES` bytes.
        threshold: So many shares restore it; fewer say nothing of it.
        points: Different numbers from 1, one a share.

    Returns:
        The shares by their point, `SHARE_BYTES` bytes each.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(points) or len(set(points)) != len(points):
        raise ValueError("a secret of 32 bytes and at least as many different points as the threshold")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {point: _evaluate(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def _evaluate(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


def restore(shares: Mapping[int, bytes]) -> bytes:
    """Restores a secret from at least the threshold of its shares.

    Raises:
        ValueError: The shares are of different secrets.
    """
    total = 0
    for point, share in shares.items():
        above, below = 1, 1
        for other in shares:
            if other != point:
                above = above * -other % PRIME
                below = below * (point - other) % PRIME
        total = (total + int.from_bytes(share, "big") * above * pow(below, -1, PRIME)) % PRIME
    if total >> (8 * SECRET_BYTES):
        raise ValueError("the shares do not belong together")
    return total.to_bytes(SECRET_BYTES, "big")
