"""The service behind both protocols: admits, runs and counts calls; knows neither HTTP nor gRPC."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lineside_runtime.errors import (
    BadInputFormatError,
    BundleError,
    DeadlineExceededError,
    DeviceBusyError,
    DeviceLostError,
    InputError,
    LinesideError,
    OutOfDeviceMemoryError,
    OverloadedError,
    RequestError,
)
from lineside_runtime.server import metrics
from lineside_runtime.server.calls import InferAnswer, InferRequest, Protocol
from lineside_runtime.server.limits import AdmissionGate, ServerLimits
from lineside_runtime.server.metrics import Metrics
from lineside_runtime.server.model_interface import SOON_S, ModelInterface
from lineside_runtime.server.repository import ModelRepository
from lineside_runtime.server.wire import METADATA_ACTION, to_array
from lineside_runtime.tensors import Array

NAME = "lineside"
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "parameters")

log = logging.getLogger("lineside.server")


class Cancelled(Exception):  # noqa: N818  not an error: the client waits no longer
    """The client went away before its call could run."""


class Service:
    """The models behind one admission gate.

    Attributes:
        limits: What is taken on at once.
        gate: Who may run.
        accepting: False as soon as the server is to stop.
        model_control: Whether clients may load and unload models.
    """

    def __init__(
        self, repository: ModelRepository, limits: ServerLimits, *, version: str, model_control: bool = False
    ) -> None:
        self.repository = repository
        self.limits = limits
        self.gate = AdmissionGate(limits)
        self.metrics = Metrics(repository, lambda: self.gate.in_flight)
        self.accepting = True
        self.model_control = model_control
        self._version = version

    @property
    def ready(self) -> bool:
        """Whether calls are accepted: every model is loaded, and the server is not stopping."""
        return self.accepting and self.repository.ready

    def metadata(self) -> dict[str, Any]:
        """Returns the protocol's description of the server."""
        return {"name": NAME, "version": self._version, "extensions": list(EXTENSIONS)}

    def infer(
        self,
        request: InferRequest,
        *,
        arrived_s: float,
        wanted: Callable[[], bool] = lambda: True,
    ) -> InferAnswer:
        """Runs a call that the gate has let in, in the caller's thread.

        Args:
            arrived_s: When it arrived, by `time.perf_counter`.
            wanted: Whether the client still waits; called when it is the call's turn.

        Raises:
            Cancelled: Nobody does.
            BadInputFormatError: An input doesn't fit.
            RequestError: There is no such model or output, the model is not loaded, or it was reloaded just now and is
                another version than the one asked for.
            DeadlineExceededError: It was not answered in time.
            DeviceError: No device could answer it.
        """
        timeout_s = min(request.timeout_s or self.limits.request_timeout_s, self.limits.request_timeout_s)
        ends_s = arrived_s + timeout_s
        model = self.repository.get(request.model, request.version)
        with model.use() as interface:
            names = _wanted_outputs(request, interface)
            inputs = _arrays(request, interface)
            with self.gate.turn(ends_s - time.perf_counter()):
                if not wanted():
                    raise Cancelled
                queued_s = time.perf_counter() - arrived_s
                prediction = interface.run(inputs, max(ends_s - time.perf_counter(), SOON_S))
        version = prediction.bundle.rpartition("@")[2]
        if request.version not in ("", version):
            raise RequestError(f"{request.model!r} was reloaded meanwhile", status=409, action="Ask again.")
        took_s = time.perf_counter() - arrived_s
        self.metrics.answered(request.model, request.protocol, prediction, queued_s=queued_s, took_s=took_s)
        return InferAnswer(request, version, prediction, names)

    @contextlib.contextmanager
    def counted(self, model: str, protocol: Protocol) -> Iterator[None]:
        """Counts a call that is not answered, by the reason, and logs it where that isn't the client's fault."""
        outcome = "crashed"
        try:
            yield
            outcome = ""  # `infer` has counted it
        except LinesideError as error:
            outcome = metrics.outcome_of(error)
            if status_of(error) == 500:
                log.error("%s: a call over %s failed: %s", model[:100], protocol, error)
            raise
        except Cancelled:
            outcome = "cancelled"
            raise
        finally:
            if outcome:
                known = any(one.name == model for one in self.repository.models)
                self.metrics.refused(model if known else metrics.UNKNOWN_MODEL, protocol, outcome)

    def control(self) -> None:
        """Refuses to load and unload unless the server was started so.

        Raises:
            RequestError: It was not (403).
        """
        if not self.model_control:
            raise RequestError(
                "clients may not load and unload models here",
                status=403,
                action="Start the server with --model-control to allow it.",
            )

    def refuse_load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Refuses what Triton's clients may send along with a load: another configuration, or the model's files.

        Raises:
            RequestError: There is some of it.
        """
        if any(name == "config" or name.startswith("file:") for name in parameters):
            raise RequestError(
                "a client can't send a model or its configuration",
                action="Put the new bundle where the old one lies, and load it by name.",
            )


def _wanted_outputs(request: InferRequest, interface: ModelInterface) -> tuple[str, ...]:
    names = tuple(spec.name for spec in interface.outputs)
    for name in request.outputs:
        if name not in names:
            raise RequestError(f"no output {name[:100]!r}", expected=f"some of {', '.join(names)}", actual=name[:100])
    if len(set(request.outputs)) != len(request.outputs):
        raise RequestError("an output is asked for twice", expected="each once")
    return request.outputs or names


def _arrays(request: InferRequest, interface: ModelInterface) -> dict[str, Array]:
    specs = {spec.name: spec for spec in interface.inputs}
    given = [tensor.name for tensor in request.inputs]
    if sorted({*given, *interface.optional}) != sorted(specs) or len(set(given)) != len(given):
        shown = ", ".join(name[:100] for name in given[:20]) or "none"
        raise BadInputFormatError("other inputs", expected=", ".join(specs), actual=shown, action=METADATA_ACTION)
    return {tensor.name: to_array(tensor, specs[tensor.name]) for tensor in request.inputs}


_STATUS: tuple[tuple[type[LinesideError], int], ...] = (
    (OverloadedError, 503),
    (DeviceBusyError, 503),
    (OutOfDeviceMemoryError, 503),
    (DeviceLostError, 503),
    (DeadlineExceededError, 504),
    (InputError, 400),
    (BundleError, 409),
)


def status_of(error: LinesideError) -> int:
    """Returns the HTTP status that an error is answered with."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
