"""The messages of a round, and its plan."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from lineside_link.topics import check_name
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import ConfigError

PLANTS_MIN = 3
"""Of a sum: of two, each plant knows the other's vector."""

PLANTS_MAX = 1000
LENGTH_MAX = 1 << 24

PlantPublicKey = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class RoundPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What all plants of a round agree on before they send anything.

    Attributes:
        round: Unlike that of any other round.
        question: What the numbers mean; each plant reads it before it answers.
        length: Numbers of a vector.
        value_max: Largest magnitude of a plant's number. A plant with a larger one refuses: nothing is clipped.
        plants: Public signing key of each plant, by name.
        threshold: Least number of plants that must remain until the end.
        bits: Of each number on its way; sums are computed modulo 2^bits.
    """

    round: Annotated[str, msgspec.Meta(min_length=16, max_length=64, pattern=r"^[0-9A-Za-z._-]+$")]
    question: str
    length: Annotated[int, msgspec.Meta(ge=1, le=LENGTH_MAX)]
    value_max: Annotated[int, msgspec.Meta(ge=1)]
    plants: dict[str, PlantPublicKey]
    threshold: int
    bits: Literal[16, 32, 64] = 64

    def __post_init__(self) -> None:
        for name in self.plants:
            check_name(name, "plant")
        if len(set(self.plants.values())) != len(self.plants):
            raise ValueError("two plants have the same key")
        if not PLANTS_MIN <= len(self.plants) <= PLANTS_MAX:
            raise ValueError(f"{len(self.plants)} plants; a sum needs {PLANTS_MIN} to {PLANTS_MAX}")
        if not least_threshold(len(self.plants)) <= self.threshold <= len(self.plants):
            raise ValueError(f"threshold {self.threshold}; {least_threshold(len(self.plants))} or more must remain")
        if self.value_max > largest_value(len(self.plants), self.bits):
            raise ValueError(
                f"value_max {self.value_max} times {len(self.plants)} plants does not fit into {self.bits} bits"
            )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the plan: signatures and keys of one plan are worth nothing in another."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).digest()

    @property
    def points(self) -> dict[str, int]:
        """Number of each plant in the secret sharing."""
        return {name: number for number, name in enumerate(sorted(self.plants), start=1)}


def least_threshold(plants: int) -> int:
    """Returns how many of so many plants must remain: two thirds, and three.

    With fewer, a dishonest coordinator and a third of the plants together could have two lists of survivors signed.
    """
    return max(PLANTS_MIN, -(-2 * plants // 3))


def largest_value(plants: int, bits: int) -> int:
    """Returns the largest magnitude of a plant's number, so that the sum of so many plants fits."""
    return ((1 << (bits - 1)) - 1) // plants


class PublicKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Step 1, from a plant.

    Attributes:
        sealing: For the shares that others send it.
        masking: For the masks that it shares with others.
        signature: Of the plan and both keys.
    """

    sealing: bytes
    masking: bytes
    signature: bytes

    def signed(self, plan: RoundPlan, plant: str) -> bytes:
        """Returns what the signature is of."""
        return b"lineside keys" + plan.digest + plant.encode() + b"\0" + self.sealing + self.masking


class KeyList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Step 2, to all plants: the keys of those that take part."""

    keys: dict[str, PublicKeys]


class SealedShares(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Step 2: encrypted shares; from a plant by receiver, to a plant by sender."""

    shares: dict[str, bytes]


class Survivors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Step 4, to all plants: those whose masked vectors arrived."""

    plants: tuple[str, ...]

    def signed(self, plan: RoundPlan) -> bytes:
        """Returns what a plant signs."""
        return b"lineside survivors" + plan.digest + "\0".join(sorted(self.plants)).encode()


class Signatures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Step 5, to all plants: who signed the list of survivors."""

    signatures: dict[str, bytes]


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Step 1, from a plant."""

    keys: PublicKeys


class MaskedVector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Step 3, from a plant: its vector under masks, little-endian numbers of `RoundPlan.bits`."""

    data: bytes


class SurvivorsSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Step 4, from a plant."""

    signature: bytes


class RevealedShares(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Step 5, from a plant.

    Attributes:
        own_masks: Its share of the own mask of each survivor.
        masking_keys: Its share of the masking key of each plant that dropped out after it had sent shares.
    """

    own_masks: dict[str, bytes]
    masking_keys: dict[str, bytes]


FromPlant = Join | SealedShares | MaskedVector | SurvivorsSignature | RevealedShares
ToPlant = KeyList | SealedShares | Survivors | Signatures

from_plant: JsonDecoder[FromPlant] = JsonDecoder(FromPlant)  # type: ignore[arg-type]
to_plant: JsonDecoder[ToPlant] = JsonDecoder(ToPlant)  # type: ignore[arg-type]


def read_plan(data: bytes) -> RoundPlan:
    """Reads a plan.

    Raises:
        ConfigError: It is none, or asks for what is refused, such as the sum of two plants.
    """
    try:
        return _PLAN.decode(data)
    except msgspec.DecodeError as error:
        raise ConfigError(f"plan of a round: {error}", action="Start the round again with this release.") from error


_PLAN = JsonDecoder(RoundPlan)
