"""Inputs and outputs of a served model, as clients see them: the network's own, unless the model has others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from lineside_runtime.bundle import sample_inputs
from lineside_runtime.errors import BadInputFormatError, DeviceError, EngineError
from lineside_runtime.server.wire import METADATA_ACTION
from lineside_runtime.serving.types import Prediction
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array, TensorSpec


class ModelInterface(Protocol):
    """How clients call a model."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What they send; texts have the type ``string``."""
        ...

    @property
    def optional(self) -> frozenset[str]:
        """Names of the inputs that they may leave out."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What they get."""
        ...

    def run(self, inputs: Mapping[str, Array], deadline_s: float) -> Prediction:
        """Runs a call in the caller's thread, by `Session.submit`.

        Args:
            inputs: Checked against `inputs`.
            deadline_s: Seconds that are left.

        Raises:
            LinesideError: As `Session.submit`.
        """
        ...


SOON_S = 1e-3
"""What a call is given whose time is all but over when its turn comes."""

InterfaceMaker = Callable[[Session], ModelInterface | None]
"""Returns the interface of a session's bundle; ``None`` for the network's own."""


class NetworkInterface:
    """The network's own inputs and outputs."""

    optional: frozenset[str] = frozenset()

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Of the bundle that is loaded."""
        return self._session.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Of the bundle that is loaded."""
        return self._session.manifest.outputs

    def run(self, inputs: Mapping[str, Array], deadline_s: float) -> Prediction:
        """As `ModelInterface.run`.

        Raises:
            BadInputFormatError: The network fails at these sizes of its free dimensions, and runs at those of a sample.
        """
        ends_s = time.perf_counter() + deadline_s
        try:
            # `submit` and not `predict`: a native call can't be ended, but waiting for it can
            return self._session.submit(inputs, deadline_s=deadline_s).result()
        except (BadInputFormatError, EngineError) as error:
            sample = sample_inputs(self._session.manifest)
            other = [spec for spec in self.inputs if inputs[spec.name].shape != sample[spec.name].shape]
            if not other:
                raise
            if isinstance(error, EngineError) and not self._runs(sample, ends_s - time.perf_counter()):
                raise
            spec = other[0]
            raise BadInputFormatError(
                f"input {spec.name!r}: the network can't run this shape: {error.message[:500]}",
                expected=f"{spec.describe()}, such as {sample[spec.name].shape}",
                actual=inputs[spec.name].shape,
                action=METADATA_ACTION,
            ) from error

    def _runs(self, sample: Mapping[str, Array], left_s: float) -> bool:
        try:
            self._session.submit(sample, deadline_s=max(left_s, SOON_S)).result()
        except DeviceError:
            return False
        return True
