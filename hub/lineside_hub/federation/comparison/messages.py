"""What the coordinator asks, and what a plant answers."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from lineside_hub.federation.quality_counts import QualityQuestion
from lineside_link.aggregation.identity import PlantKey, is_signed
from lineside_link.aggregation.messages import PLANTS_MIN, PlantPublicKey
from lineside_link.config import LinkConfig
from lineside_runtime.decoding import JsonDecoder

COMPARED_MAX = 12
"""Plants of a comparison: each subset of half of them has a key of its own."""

Measure = Literal["reject-rate", "false-reject-rate", "type"]
"""Plant with the largest share of rejects, or of false rejects among reviewed rejects; type of most parts."""


class ComparisonPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="comparison"):
    """What all plants agree on before they send anything.

    Attributes:
        round: Unlike that of any other round.
        value_max: Largest number of a plant; each proves that its own are in range.
        plants: Public signing key of each plant, by name. All of them take part.
    """

    round: Annotated[str, msgspec.Meta(min_length=16, max_length=64, pattern=r"^[0-9a-f]+$")]
    measure: Measure
    question: QualityQuestion
    value_max: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
    plants: dict[str, PlantPublicKey]

    def __post_init__(self) -> None:
        if not PLANTS_MIN <= len(self.plants) <= COMPARED_MAX:
            raise ValueError(f"{len(self.plants)} plants; a comparison needs {PLANTS_MIN} to {COMPARED_MAX}")
        if len(set(self.plants.values())) != len(self.plants):
            raise ValueError("two plants have the same key")

    @property
    def names(self) -> tuple[str, ...]:
        """The plants in the order of their numbers."""
        return tuple(sorted(self.plants))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the plan."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).digest()

    @property
    def choices(self) -> tuple[str, ...]:
        """What the result is one of: plants or types."""
        return (*self.question.types, "other") if self.measure == "type" else self.names

    @property
    def numbers(self) -> int:
        """Numbers of a plant: a count of each type, or a count and the number that it is a share of."""
        return len(self.choices) if self.measure == "type" else 2


class ComparisonTask(msgspec.Struct, frozen=True, kw_only=True):
    """What a plant's process computes.

    Attributes:
        plan: JSON of the plan.
        key: Its private key.
        numbers: Its own, see `ComparisonPlan.numbers`.
        timeout_s: After so long without an end it gives up.
    """

    plan: bytes
    link: LinkConfig
    plant: str
    key: bytes
    numbers: tuple[int, ...]
    timeout_s: float


class ComparisonAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a plant's process found.

    Attributes:
        worst: Number of the choice; -1 where nothing was compared.
    """

    worst: int
    out_of_range: tuple[str, ...] = ()
    signature: bytes = b""

    def signed(self, plan: ComparisonPlan, plant: str, key: PlantKey) -> ComparisonAnswer:
        """Returns the answer with a signature."""
        return msgspec.structs.replace(self, signature=key.sign(self._content(plan, plant)))

    def is_of(self, plan: ComparisonPlan, plant: str) -> bool:
        """Returns whether a plant signed it."""
        return is_signed(plan.plants[plant], self.signature, self._content(plan, plant))

    def _content(self, plan: ComparisonPlan, plant: str) -> bytes:
        found = msgspec.json.encode([self.worst, self.out_of_range])
        return b"lineside comparison" + plan.digest + plant.encode() + b"\0" + found


class PeerHello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First message between two plants.

    Attributes:
        public: For the keys between the two.
        heard: Whether the sender has the receiver's.
    """

    public: bytes
    heard: bool
    signature: bytes


plan: JsonDecoder[ComparisonPlan] = JsonDecoder(ComparisonPlan)
answer: JsonDecoder[ComparisonAnswer] = JsonDecoder(ComparisonAnswer)
hello: JsonDecoder[PeerHello] = JsonDecoder(PeerHello)
