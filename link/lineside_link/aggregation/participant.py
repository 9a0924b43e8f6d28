"""A plant's side of a round."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from lineside_link.aggregation.identity import PlantKey, is_signed, public_hex
from lineside_link.aggregation.masks import WORDS, Vector, agree, decrypt, encrypt, mask, public_of
from lineside_link.aggregation.messages import (
    PLANTS_MIN,
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
from lineside_link.aggregation.secret_sharing import SECRET_BYTES, SHARE_BYTES, split
from lineside_runtime.errors import AggregationError, ConfigError


class Participant:
    """One plant in one round. It answers each step once, and its secrets are of this round only.

    Args:
        plan: Read and accepted by the plant.
        key: Signing key, whose public part the plan names.
        values: ``(plan.length,)`` whole numbers, each of at most ``plan.value_max`` in magnitude.

    Raises:
        ConfigError: The plan has another key for this plant, or a number is too large. Nothing was sent.
    """

    def __init__(self, plan: RoundPlan, name: str, key: PlantKey, values: npt.NDArray[np.int64]) -> None:
        if plan.plants.get(name) != public_hex(key):
            raise ConfigError(
                f"the plan's key of {name!r}",
                expected=public_hex(key),
                actual=plan.plants.get(name),
                action="Nothing was sent. Compare pool.toml here and at the coordinator.",
            )
        if values.shape != (plan.length,) or values.dtype != np.int64:
            raise ConfigError("values", expected=f"({plan.length},) int64", actual=f"{values.shape} {values.dtype}")
        largest = max(int(values.max()), -int(values.min()))
        if largest > plan.value_max:
            raise ConfigError(
                "a number is too large for this round",
                expected=f"at most {plan.value_max} in magnitude",
                actual=largest,
                action="Nothing was sent. Ask for a round with a larger value_max.",
            )
        self.plan = plan
        self.name = name
        self._key = key
        self._values: Vector = values.astype(WORDS[plan.bits])  # negative numbers modulo 2^bits
        self._sealing, self._masking, self._own_mask = (secrets.token_bytes(SECRET_BYTES) for _ in range(3))
        self._keys: dict[str, PublicKeys] = {}
        self._sealed: dict[str, bytes] = {}
        self._survivors: Survivors | None = None
        self._step = 1

    def join(self) -> Join:
        """Returns the message of step 1."""
        keys = PublicKeys(public_of(self._sealing), public_of(self._masking), b"")
        signature = self._key.sign(keys.signed(self.plan, self.name))
        return Join(PublicKeys(keys.sealing, keys.masking, signature))

    @property
    def done(self) -> bool:
        """Whether it has answered everything."""
        return self._step == 5

    def receive(self, message: ToPlant) -> FromPlant:
        """Answers a message of the coordinator.

        Raises:
            AggregationError: The message is out of turn, or breaks the protocol. The plant takes no further part.
        """
        steps = {
            1: (KeyList, self._share),
            2: (SealedShares, self._masked),
            3: (Survivors, self._sign),
            4: (Signatures, self._reveal),
        }
        if self._step not in steps:
            raise AggregationError(f"{self.name} has ended its part of round {self.plan.round}")
        kind, answer = steps[self._step]
        if not isinstance(message, kind):
            self._step = 0
            raise AggregationError("a message out of turn", expected=kind.__name__, actual=type(message).__name__)
        step, self._step = self._step, 0  # an error ends this plant's part
        result: FromPlant = answer(message)
        self._step = step + 1
        return result

    def _share(self, message: KeyList) -> SealedShares:
        self._check_enough(message.keys, "plants take part")
        for plant, keys in message.keys.items():
            if not is_signed(self.plan.plants[plant], keys.signature, keys.signed(self.plan, plant)):
                raise AggregationError(
                    f"the keys of {plant} are not signed by it",
                    action=f"No number was sent. Ask {plant} and the coordinator: one of them, or somebody between, is "
                    "not honest.",
                )
        if message.keys.get(self.name) != self.join().keys:
            raise AggregationError("the list holds other keys of this plant than it sent")
        self._keys = message.keys
        points = {plant: self.plan.points[plant] for plant in message.keys}
        masking = split(self._masking, self.plan.threshold, list(points.values()))
        own = split(self._own_mask, self.plan.threshold, list(points.values()))
        return SealedShares(
            {
                plant: encrypt(
                    self._sealing_key(self.name, plant), masking[point] + own[point], self._context(self.name, plant)
                )
                for plant, point in points.items()
            }
        )

    def _masked(self, message: SealedShares) -> MaskedVector:
        self._check_enough(message.shares, "plants sent shares")
        if self.name not in message.shares or not message.shares.keys() <= self._keys.keys():
            raise AggregationError("shares of plants that do not take part, or none of this one")
        self._sealed = message.shares
        length, bits = self.plan.length, self.plan.bits
        total = self._values + mask(self._own_mask, length, bits)
        for plant in message.shares:
            if plant != self.name:
                pairwise = mask(self._pairwise_seed(plant), length, bits)
                total = total + pairwise if self.name < plant else total - pairwise
        return MaskedVector(total.astype(f"<u{bits // 8}").tobytes())

    def _sign(self, message: Survivors) -> SurvivorsSignature:
        self._check_enough(message.plants, "plants survive")
        if not set(message.plants) <= self._sealed.keys() or len(set(message.plants)) != len(message.plants):
            raise AggregationError("survivors that sent no shares")
        self._survivors = message
        return SurvivorsSignature(self._key.sign(message.signed(self.plan)))

    def _reveal(self, message: Signatures) -> RevealedShares:
        self._check_enough(message.signatures, "plants signed")
        if self._survivors is None:
            raise AggregationError("no list of survivors")
        content = self._survivors.signed(self.plan)
        for plant, signature in message.signatures.items():
            if not is_signed(self.plan.plants[plant], signature, content):
                raise AggregationError(
                    f"{plant} signed another list of survivors: the coordinator is not honest",
                    action="No number was shown. Take part in no more rounds until the coordinator has explained it.",
                )
        own_masks: dict[str, bytes] = {}
        masking_keys: dict[str, bytes] = {}
        for plant, sealed in self._sealed.items():
            # Never both of one plant: together they would show its vector.
            masking, own = self._opened(plant, sealed)
            if plant in self._survivors.plants:
                own_masks[plant] = own
            else:
                masking_keys[plant] = masking
        return RevealedShares(own_masks, masking_keys)

    def _opened(self, plant: str, sealed: bytes) -> tuple[bytes, bytes]:
        try:
            text = decrypt(self._sealing_key(plant, self.name), sealed, self._context(plant, self.name))
        except ValueError as error:
            raise AggregationError(f"share of {plant}: {error}") from error
        if len(text) != 2 * SHARE_BYTES:
            raise AggregationError(f"{plant} sent no share")
        return text[:SHARE_BYTES], text[SHARE_BYTES:]

    def _check_enough(self, plants: object, what: str) -> None:
        names = set(plants)  # type: ignore[call-overload]
        if not names <= self.plan.plants.keys():
            raise AggregationError("plants that the plan does not name", actual=sorted(names - self.plan.plants.keys()))
        if len(names) < max(self.plan.threshold, PLANTS_MIN):
            raise AggregationError(f"too few {what}", expected=f"at least {self.plan.threshold}", actual=len(names))

    def _other(self, sender: str, receiver: str) -> str:
        return receiver if sender == self.name else sender

    def _sealing_key(self, sender: str, receiver: str) -> bytes:
        other = self._keys[self._other(sender, receiver)].sealing
        return self._agreed(self._sealing, other, f"lineside share {sender} {receiver}")

    def _pairwise_seed(self, plant: str) -> bytes:
        return self._agreed(self._masking, self._keys[plant].masking, "lineside mask")

    def _agreed(self, secret: bytes, public: bytes, purpose: str) -> bytes:
        try:
            return agree(secret, public, purpose)
        except ValueError as error:
            raise AggregationError(f"a public key that is none: {error}") from error

    def _context(self, sender: str, receiver: str) -> bytes:
        return self.plan.digest + f"{sender}\0{receiver}".encode()
