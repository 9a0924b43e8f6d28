"""IMX500: the network in the sensor of Raspberry Pi's AI Camera, through ``picamera2``.

Written from the vendor's sources: ``picamera2/devices/imx500/imx500.py`` and
``examples/imx500/imx500_object_detection_injection_demo.py`` in https://github.com/raspberrypi/picamera2 (0.3.38),
``src/ipa/rpi/cam_helper/cam_helper_imx500.cpp`` in https://github.com/raspberrypi/libcamera, and
``documentation/asciidoc/accessories/ai-camera`` in https://github.com/raspberrypi/documentation. **Untested on
hardware**; to test it: ``lineside conformance imx500 --model conv_int8=FILE.rpk``.

The sensor computes its own frames. A caller's input is put in the place of one by what the vendor calls input tensor
injection, made to validate converted networks (https://github.com/raspberrypi/picamera2/pull/1330). A request says
beside the outputs which input tensor they were computed from: an answer counts only if that is, byte for byte, what was
injected. The sensor's own frames are never an answer. See
``docs/adr/0029-inputs-for-sensors.md``.

An ``.rpk`` takes pixels in eight bits: inputs are turned back into the pixels that the bundle's pre-processing took.
It has no names of outputs: they are found by shape or order, and proven by the bundle's golden output.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_runtime.backend import Backend, Executable, LoadOptions, Stage
from lineside_runtime.backends.common.error_texts import device_error
from lineside_runtime.backends.common.options import refuse
from lineside_runtime.backends.common.streams import Stream, Tensor, pair_up
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    DriverMismatchError,
    EngineError,
    LinesideError,
    UnsupportedModelError,
)
from lineside_runtime.tensors import DYNAMIC, Array, TensorSpec

UPLOAD_TIMEOUT_S = 600.0
"""Until the first outputs: a network that the camera has not in its memory "may take several minutes" to upload."""

RUN_TIMEOUT_S = 10.0
REPEAT_S = 1.0
"""An injection whose answer has not come for so long is made again, as the vendor's demonstration does."""

RATE_HZ = 12
"""The demonstration's rate of frames."""

WIDTH_STEP, HEIGHT_STEP = 32, 2
"""An injected plane is padded to multiples of these: ``IMX500.prepare_tensor_for_injection``."""

GAINS = {"RGB": ("K00", "K11", "K22"), "BGR": ("K02", "K11", "K20")}
UNIT_GAIN = 1024
OFFSETS = {"signed": -2048, "unsigned": 0}
"""What the file says of an input whose codes are the pixels, from -128 or from 0. From other values the sensor
normalises what it sees, as ``IMX500.input_tensor_image`` undoes; what is injected is not normalised. The gains are read
from the file's own text: ``config["input_tensor"]["div_val"]`` holds the default whatever the file says (0.3.38)."""

Bytes = npt.NDArray[np.uint8]


