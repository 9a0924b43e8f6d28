"""Requests and answers as both protocols exchange them with the service."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lineside_runtime.errors import RequestError
from lineside_runtime.server.wire import GivenTensor
from lineside_runtime.serving.types import Prediction

Protocol = Literal["rest", "grpc"]

SHARED_MEMORY = "the shared-memory extension is not served"
SHARED_MEMORY_ACTION = "Send the tensor inside the request: without set_shared_memory, as binary data."

_UNSERVED = {
    "sequence_id": "sequences are not served: the models keep no state between calls",
    "priority": "priorities are not served: calls are taken as they come",
}


@dataclasses.dataclass(frozen=True, slots=True)
class InferRequest:
    """One call.

    Attributes:
        version: Its version; empty for whichever is loaded.
        id: Given back in the answer.
        inputs: As they were sent.
        outputs: Names of the wanted outputs; empty for all.
        timeout_s: How long the client waits; ``None`` for as long as the server allows.
    """

    model: str
    version: str
    id: str
    inputs: tuple[GivenTensor, ...]
    outputs: tuple[str, ...]
    timeout_s: float | None
    protocol: Protocol


@dataclasses.dataclass(frozen=True, slots=True)
class InferAnswer:
    """The answer to one call.

    Attributes:
        prediction: Who was asked, who answered.
        outputs: Names of the outputs to send, in this order.
    """

    request: InferRequest
    version: str
    prediction: Prediction
    outputs: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, str | bool]:
        """Parameters of the answer: requested device, used device, and level of the cache."""
        return {
            "requested_device": self.prediction.requested_device,
            "used_device": self.prediction.used_device,
            "fell_back": self.prediction.fell_back,
            "cached": self.prediction.cached or "",
        }


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """Reads the parameters of a request.

    Returns:
        The value of ``timeout`` in seconds; it is sent in microseconds, as Triton's clients do.

    Raises:
        RequestError: A parameter asks for what isn't served, or ``timeout`` is no positive number.
    """
    for name, reason in _UNSERVED.items():
        if parameters.get(name):
            raise RequestError(reason, action=f"Leave out the parameter {name!r}.")
    timeout_us = parameters.get("timeout")
    if timeout_us is None:
        return None
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or not 0 < timeout_us < 2**63:
        raise RequestError(
            "the parameter 'timeout'", expected="microseconds as a whole number > 0", actual=repr(timeout_us)[:40]
        )
    return timeout_us / 1e6


def refuse_tensor_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Refuses parameters of a tensor that are not served.

    Raises:
        RequestError: Shared memory, or Triton's classification extension.
    """
    if "shared_memory_region" in parameters:
        raise RequestError(f"tensor {name[:100]!r}: {SHARED_MEMORY}", action=SHARED_MEMORY_ACTION)
    if parameters.get("classification"):
        raise RequestError(
            f"output {name[:100]!r}: the classification extension is not served",
            action="Ask for the whole output; the labels are in the bundle's labels.json.",
        )
