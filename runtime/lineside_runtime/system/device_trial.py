"""Try a device with the smallest networks of the conformance suite, to find one that is offered and computes nothing.

Such devices exist: ``onnxruntime-qnn`` 2.7 on plain x86 offers a CPU that takes no node, for it lacks ``libQnnCpu``.
"""

from __future__ import annotations

from lineside_runtime.backend import Backend
from lineside_runtime.conformance import models
from lineside_runtime.devices import Device
from lineside_runtime.errors import InputNotFoundError, LinesideError


def try_device(backend: Backend, device: Device) -> str:
    """Returns why a device runs none of the networks that its engine has a file of, by the first of them.

    Empty if it runs one as a whole, or one operator where its engine does that by itself (`Backend.try_device`), or if
    the suite has no file in a format that the engine reads: those of vendors' compilers, as for Hailo, RKNN and
    TensorRT.
    """
    reason = ""
    try:
        if backend.try_device(device):
            return ""
    except LinesideError as error:
        return error.message
    try:
        networks = models.find(backend)
    except InputNotFoundError:
        return ""
    for model in networks:
        try:
            executable = backend.load(model.file, device, model.options(whole=True))
            try:
                executable.run(model.network.sample(0))
            finally:
                executable.close()
        except LinesideError as error:  # noqa: PERF203  five networks
            reason = reason or error.message
        else:
            return ""
    return reason
