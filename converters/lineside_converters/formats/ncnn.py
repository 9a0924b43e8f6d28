"""ncnn, the way to a Raspberry Pi's GPU: ``model.param`` with ``model.bin``, weights in FP16, by Tencent's pnnx.

ncnn's INT8 needs a calibration program that no Python package brings, so FP16 is what is made: half the size, and the
arithmetic of the GPUs that ncnn is for.
"""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

from lineside_converters.formats import ConversionRequest, shaped_input
from lineside_runtime.errors import GraphError

TIME_MAX_S = 600


def make(request: ConversionRequest) -> Path:
    """Converts the float graph at the one shape that the calibration inputs have."""
    shape = shaped_input(request)
    if shape is None:
        raise GraphError("pnnx converts for one input of one shape", action="Give frames that become one shape.")
    target = request.folder / "model.param"
    text = "[" + ",".join(str(size) for size in shape) + "]f32"
    arguments = [
        f"inputshape={text}",
        "fp16=1",
        f"ncnnparam={target}",
        f"ncnnbin={target.with_suffix('.bin')}",
        *(f"{name}={request.folder / name}.tmp" for name in ("ncnnpy", "pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx")),
    ]
    try:
        done = subprocess.run(
            [_program(), str(request.clean), *arguments],
            capture_output=True,
            text=True,
            timeout=TIME_MAX_S,
            cwd=request.folder,
        )
    except subprocess.TimeoutExpired as error:
        raise GraphError(f"pnnx took longer than {TIME_MAX_S} s") from error
    for left in request.folder.glob("*.tmp"):
        left.unlink()
    if done.returncode or not target.is_file() or not target.with_suffix(".bin").is_file():
        words = (done.stderr or done.stdout).strip().splitlines()
        raise GraphError("pnnx can't convert this graph", actual=words[-1] if words else f"status {done.returncode}")
    return target


def _program() -> str:
    """Returns the program inside the package, without importing that: it imports torch."""
    found = importlib.util.find_spec("pnnx")
    if found is None or found.origin is None:
        raise GraphError("pnnx is not installed", action="Run: pip install pnnx")
    return str(Path(found.origin).parent / "pnnx")
