"""What surrounds the messages of a round on their way over MQTT."""

from __future__ import annotations

import msgspec

from lineside_link.aggregation.identity import PlantKey
from lineside_link.aggregation.messages import FromPlant, ToPlant
from lineside_runtime.decoding import JsonDecoder


class SignedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plan of a round as the coordinator sends it.

    Attributes:
        plan: JSON of a `RoundPlan` or `ComparisonPlan`.
        signature: By the coordinator, of ``plan``.
    """

    plan: bytes
    signature: bytes


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message of a step.

    Attributes:
        step: From 1; an answer has the step of the message that it answers.
        body: JSON of the message; empty where ``chunks`` are given.
        chunks: Of a long masked vector: sha256 of each piece, which the coordinator fetches from the plant.
    """

    step: int
    body: bytes
    chunks: tuple[str, ...] = ()


signed_plan: JsonDecoder[SignedPlan] = JsonDecoder(SignedPlan)
envelope: JsonDecoder[Envelope] = JsonDecoder(Envelope)


def sign_plan(plan: msgspec.Struct, key: PlantKey) -> bytes:
    """Returns the plan of a round as it is sent: of a sum, or of a comparison."""
    body = msgspec.json.encode(plan)
    return msgspec.json.encode(SignedPlan(body, key.sign(body)))


def enveloped(step: int, message: FromPlant | ToPlant) -> bytes:
    """Returns a message as it is sent."""
    return msgspec.json.encode(Envelope(step, msgspec.json.encode(message)))
