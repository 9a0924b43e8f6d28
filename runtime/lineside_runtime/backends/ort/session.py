"""A loaded ``InferenceSession`` of ONNX Runtime: its options, its calls, its profile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as vendor

from lineside_runtime.backend import Executable, Fetch, LoadOptions, OperatorTime
from lineside_runtime.backends.options import operator_library, threads_of
from lineside_runtime.backends.ort.arena import share_arena
from lineside_runtime.backends.ort.bound_buffers import MAX_BYTES, Buffers
from lineside_runtime.backends.ort.providers import cuda_card
from lineside_runtime.backends.profile import Sums
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BadInputFormatError, DeviceError
from lineside_runtime.system import vnni
from lineside_runtime.system.affinity import on_cores
from lineside_runtime.tensors import Array, DType

_ARRAY = np.ndarray
_KERNEL = "_kernel_time"  # what ends the name of an event that is an operator's run
_ELEMENTS: dict[str, DType] = {"float": "float32", "double": "float64"}
"""ONNX Runtime's element types that have another name than numpy's."""


def executable_of(session: Any, options: LoadOptions) -> OrtExecutable:
    """Returns what runs a loaded session; with bound buffers where that is faster."""
    inputs, outputs = _fixed(session.get_inputs()), _fixed(session.get_outputs())
    on_cpu = session.get_providers() == ["CPUExecutionProvider"]
    plain = not (options.profile or options.cores or session.get_overridable_initializers())
    if on_cpu and plain and inputs and outputs:
        return BoundExecutable(session, options, inputs, outputs)
    return OrtExecutable(session, options)


class OrtExecutable(Executable):
    """An ``InferenceSession``; its ``run`` may be called from several threads."""

    def __init__(self, session: Any, options: LoadOptions) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._required = {value.name for value in session.get_inputs()}
        self._complete = -1 if session.get_overridable_initializers() else len(self._required)
        self._call = _bare_call(session, options.cores)
        self._profile = OrtProfile(session) if options.profile else None

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._session is None:
            raise DeviceError("the executable is closed")
        feed = inputs if type(inputs) is dict else dict(inputs)
        if len(feed) != self._complete:  # the binding refuses an unknown name, but runs with one missing
            self._check_complete(feed)
        return dict(zip(self._outputs, self._call(self._outputs, feed, None), strict=True))

    def _check_complete(self, feed: dict[str, Array]) -> None:
        unknown = feed.keys() - self._required if self._complete >= 0 else ()  # bound calls would not look at it
        if unknown or not feed.keys() >= self._required:
            raise BadInputFormatError("other inputs", expected=sorted(self._required), actual=sorted(feed))

    def _operators(self) -> tuple[OperatorTime, ...]:
        return () if self._profile is None else self._profile.operators()

    def _keep(self, outputs: Mapping[str, Array]) -> Fetch | None:
        card = cuda_card(self.device.handle)
        if card is None:
            return None
        put = onnxruntime.OrtValue.ortvalue_from_numpy  # untested on hardware
        kept = {name: put(array, "cuda", card) for name, array in outputs.items()}
        return lambda: {name: value.numpy() for name, value in kept.items()}

    def _close(self) -> None:
        if self._profile is not None:
            self._profile.close()
        self._call = self._session = None


class BoundExecutable(OrtExecutable):
    """One whose inputs and outputs are small and of fixed shapes: its calls run on buffers that stay bound."""

    def __init__(
        self, session: Any, options: LoadOptions, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        """Takes a loaded session, and an array of the right shape and type for each input and output."""
        super().__init__(session, options)
        self._like = (inputs, outputs)
        self._idle: list[Buffers] = []

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            buffers = self._idle.pop()  # atomic, as is append
        except IndexError:
            if self._session is None:
                raise DeviceError("the executable is closed") from None
            buffers = Buffers(self._session, *self._like)
        fits = len(inputs) == self._complete
        for name, buffer, dtype, shape in buffers.inputs:
            array = inputs.get(name)
            if type(array) is not _ARRAY or array.dtype is not dtype or array.shape != shape:
                fits = False
                break
            buffer[...] = array
        if not fits:
            self._idle.append(buffers)
            return super()._run(inputs)  # ONNX Runtime says what is wrong, or copes
        buffers.call(*buffers.bound)
        outputs = {}
        for name, buffer in buffers.outputs:
            outputs[name] = buffer.copy()  # before 3.12 a comprehension is one more call
        self._idle.append(buffers)  # not after an error: it may be spoilt
        return outputs

    def _close(self) -> None:
        super()._close()
        self._idle = []


class OrtProfile:
    """ONNX Runtime's own profile of a session, which it writes to a file when it ends."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._found: tuple[OperatorTime, ...] | None = None

    def operators(self) -> tuple[OperatorTime, ...]:
        """Returns what each operator took until this was first called: ONNX Runtime's profile can't be read twice."""
        if self._found is None:
            path = Path(self._session.end_profiling())
            try:
                self._found = _operator_times(path.read_bytes())
            finally:
                path.unlink(missing_ok=True)
        return self._found

    def close(self) -> None:
        """Removes the file."""
        if self._found is None:
            self._found = ()
            Path(self._session.end_profiling()).unlink(missing_ok=True)