class Imx500Backend(Backend):
    """The network in Sony's IMX500."""

    name = "imx500"
    package = "picamera2"
    formats = frozenset({"imx500"})
    untested_kinds = frozenset({"npu"})

    def __init__(self) -> None:
        """Imports the vendor's package here, so that this file can be read where it isn't.

        Raises:
            ImportError: The package isn't installed.
        """
        from picamera2 import Picamera2
        from picamera2.devices.imx500 import IMX500

        self._picamera2: Any = Picamera2
        self._imx500: Any = IMX500
        self._held: set[str] = set()
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Version of ``picamera2``."""
        return importlib.metadata.version(self.package)

    def _probe(self) -> list[Device]:
        if not hasattr(self._imx500, "get_injection_cmp_frm"):
            raise DriverMismatchError(
                "this picamera2 injects no input tensors", expected="0.3.38 or later", actual=self.version
            )
        sensors = [one for one in self._picamera2.global_camera_info() if one["Model"] == "imx500"]
        return [Device("npu", index, name="Sony IMX500", handle=str(one["Id"])) for index, one in enumerate(sensors)]

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        refuse(options, self.name, "operator_libraries")
        self._expect_here(device)
        check_rpk(model)
        with self._lock:
            if device.handle in self._held:  # a second network would be uploaded under the first one's outputs
                raise DeviceBusyError("the sensor holds another model", action="Close it first: a sensor holds one.")
            self._held.add(device.handle)
        sensor: Sensor | None = None
        try:
            sensor = Sensor(self._imx500, self._picamera2, model, device.handle)
            return Imx500Executable(sensor, options, lambda: self._held.discard(device.handle))
        except BaseException:
            if sensor is not None:
                sensor.close()
            self._held.discard(device.handle)
            raise

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (Exception,)  # those of libcamera, libarchive and jsonschema, and bare ones

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return translate(error, stage)


class Sensor:
    """A sensor that streams, with a network, and takes input tensors in place of its own.

    Attributes:
        config: ``IMX500.config``: what the network's file says of it.
    """

    def __init__(self, imx500: Any, picamera2: Any, model: Path, handle: str) -> None:
        self._requests: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._wanted = threading.Event()
        self._imx500 = imx500(str(model), camera_id=handle, tensor_injection=True)  # before there is a Picamera2
        self._camera = picamera2(self._imx500.camera_num)
        self.config: Mapping[str, Any] = self._imx500.config
        self._camera.pre_callback = self._take

    def start(self) -> None:
        """Uploads the network and streams."""
        controls = {"FrameRate": RATE_HZ, "CnnEnableInputTensor": True}
        configuration = self._camera.create_preview_configuration(controls=controls, buffer_count=30)
        self._camera.start(configuration, show_preview=False)

    def _take(self, request: Any) -> None:
        if self._wanted.is_set():
            self._requests.put(request.get_metadata())

    def inject(self, tensor: bytes) -> None:
        """Puts a padded tensor in place of the next frame."""
        file = os.memfd_create("input-tensor", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(file), "wb") as writer:
                writer.write(tensor)
            self._imx500._IMX500__set_input_tensor(file)  # as the vendor's demonstration calls it
        finally:
            os.close(file)

    def answers(self, until_s: float) -> Iterator[tuple[Bytes, list[Array]]]:
        """Yields the input tensor and the outputs of each request that has both, until a time of the monotonic clock.

        A request without outputs is no answer: the network was not ready with it.
        """
        self._wanted.set()
        try:
            while (left_s := until_s - time.monotonic()) > 0:
                try:
                    metadata = self._requests.get(timeout=left_s)
                except queue.Empty:
                    return
                outputs = self._imx500.get_outputs(metadata)
                if outputs is not None:
                    yield np.asarray(metadata.get("CnnInputTensor", ()), dtype=np.uint8), outputs
        finally:
            self._wanted.clear()

    def close(self) -> None:
        """Gives the camera back."""
        self._camera.stop()
        self._camera.close()


class Imx500Executable(Executable):
    """A network in the sensor, which takes one input at a time."""

    def __init__(self, sensor: Sensor, options: LoadOptions, let_go: Callable[[], None]) -> None:
        """Waits until the network is uploaded and computes the sensor's own frames.

        Args:
            let_go: Called when the sensor was given back.
        """
        self._input = input_of(sensor.config, options)
        sensor.start()
        self._outputs = _first_outputs(sensor, self._input, options.outputs)
        self._let_go = let_go
        self._sensor: Sensor | None = sensor
        self._lock = threading.Lock()

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs.keys() != {self._input.name}:
            raise BadInputFormatError("other inputs", expected=[self._input.name], actual=sorted(inputs))
        frames = self._input.planes(inputs[self._input.name])
        with self._lock:
            answers = [self._compute(planes) for planes in frames]
        return {
            one.name: one.batch([np.ascontiguousarray(answer[place]) for answer in answers])
            for place, one in enumerate(self._outputs)
        }

    def _compute(self, planes: Bytes) -> list[Array]:
        if self._sensor is None:
            raise DeviceError("the executable is closed")
        deadline_s = time.monotonic() + RUN_TIMEOUT_S
        padded, wanted = self._input.padded(planes), planes.reshape(-1)
        while (now_s := time.monotonic()) < deadline_s:
            self._sensor.inject(padded)
            for tensor, outputs in self._sensor.answers(now_s + REPEAT_S):
                if np.array_equal(tensor, wanted):
                    return outputs
        raise DeviceLostError(f"the sensor has not computed an injected input for {RUN_TIMEOUT_S:g} s")

    def _close(self) -> None:
        with self._lock:
            sensor, self._sensor = self._sensor, None
        if sensor is not None:
            try:
                sensor.close()
            finally:
                self._let_go()


@dataclasses.dataclass(frozen=True, slots=True)
class SensorInput:
    """The network's input.

    Attributes:
        name: In the bundle.
        channels: Of the bundle's array; of one, the sensor gets three equal planes.
        signed: Whether a code is the pixel less 128.
        mean: What the bundle's pre-processing takes from a pixel: one value, or one a channel.
        std: What it then divides by.
    """

    name: str
    width: int
    height: int
    channels: int = 3
    signed: bool = True
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)

    def planes(self, array: Array) -> Bytes:
        """Returns the codes of each item, ``(N, 3, H, W) uint8``, of a batch of the bundle's inputs.

        Colours stay in the order of the model, whose network has the same.

        Raises:
            BadInputFormatError: It is no such batch.
        """
        shape = (self.channels, self.height, self.width)
        if array.dtype != np.float32 or array.ndim != 4 or array.shape[1:] != shape or not len(array):
            raise BadInputFormatError(
                f"input {self.name!r} does not fit",
                expected=f"a batch of {shape} float32",
                actual=f"{array.shape} {array.dtype}",
            )
        mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        floats = np.rint(array * std + mean)
        if not (floats.min() >= 0 and floats.max() <= 255):
            raise BadInputFormatError(
                f"input {self.name!r} is no pixels",
                expected=f"(0 to 255 - {self.mean}) / {self.std}",
                actual=f"{array.min():g} to {array.max():g}",
                action="The sensor takes pixels in eight bits. Give what the bundle's pre-processing makes.",
            )
        pixels = floats.astype(np.uint8)
        codes = pixels ^ np.uint8(0x80) if self.signed else pixels
        return np.repeat(codes, 3, axis=1) if self.channels == 1 else codes

    def padded(self, planes: Bytes) -> bytes:
        """Returns one item's planes as they are injected."""
        room = ((0, 0), (0, -self.height % HEIGHT_STEP), (0, -self.width % WIDTH_STEP))
        return np.pad(planes, room).tobytes()


