"""A sensor for tests of the engine `imx500`, behind the names of picamera2 that the engine calls.

Written from the vendor's sources (named in `lineside_runtime.backends.imx500`): names, arguments, metadata and their
forms are theirs. What a sensor adds is what makes its answers hard to tell from others: frames of its own in between,
requests without outputs, and injections that are lost.
"""

from __future__ import annotations

import importlib.metadata
import os
import queue
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lineside_runtime.backends import imx500
from lineside_runtime.conformance.networks import NETWORKS

SIDE = 64
FRAME_S = 0.002
CAMERA = "/base/axi/pcie@1000120000/rp1/i2c@88000/imx500@1a"
OTHER = "/base/axi/pcie@1000120000/rp1/i2c@80000/imx219@10"

Codes = npt.NDArray[np.uint8]


def write_rpk(
    path: Path, *, side: int = SIDE, gain: int = 1024, offset: int = 0x1800, order: str = "RGB", locked: bool = False
) -> Path:
    """Writes a file laid out as ``IMX500.__ni_from_network`` reads it, without a network."""
    payload = bytes(100)
    flags = bytes(6) + bytes([locked]) + bytes(1)
    block = b"9464" + struct.pack(">I", len(payload)) + flags + bytes(60 - 16) + payload + b"3695" + bytes(32 * locked)
    facts = {
        "inputTensorWidth": side,
        "inputTensorHeight": side,
        "inputTensorFormat": order,
        **{f"inputTensorNorm_{name}": hex(offset) for name in ("K03", "K13", "K23")},
        **{f"inputTensorNorm_{name}": hex(gain) for name in ("K00", "K02", "K11", "K20", "K22")},
    }
    info = "".join(f"{name}={value}\n" for name, value in facts.items())
    path.write_bytes(2 * block + b"070701 network_info.txt\0" + info.encode() + b"\x00070701 TRAILER!!!\0")
    return path


def compute(planes: Codes) -> list[npt.NDArray[np.float32]]:
    """The suite's ``conv_int8`` behind the mean of three colours, channels last as the sensor has them."""
    grey = (planes ^ np.uint8(0x80)).mean(axis=0, dtype=np.float32)[None, None] / np.float32(255)
    network = next(one for one in NETWORKS if one.name == "conv_int8")
    return [np.asfortranarray(np.moveaxis(network.compute({"image": grey})["map"][0], 0, -1))]


class Stream:
    """The sensor: what both classes of the vendor's hold ends of."""

    def __init__(self) -> None:
        self.injected: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.injections = 0
        self.side = SIDE
        self.persistent = True
        self.deaf = False
        self.silent = False
        self.outputs: Callable[[Codes], list[Any]] = compute

    def requests(self) -> Iterator[dict[str, Any]]:
        random, number = np.random.default_rng(1), 0
        while True:
            number += 1
            tensor: Codes | None = None
            try:
                padded = np.frombuffer(self.injected.get(timeout=FRAME_S), np.uint8)
                wide = padded.reshape(3, self.side + self.side % 2, (self.side + 31) // 32 * 32)
                tensor = np.ascontiguousarray(wide[:, : self.side, : self.side])  # libcamera drops what pads
            except queue.Empty:
                if number % 4 == 1:  # between these, requests without outputs
                    tensor = random.integers(0, 256, (3, self.side, self.side), np.uint8)
            metadata: dict[str, Any] = {"SensorTimestamp": number}
            if tensor is not None and not self.silent:
                metadata["CnnOutputTensor"] = self.outputs(tensor)
                if self.persistent:
                    metadata["CnnInputTensor"] = tuple(tensor.reshape(-1).tolist())
            yield metadata


def install(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Puts a sensor where the engine looks for one."""
    stream, packages = modules()
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.3.38" if name == "picamera2" else version(name))
    monkeypatch.setattr(imx500, "REPEAT_S", 0.05)
    return stream


def modules() -> tuple[Stream, dict[str, types.ModuleType]]:
    """Returns a sensor, and the modules that give it to an engine."""
    stream = Stream()
    packages = {name: types.ModuleType(name) for name in ("picamera2", "picamera2.devices", "picamera2.devices.imx500")}
    packages["picamera2"].Picamera2 = _picamera2_of(stream)  # type: ignore[attr-defined]
    packages["picamera2.devices.imx500"].IMX500 = _imx500_of(stream)  # type: ignore[attr-defined]
    return stream, packages


def _imx500_of(stream: Stream) -> type:
    """Returns the class that loads a network into the sensor."""

    class IMX500:
        def __init__(self, network_file: str, camera_id: str = "", tensor_injection: bool = False) -> None:
            if camera_id not in CAMERA:
                raise RuntimeError("IMX500: Requested camera dev-node not found")
            text = Path(network_file).read_bytes().split(b"network_info.txt\0")[1].split(b"\0")[0].decode()
            own = dict(line.split("=") for line in text.splitlines())
            offset = int(own["inputTensorNorm_K03"], 0)
            value = offset if not offset >> 12 & 1 else -((~offset + 1) & 0x1FFF)
            self.injects = tensor_injection
            stream.side = int(own["inputTensorWidth"])
            self.camera_num = 1
            self.config = {
                "network_info": {"network": {0: own}},
                "input_tensor": {
                    "width": stream.side,
                    "height": stream.side,
                    "norm_val": [value] * 3,
                    "div_val": [1024, 1024, 1024],
                    "dtype": "signed" if offset >> 12 & 1 else "unsigned",
                },
            }

        def get_injection_cmp_frm(self) -> int:
            return 0

        def get_outputs(self, metadata: dict[str, Any], add_batch: bool = False) -> list[Any] | None:
            return metadata.get("CnnOutputTensor")

        def __set_input_tensor(self, input_tensor_fd: int) -> None:
            if not self.injects:
                raise RuntimeError("IMX500: Unable to set input tensor fd: [Errno 22] Invalid argument")
            stream.injections += 1
            if not stream.deaf and stream.injections % 5:  # now and then one is lost
                stream.injected.put(os.pread(input_tensor_fd, 1 << 24, 0))

    return IMX500


def _picamera2_of(stream: Stream) -> type:
    """Returns the class that streams the sensor's requests."""

    class Picamera2:
        pre_callback: Callable[[Any], None] | None = None

        @staticmethod
        def global_camera_info() -> list[dict[str, Any]]:
            return [{"Model": "imx219", "Id": OTHER, "Num": 0}, {"Model": "imx500", "Id": CAMERA, "Num": 1}]

        def __init__(self, camera_num: int = 0) -> None:
            self._ended = threading.Event()
            self._thread: threading.Thread | None = None

        def create_preview_configuration(self, *, controls: dict[str, Any], buffer_count: int) -> dict[str, Any]:
            return {"controls": controls, "buffer_count": buffer_count}

        def start(self, config: Any = None, show_preview: bool = False) -> None:
            assert config["controls"]["CnnEnableInputTensor"]
            self._thread = threading.Thread(target=self._stream)
            self._thread.start()

        def _stream(self) -> None:
            for metadata in stream.requests():
                if self._ended.is_set():
                    return
                if self.pre_callback is not None:
                    self.pre_callback(types.SimpleNamespace(get_metadata=lambda found=metadata: found))

        def stop(self) -> None:
            self._ended.set()
            if self._thread is not None:
                self._thread.join(60)

        def close(self) -> None:
            self.stop()

    return Picamera2