class _Event(msgspec.Struct):
    cat: str
    name: str
    dur: int = 0
    args: dict[str, Any] = {}


def _operator_times(profile: bytes) -> tuple[OperatorTime, ...]:
    sums = Sums()
    sums.add(
        (event.name.removesuffix(_KERNEL), str(event.args.get("op_name", "")), event.dur)
        for event in decode_json(profile, type=list[_Event])
        if event.cat == "Node" and event.name.endswith(_KERNEL)
    )
    return sums.means()


def _bare_call(session: Any, cores: tuple[int, ...] | None) -> Any:
    """Returns the binding that ``InferenceSession.run`` calls, without its Python, which takes 1 to 3 µs.

    What that adds is a check that no input is missing, which is done here, and a fall back to other execution
    providers, which is turned off. The caller's thread takes part in the work, so it is kept on ``cores`` meanwhile.
    """
    binding = getattr(session, "_sess", None)
    call = session.run if binding is None else binding.run
    return call if cores is None else on_cores(cores)(call)


def element_type(value: Any) -> DType | None:
    """Returns the type of an input or output of a session, ``None`` where a bundle has no name for it."""
    name = value.type.removeprefix("tensor(").removesuffix(")")
    element = _ELEMENTS.get(name, name)
    return element if element in get_args(DType) else None


def _fixed(values: Any) -> dict[str, Array]:
    """Returns an array like each value; none if one has a free dimension or another type, or if they are large."""
    arrays: dict[str, Array] = {}
    free = MAX_BYTES
    for value in values:
        element = element_type(value)
        if element in (None, "string") or not all(isinstance(size, int) and size > 0 for size in value.shape):
            return {}
        free -= math.prod(value.shape) * np.dtype(element).itemsize
        if free < 0:
            return {}
        arrays[value.name] = np.empty(value.shape, element)
    return arrays


def session_options(options: LoadOptions, *, exact_sums: bool | None = None) -> Any:
    """Returns ONNX Runtime's options.

    One operator at a time (``inter_op`` 1), and threads that wait without spinning where there are more than one:
    measured on two cores, that halves the CPU time for a quarter more latency, and the cores are needed elsewhere.

    Args:
        options: What the model is loaded with.
        exact_sums: Take the kernels for x86 whose sums are exact without VNNI. If not given, only where the fast ones
            cut sums off (`lineside_runtime.system.vnni`): outputs were wrong by up to 28 % of the largest value there,
            and these take 1.15 to 1.35 times as long. With VNNI the fast ones are exact, and these take more than twice
            as long (12.6 ms against 5.7 for ``surface-12``).
    """
    result = onnxruntime.SessionOptions()
    result.inter_op_num_threads = 1
    share_arena(result)
    exact = vnni.cuts_sums() if exact_sums is None else exact_sums
    result.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    result.log_severity_level = 4  # what fails is raised, and logged by the session with its device
    threads = threads_of(options)
    if threads is not None:
        result.intra_op_num_threads = threads
    if threads != 1:
        result.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for library in options.operator_libraries:
        with operator_library(library, "onnxruntime", vendor.Fail):
            result.register_custom_ops_library(str(library))
    if options.profile:
        import tempfile  # only who profiles pays for them
        import uuid

        result.enable_profiling = True
        result.profile_file_prefix = f"{tempfile.gettempdir()}/lineside-ort-{uuid.uuid4().hex}"
    return result
