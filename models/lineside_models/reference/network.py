"""The classical difference as a network in ONNX, so that every engine runs it and a bundle carries it.

::

    difference ─► erosion 3 × 3 ─► largest of 2 × 2 ─► grey openings of several sizes ─► their mean ─► dilation ─► map

A grey opening of size k leaves at each pixel the greatest difference that a whole square of k × k pixels around it
reaches. So edges that moved by a pixel leave nothing, and a defect scores higher the larger and the stronger it is. The
map has half the frame's side; its values are grey levels, 0 to 255.

The file is written without the ``onnx`` package, which a device does not carry; field numbers as in
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lineside_models.anomaly.onnx_tail import bytes_field, number_field, with_weights
from lineside_models.frame import UInt8Array
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.backend import OrtBackend

INPUT, OUTPUT = "image", "difference"
STRIDE = 2
OPENINGS = (0, 2, 3, 5)
"""Sizes of the openings in pixels of the map, behind the erosion; 0 is the erosion alone. In the frame they are squares
of 3, 5, 7 and 11 px."""

_IR_VERSION, _OPSET = 8, 13
_FLOAT = 1
_INT, _INTS = 2, 7
DIFFERENCE_CHANNEL = 2
"""Of a composed image."""


def difference_model(*, grow_px: int) -> bytes:
    """Returns the ONNX file: ``(N, 3, H, W) float32`` composed images to a map ``(N, 1, H / 2, W / 2) float32``.

    Args:
        grow_px: By how much regions grow to each side, in pixels of the frame; what is nearer than twice that is one.
    """
    nodes = [
        _node("Gather", [INPUT, "channel"], "only", {"axis": 1}),
        *_eroded("only", "core", 3),
        _pool("core", "half", STRIDE, stride=STRIDE),
    ]
    opened = []
    for size in OPENINGS:
        if size > 1:
            nodes += [
                *_eroded("half", f"eroded_{size}", size),
                _pool(f"eroded_{size}", f"opened_{size}", size, late=True),
            ]
        opened.append(f"opened_{size}" if size > 1 else "half")
    side = 2 * max(1, round((grow_px + 1) / STRIDE)) + 1
    nodes += [_node("Mean", opened, "mean"), _pool("mean", OUTPUT, side)]
    graph = b"".join(
        (
            *(bytes_field(1, node) for node in nodes),
            bytes_field(2, b"difference"),
            bytes_field(11, _tensor_info(INPUT, ("N", 3, "H", "W"))),
            bytes_field(12, _tensor_info(OUTPUT, ("N", 1, "h", "w"))),
        )
    )
    opset = bytes_field(1, b"") + number_field(2, _OPSET)
    model = number_field(1, _IR_VERSION) + bytes_field(7, graph) + bytes_field(8, opset)
    return with_weights(model, {"channel": np.array([DIFFERENCE_CHANNEL], np.int64)})


class DifferenceNetwork:
    """The network, loaded: what learning asks for the scores of good frames.

    Args:
        grow_px: As for `difference_model`.

    Raises:
        DeviceError: It does not run here.
    """

    def __init__(self, grow_px: int) -> None:
        with tempfile.TemporaryDirectory(prefix="lineside-difference-") as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(difference_model(grow_px=grow_px))
            backend = OrtBackend()
            cpu = next(each for each in backend.probe() if each.kind == "cpu")
            self._executable = backend.load(file, cpu, LoadOptions(threads=1))

    def difference(self, composed: UInt8Array) -> npt.NDArray[np.float32]:
        """Returns the map ``(H / 2, W / 2)`` of a composed image ``(H, W, 3)``, in grey levels."""
        tensor = np.ascontiguousarray(composed.transpose(2, 0, 1)[None], np.float32)
        return np.asarray(self._executable.run({INPUT: tensor})[OUTPUT][0, 0], np.float32)

    def strongest(self, composed: UInt8Array) -> float:
        """Returns the greatest value of the map of a composed image, in grey levels."""
        return float(self.difference(composed).max())

    def __enter__(self) -> DifferenceNetwork:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Releases the engine."""
        self._executable.close()


def _eroded(source: str, target: str, size: int) -> list[bytes]:
    """Returns the nodes of the smallest value of ``size × size`` pixels."""
    inner = [f"{target}_turned", f"{target}_largest"]
    return [
        _node("Neg", [source], inner[0]),
        _pool(inner[0], inner[1], size),
        _node("Neg", [inner[1]], target),
    ]


def _pool(source: str, target: str, size: int, *, stride: int = 1, late: bool = False) -> bytes:
    """Returns the node of the largest value of ``size × size`` pixels.

    Args:
        late: Of an even size the further pixel is the later one; an opening takes the earlier one first.
    """
    if stride > 1:
        pads = [0, 0, 0, 0]
    else:
        near, far = (size - 1) // 2, size // 2
        pads = [far, far, near, near] if late else [near, near, far, far]
    shape = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": pads}
    return _node("MaxPool", [source], target, shape)


def _node(
    kind: str, sources: Sequence[str], target: str, attributes: Mapping[str, int | list[int]] | None = None
) -> bytes:
    return b"".join(
        (
            *(bytes_field(1, source.encode()) for source in sources),
            bytes_field(2, target.encode()),
            bytes_field(3, target.encode()),
            bytes_field(4, kind.encode()),
            *(bytes_field(5, _attribute(name, value)) for name, value in (attributes or {}).items()),
        )
    )


def _attribute(name: str, value: int | list[int]) -> bytes:
    head = bytes_field(1, name.encode())
    if isinstance(value, int):
        return head + number_field(3, value) + number_field(20, _INT)
    return head + b"".join(number_field(8, each) for each in value) + number_field(20, _INTS)


def _tensor_info(name: str, shape: Sequence[int | str]) -> bytes:
    sizes = (number_field(1, size) if isinstance(size, int) else bytes_field(2, size.encode()) for size in shape)
    dimensions = b"".join(bytes_field(1, size) for size in sizes)
    kind = number_field(1, _FLOAT) + bytes_field(2, dimensions)
    return bytes_field(1, name.encode()) + bytes_field(2, bytes_field(1, kind))
