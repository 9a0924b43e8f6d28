"""A loaded ``InferenceSession`` of ONNX Runtime: its options, its calls, its profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as vendor

from lineside_runtime.backend import Executable, Fetch, LoadOptions, OperatorTime
from lineside_runtime.backends.common.options import operator_library, threads_of
from lineside_runtime.backends.ort.providers import cuda_card
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BadInputFormatError, DeviceError
from lineside_runtime.system import heap, vnni
from lineside_runtime.system.affinity import on_cores
from lineside_runtime.tensors import Array, DType

_KERNEL = "_kernel_time"  # what ends the name of an event that is an operator's run
_ELEMENTS: dict[str, DType] = {"float": "float32", "double": "float64"}
"""ONNX Runtime's element types that have another name than numpy's."""


class OrtExecutable(Executable):
    """An ``InferenceSession``; its ``run`` may be called from several threads."""

    def __init__(self, session: Any, options: LoadOptions) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._required = {value.name for value in session.get_inputs()}
        self._cores = options.cores
        self._profile = OrtProfile(session) if options.profile else None

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise DeviceError("the executable is closed")
        if not inputs.keys() >= self._required:  # older releases run with one missing
            raise BadInputFormatError("other inputs", expected=sorted(self._required), actual=sorted(inputs))
        if self._cores is None:
            outputs = session.run(self._outputs, dict(inputs))
        else:
            with on_cores(self._cores):  # the caller's thread takes part in the work
                outputs = session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, outputs, strict=True))

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
        self._session = None


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
    from lineside_runtime.backends.common.operator_times import OperatorTimes  # only who profiles pays for it

    sums = OperatorTimes()
    sums.add(
        (event.name.removesuffix(_KERNEL), str(event.args.get("op_name", "")), event.dur)
        for event in decode_json(profile, type=list[_Event])
        if event.cat == "Node" and event.name.endswith(_KERNEL)
    )
    return sums.means()


def element_type(value: Any) -> DType | None:
    """Returns the type of an input or output of a session, ``None`` where a bundle has no name for it."""
    name = value.type.removeprefix("tensor(").removesuffix(")")
    element = _ELEMENTS.get(name, name)
    return element if element in get_args(DType) else None


def session_options(options: LoadOptions, *, exact_sums: bool | None = None, as_float: bool = False) -> Any:
    """Returns ONNX Runtime's options.

    One operator at a time (``inter_op`` 1), and threads that wait without spinning where there are more than one:
    measured on two cores, that halves the CPU time for a quarter more latency, and the cores are needed elsewhere.

    Args:
        options: What the model is loaded with.
        exact_sums: Take the kernels for x86 whose sums are exact without VNNI. If not given, only where the fast ones
            cut sums off (`lineside_runtime.system.vnni`): outputs were wrong by up to 28 % of the largest value there,
            and these take 1.15 to 1.35 times as long. With VNNI the fast ones are exact, and these take more than twice
            as long (12.6 ms against 5.7 for ``surface-12``).
        as_float: Compute layers between ``DequantizeLinear`` and ``QuantizeLinear`` as float ones.
    """
    result = onnxruntime.SessionOptions()
    result.inter_op_num_threads = 1
    if options.calls == 1 and heap.saves_memory():
        from lineside_runtime.backends.ort.arena import share_arena  # only a device's own process saves memory

        share_arena(result)
    exact = vnni.saturates() if exact_sums is None else exact_sums
    result.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    if as_float:
        result.add_session_config_entry("session.disable_quant_qdq", "1")
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
