"""The computation: range checks of all numbers, then the largest share or sum. Only its place is opened.

It runs on `mpyc` (Shamir's secret sharing, honest majority): up to half of the plants may work together and learn
nothing, as long as they follow the protocol. The numbers themselves need not be honest: each plant gives the bits of
its numbers. That they are bits, that the numbers are at most ``value_max``, and that a part is not larger than its
whole, is checked before anything is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lineside_hub.federation.comparison.messages import ComparisonPlan

Shared = Any
"""A secret number of `mpyc`."""


def own_numbers(plan: ComparisonPlan, counts: Sequence[int]) -> tuple[int, ...]:
    """Returns a plant's numbers in the form in which they are compared: a share of nothing is 0 of 1."""
    if plan.measure == "type":
        return tuple(counts)
    part, whole = counts
    return part, max(1, whole)


async def compare(mpc: Any, plan: ComparisonPlan, numbers: Sequence[int]) -> tuple[int, tuple[str, ...]]:
    """Computes with the other plants.

    Args:
        mpc: Runtime of `mpyc`, connected.
        plan: The same at all plants; party numbers are those of ``plan.names``.

    Returns:
        The place of the worst choice, and the plants whose numbers are not in range; -1 where there are any.
    """
    bits = plan.value_max.bit_length()
    secret = mpc.SecInt(2 * bits + 2)  # holds the product of two numbers, and a sign
    own = [secret(number >> bit & 1) for number in numbers for bit in range(bits)]
    given: list[list[Shared]] = mpc.input(own)
    not_bits = await _not_bits(mpc, given)
    shared = [_numbers_of(mpc, each, bits) for each in given]
    wrong = set(not_bits) | await _out_of_range(mpc, plan, shared)
    if wrong:
        return -1, tuple(name for number, name in enumerate(plan.names) if number in wrong)
    if plan.measure == "type":
        sums = [(mpc.sum([each[at] for each in shared]), secret(1)) for at in range(plan.numbers)]
    else:
        sums = [(part, whole) for part, whole in shared]
    return int(await mpc.output(_largest(mpc, secret, sums))), ()


async def _not_bits(mpc: Any, given: Sequence[Sequence[Shared]]) -> set[int]:
    """Returns the plants that gave something else than bits: only they have a product b (b - 1) that is not 0."""
    wrong = set()
    for number, bits in enumerate(given):
        products = await mpc.output(mpc.schur_prod(list(bits), [bit - 1 for bit in bits]))
        if any(int(product) for product in products):
            wrong.add(number)
    return wrong


def _numbers_of(mpc: Any, bits: Sequence[Shared], width: int) -> list[Shared]:
    return [
        mpc.sum([bit * (1 << place) for place, bit in enumerate(bits[at : at + width])])
        for at in range(0, len(bits), width)
    ]


async def _out_of_range(mpc: Any, plan: ComparisonPlan, shared: Sequence[Sequence[Shared]]) -> set[int]:
    """Returns the plants with a number above ``value_max``, a part above its whole, or a whole of 0."""
    checks: list[Shared] = []
    for numbers in shared:
        good = [number <= plan.value_max for number in numbers]
        if plan.measure != "type":
            part, whole = numbers
            good += [part <= whole, whole >= 1]
        checks.append(mpc.prod(good))
    return {number for number, good in enumerate(await mpc.output(checks)) if not int(good)}


def _largest(mpc: Any, secret: Any, shares: Sequence[tuple[Shared, Shared]]) -> Shared:
    """Returns the place of the largest share, of equals the first: a tournament of products across."""
    left = [(secret(place), part, whole) for place, (part, whole) in enumerate(shares)]
    while len(left) > 1:
        winners = [
            tuple(
                mpc.if_else(
                    other[1] * one[2] > one[1] * other[2],
                    list(other),
                    list(one),
                )
            )
            for one, other in zip(left[::2], left[1::2], strict=False)
        ]
        left = winners + ([left[-1]] if len(left) % 2 else [])
    return left[0][0]