def input_of(config: Mapping[str, Any], options: LoadOptions) -> SensorInput:
    """Returns the input of a network.

    Args:
        config: ``IMX500.config``.
        options: Say what the manifest says of inputs; where that isn't known, they are pixels scaled to 0 to 1.

    Raises:
        UnsupportedModelError: It takes no image of three planes of pixels, or the bundle has another input.
    """
    facts, own = config["input_tensor"], config["network_info"]["network"][0]
    order, kind = str(own["inputTensorFormat"]), str(facts.get("dtype", ""))
    gains = [int(own[f"inputTensorNorm_{name}"], 0) for name in GAINS.get(order, ())]
    if not gains or set(gains) != {UNIT_GAIN} or set(facts["norm_val"]) != {OFFSETS.get(kind)}:
        raise UnsupportedModelError(
            "the sensor normalises the network's input, and nobody what is injected",
            expected=f"RGB or BGR, gain {UNIT_GAIN}, and {' or '.join(f'{one} {OFFSETS[one]}' for one in OFFSETS)}",
            actual=f"{order}, gains {gains}, {kind} {facts['norm_val']}",
            action="Convert a model that takes pixels, and normalises them itself.",
        )
    width, height, specs = int(facts["width"]), int(facts["height"]), options.inputs
    spec = specs[0] if specs else TensorSpec(name="input", shape=(DYNAMIC, 3, height, width), layout="NCHW")
    sizes = zip(spec.shape[1:], ((1, 3), (height,), (width,)), strict=False)
    fits = len(spec.shape) == 4 and all(size == DYNAMIC or size in able for size, able in sizes)
    if len(specs) > 1 or spec.dtype != "float32" or not fits:
        raise UnsupportedModelError(
            "the .rpk has another input than the bundle",
            expected=[one.describe() for one in specs],
            actual=f"{width} x {height} pixels of three colours",
        )
    channels = 1 if spec.shape[1] == 1 else 3
    scale = (options.mean or (0.0,), options.std or (255.0,))
    return SensorInput(spec.name, width, height, channels, kind == "signed", *scale)


def _first_outputs(sensor: Sensor, image: SensorInput, specs: Sequence[TensorSpec]) -> list[Tensor]:
    """Returns the outputs in the sensor's order, from the first of its own frames that it computes."""
    for tensor, outputs in sensor.answers(time.monotonic() + UPLOAD_TIMEOUT_S):
        if tensor.size != 3 * image.height * image.width:
            raise UnsupportedModelError(
                "the network doesn't tell what it computed its outputs from",
                action="Convert it without --no-input-persistency.",
            )
        streams = [Stream(f"output_{place}", (), array.shape) for place, array in enumerate(outputs)]
        return sorted(pair_up(streams, specs), key=lambda one: int(one.stream.rpartition("_")[2]))
    raise DeviceLostError(f"the sensor has computed no frame for {UPLOAD_TIMEOUT_S:g} s")


def check_rpk(path: Path) -> None:
    """Checks that a file is what ``imx500-package`` writes, before any of it gets to the camera's memory.

    Blocks with a header (``9464``, size), 60 further bytes less what the header counts, and a footer (``3695``), then a
    cpio archive with ``network_info.txt``: ``IMX500.__ni_from_network``.

    Raises:
        UnsupportedModelError: It is none, or was cut.
    """
    try:
        data = path.read_bytes()
        place = 0
        while data[place : place + 4] == b"9464":
            (size,) = struct.unpack_from(">I", data, place + 4)
            locked = data[place + 14] & 1
            if data[place + size + 60 : place + size + 64] != b"3695":
                raise UnsupportedModelError(f"{path} was cut, or is damaged")
            place += size + 64 + 32 * locked
    except (OSError, IndexError, struct.error) as error:
        raise UnsupportedModelError(f"{path}: {error}") from error
    if not place or b"network_info.txt" not in data[place:] or b"TRAILER!!!" not in data[place:]:
        raise UnsupportedModelError(f"{path} is no whole .rpk file", action="Write it with imx500-package.")


def translate(error: Exception, stage: Stage) -> LinesideError:
    """Maps an exception of picamera2, or of what it calls, to an error."""
    text = str(error).strip() or type(error).__name__
    kind: type[LinesideError] | None = device_error(text)
    if kind is None and "dev-node not found" in text:
        kind = DeviceLostError
    if kind is None and "input tensor injection" in text:
        kind = DriverMismatchError  # older kernels have no such control
    if kind is None and stage == "load" and not isinstance(error, (RuntimeError, OSError)):
        kind = UnsupportedModelError  # what the file says of its network can't be read
    return (kind or EngineError)(f"imx500 {stage}: {text}")
