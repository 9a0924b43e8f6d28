"""The coordinator's side of a round: it passes messages on, and learns the sum."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from lineside_link.aggregation.identity import is_signed
from lineside_link.aggregation.masks import WORDS, Vector, agree, mask, read_words
from lineside_link.aggregation.messages import (
    FromPlant,
    Join,
    KeyList,
    MaskedVector,
    PublicKeys,
    RevealedShares,
    RoundPlan,
    SealedShares,
    Signatures,
    Survivors,
    SurvivorsSignature,
    ToPlant,
)
from lineside_link.aggregation.secret_sharing import SHARE_BYTES, restore
from lineside_runtime.errors import AggregationError

STEPS = ("keys", "shares", "masked", "survivors", "unmask")
"""What the coordinator waits for, in this order; then the round is ``done``."""

NAMED_MAX = 10
"""Missing plants that an error names."""


class Coordinator:
    """One round. Call `receive` for each message, and `advance` when all have answered or the time is over."""

    def __init__(self, plan: RoundPlan) -> None:
        self.plan = plan
        self.step = STEPS[0]
        self.refused: dict[str, str] = {}
        self._keys: dict[str, PublicKeys] = {}
        self._shares: dict[str, dict[str, bytes]] = {}
        self._masked: dict[str, Vector] = {}
        self._signatures: dict[str, bytes] = {}
        self._revealed: dict[str, RevealedShares] = {}
        self._survivors = Survivors(())
        self._sum: npt.NDArray[np.int64] | None = None

    @property
    def expected(self) -> set[str]:
        """Plants whose answers the current step may still receive, and has not."""
        asked: dict[str, Iterable[str]] = {
            "keys": self.plan.plants,
            "shares": self._keys,
            "masked": self._shares,
            "survivors": self._masked,
            "unmask": self._signatures,
        }
        return set(asked.get(self.step, ())) - set(self._answers())

    def _answers(self) -> Iterable[str]:
        answers: dict[str, Iterable[str]] = {
            "keys": self._keys,
            "shares": self._shares,
            "masked": self._masked,
            "survivors": self._signatures,
            "unmask": self._revealed,
        }
        return answers.get(self.step, ())

    @property
    def answered(self) -> int:
        """How many plants have answered in the current step."""
        return len(list(self._answers()))

    @property
    def survivors(self) -> tuple[str, ...]:
        """Plants of which the sum is."""
        return self._survivors.plants

    def receive(self, plant: str, message: FromPlant) -> bool:
        """Takes a plant's message.

        Returns:
            Whether it belongs to the current step. One that comes too late or twice changes nothing.
        """
        if plant not in self.expected:
            return False
        try:
            return self._take(plant, message)
        except ValueError as error:
            self.refused[plant] = str(error)
            return False

    def _take(self, plant: str, message: FromPlant) -> bool:
        plan = self.plan
        if self.step == "keys" and isinstance(message, Join):
            if not is_signed(plan.plants[plant], message.keys.signature, message.keys.signed(plan, plant)):
                raise ValueError("its keys are not signed by it")
            self._keys[plant] = message.keys
        elif self.step == "shares" and isinstance(message, SealedShares):
            if message.shares.keys() != self._keys.keys():
                raise ValueError("it sent shares to others than those that take part")
            self._shares[plant] = message.shares
        elif self.step == "masked" and isinstance(message, MaskedVector):
            if len(message.data) != plan.bits // 8 * plan.length:
                raise ValueError(f"its vector has {len(message.data)} bytes")
            self._masked[plant] = read_words(message.data, plan.bits)
        elif self.step == "survivors" and isinstance(message, SurvivorsSignature):
            if not is_signed(plan.plants[plant], message.signature, self._survivors.signed(plan)):
                raise ValueError("it signed another list of survivors")
            self._signatures[plant] = message.signature
        elif self.step == "unmask" and isinstance(message, RevealedShares):
            dropped = self._shares.keys() - set(self._survivors.plants)
            if message.own_masks.keys() != set(self._survivors.plants) or message.masking_keys.keys() != dropped:
                raise ValueError("it sent shares of other plants")
            if any(len(one) != SHARE_BYTES for one in (*message.own_masks.values(), *message.masking_keys.values())):
                raise ValueError("it sent no shares")
            self._revealed[plant] = message
        else:
            return False
        return True

    def advance(self) -> dict[str, ToPlant]:
        """Ends the current step with those that have answered.

        Returns:
            The next message to each plant that goes on; none when the sum is there.

        Raises:
            AggregationError: Too few have answered, or the sum is out of range.
        """
        if self.answered < self.plan.threshold:
            missing = sorted(self.expected)
            more = f" and {len(missing) - NAMED_MAX} more" if len(missing) > NAMED_MAX else ""
            raise AggregationError(
                f"round {self.plan.round}: too few plants answered in step {self.step}",
                expected=f"at least {self.plan.threshold}",
                actual=f"{self.answered}, none from {', '.join(missing[:NAMED_MAX])}{more}",
                action="Nothing can be computed from this. Look after the missing plants, then start a new round.",
            )
        step, self.step = self.step, (*STEPS, "done")[STEPS.index(self.step) + 1]
        if step == "keys":
            return dict.fromkeys(self._keys, KeyList(dict(self._keys)))
        if step == "shares":
            return {to: SealedShares({by: sent[to] for by, sent in self._shares.items()}) for to in self._shares}
        if step == "masked":
            self._survivors = Survivors(tuple(sorted(self._masked)))
            return dict.fromkeys(self._masked, self._survivors)
        if step == "survivors":
            return dict.fromkeys(self._signatures, Signatures(dict(self._signatures)))
        self._sum = self._unmasked()
        return {}

    @property
    def sum(self) -> npt.NDArray[np.int64]:
        """The sum of the survivors' vectors, ``(plan.length,)``."""
        if self._sum is None:
            raise AggregationError(f"round {self.plan.round} has no sum yet", actual=f"step {self.step}")
        return self._sum

    def _unmasked(self) -> npt.NDArray[np.int64]:
        length, bits = self.plan.length, self.plan.bits
        total: Vector = np.zeros(length, WORDS[bits])
        for vector in self._masked.values():
            total = total + vector
        for plant in self._survivors.plants:
            total = total - mask(self._restored(plant, own=True), length, bits)
        for plant in self._shares.keys() - set(self._survivors.plants):
            secret = self._restored(plant, own=False)
            for other in self._survivors.plants:
                pairwise = mask(agree(secret, self._keys[other].masking, "lineside mask"), length, bits)
                # The survivor added it if its name comes first, and subtracted it otherwise.
                total = total - pairwise if other < plant else total + pairwise
        found = total.view(f"i{bits // 8}").astype(np.int64)
        limit = self.plan.value_max * len(self._survivors.plants)
        if max(int(found.max()), -int(found.min())) > limit:
            raise AggregationError(
                f"round {self.plan.round}: the sum is out of range: a plant sent what it may not",
                expected=f"at most {limit} in magnitude",
                action="Ask the plants to check their numbers, and start a new round.",
            )
        return found

    def _restored(self, plant: str, *, own: bool) -> bytes:
        points = self.plan.points
        shares = {
            points[by]: (sent.own_masks if own else sent.masking_keys)[plant] for by, sent in self._revealed.items()
        }
        try:
            return restore(dict(list(shares.items())[: self.plan.threshold]))
        except ValueError as error:
            raise AggregationError(
                f"round {self.plan.round}: shares of {plant} do not fit: {error}", action="Start a new round."
            ) from error
