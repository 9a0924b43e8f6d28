"""The engine of the IMX500 on a stand-in for picamera2; with the sensor: ``lineside conformance imx500``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lineside_runtime import registry
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends import imx500
from lineside_runtime.backends.imx500 import Imx500Backend, SensorInput, check_rpk
from lineside_runtime.bundle import Variant, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.conformance import CHECKS, NETWORKS, Check, NotApplicable, subject, title
from lineside_runtime.conformance.models import FOLDER
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceBusyError,
    DeviceLostError,
    DriverMismatchError,
    EngineError,
    LinesideError,
    UnsupportedModelError,
)
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.runtime.backends import picamera2_stand_in
from tests.runtime.backends.picamera2_stand_in import Stream, write_rpk
from tests.runtime.onnx_models import make_bundle

NETWORK = next(one for one in NETWORKS if one.name == "conv_int8")
NOT_HERE = {"its memory does not grow with each load", "its profile is plausible or empty"}
"""Checks that take seconds, of what the stand-in has not."""

OPTIONS = LoadOptions(precision="int8", inputs=NETWORK.inputs, outputs=NETWORK.outputs)


@pytest.fixture
def sensor(monkeypatch: pytest.MonkeyPatch) -> Stream:
    return picamera2_stand_in.install(monkeypatch)


@pytest.mark.parametrize("check", [check for check in CHECKS if title(check) not in NOT_HERE], ids=title)
def test_it_conforms(check: Check, sensor: Stream, tmp_path: Path) -> None:
    model = write_rpk(tmp_path / "conv_int8.rpk")
    try:
        check(subject(Imx500Backend(), files={"conv_int8": model}))
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_it_serves_only_where_it_is_named_or_nothing_else_does() -> None:
    assert "imx500" in registry.names()
    assert "imx500" not in registry.names_by_preference()


def test_only_sensors_that_infer_are_devices_untested_on_hardware(
    sensor: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._loaded, "imx500", Imx500Backend())
    status = registry.status("imx500")
    (device,) = status.devices
    assert (str(device), device.name, device.handle) == ("npu:0", "Sony IMX500", picamera2_stand_in.CAMERA)
    assert status.untested_kinds == {"npu"}


def test_an_old_picamera2_says_so(sensor: Stream) -> None:
    del sys.modules["picamera2.devices.imx500"].IMX500.get_injection_cmp_frm
    with pytest.raises(DriverMismatchError, match="injects no input tensors"):
        Imx500Backend().probe()


def test_a_frame_of_the_sensors_own_is_never_an_answer(
    sensor: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Imx500Backend()
    executable = backend.load(write_rpk(tmp_path / "m.rpk"), backend.probe()[0], OPTIONS)
    try:
        inputs = NETWORK.sample(1)
        right = executable.run(inputs)["map"]
        assert np.abs(right - NETWORK.compute(inputs)["map"]).max() < 0.01
        sensor.deaf = True
        monkeypatch.setattr(imx500, "RUN_TIMEOUT_S", 0.3)
        with pytest.raises(DeviceLostError, match="has not computed an injected input"):
            executable.run(NETWORK.sample(2))
    finally:
        executable.close()


def test_a_sensor_holds_one_model(sensor: Stream, tmp_path: Path) -> None:
    backend = Imx500Backend()
    model, (device,) = write_rpk(tmp_path / "m.rpk"), backend.probe()
    first = backend.load(model, device, OPTIONS)
    with pytest.raises(DeviceBusyError):
        backend.load(model, device, OPTIONS)
    first.close()
    backend.load(model, device, OPTIONS).close()


def test_a_network_that_does_not_show_its_input_is_refused(sensor: Stream, tmp_path: Path) -> None:
    backend = Imx500Backend()
    model, (device,) = write_rpk(tmp_path / "m.rpk"), backend.probe()
    sensor.persistent = False
    with pytest.raises(UnsupportedModelError) as caught:
        backend.load(model, device, OPTIONS)
    assert "--no-input-persistency" in caught.value.action
    sensor.persistent = True
    backend.load(model, device, OPTIONS).close()


def test_a_sensor_that_computes_nothing_is_lost(
    sensor: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Imx500Backend()
    sensor.silent = True
    monkeypatch.setattr(imx500, "UPLOAD_TIMEOUT_S", 0.1)
    with pytest.raises(DeviceLostError, match="has computed no frame"):
        backend.load(write_rpk(tmp_path / "m.rpk"), backend.probe()[0], OPTIONS)


@pytest.mark.parametrize("facts", [{"gain": 512}, {"offset": 0x1700}, {"offset": 5}, {"order": "YUV"}])
def test_a_network_that_the_sensor_normalises_for_is_refused(
    facts: dict[str, Any], sensor: Stream, tmp_path: Path
) -> None:
    backend = Imx500Backend()
    with pytest.raises(UnsupportedModelError, match="normalises"):
        backend.load(write_rpk(tmp_path / "m.rpk", **facts), backend.probe()[0], OPTIONS)


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec(name="image", shape=(-1, 3, 32, 32), layout="NCHW"),
        TensorSpec(name="image", shape=(-1, 4, 64, 64), layout="NCHW"),
        TensorSpec(name="image", shape=(-1, 3, 64, 64), dtype="uint8", layout="NCHW"),
        TensorSpec(name="image", shape=(-1, 64)),
    ],
)
def test_a_bundle_with_another_input_is_refused(spec: TensorSpec, sensor: Stream, tmp_path: Path) -> None:
    backend = Imx500Backend()
    options = LoadOptions(inputs=(spec,), outputs=NETWORK.outputs)
    with pytest.raises(UnsupportedModelError, match="another input"):
        backend.load(write_rpk(tmp_path / "m.rpk"), backend.probe()[0], options)


def test_planes_are_the_pixels_in_the_models_order() -> None:
    image = SensorInput("image", width=3, height=3)
    batch = np.zeros((2, 3, 3, 3), np.float32)
    batch[1, 0, 2, 1], batch[1, 2] = 1.0, 0.5
    planes = image.planes(batch)
    assert planes.shape == (2, 3, 3, 3)
    assert (planes[0] == 0x80).all()  # -128, as the sensor has it
    assert (planes[1, 0, 2, 1], planes[1, 2, 0, 0]) == (127, 0)
    assert SensorInput("image", 3, 3, signed=False).planes(batch)[1, 2, 0, 0] == 128
    padded = np.frombuffer(image.padded(planes[1]), np.uint8).reshape(3, 4, 32)
    assert np.array_equal(padded[:, :3, :3], planes[1])
    assert not padded[:, 3:].any() and not padded[:, :, 3:].any()


def test_inputs_are_turned_back_into_the_pixels_that_they_were_made_of() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for mean, std in (((127.0,), (128.0,)), ((0.0,), (1.0,)), ((123.675,), (58.395,))):
        array = ((pixels - np.float32(mean[0])) / np.float32(std[0])).astype(np.float32)
        planes = SensorInput("image", 16, 16, 1, signed=False, mean=mean, std=std).planes(array)
        assert np.array_equal(planes, np.repeat(pixels, 3, axis=1))


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_an_input_that_is_no_pixels_is_refused(value: float) -> None:
    batch = np.full((1, 3, 4, 4), 0.5, np.float32)
    batch[0, 1, 1, 1] = value
    with pytest.raises(BadInputFormatError, match="is no pixels"):
        SensorInput("image", 4, 4).planes(batch)


def test_a_file_that_was_cut_is_refused_before_the_sensor_sees_it(tmp_path: Path) -> None:
    whole = write_rpk(tmp_path / "m.rpk", locked=True)
    check_rpk(whole)
    data = whole.read_bytes()
    for length in range(0, len(data) - 20, 7):
        (tmp_path / "cut.rpk").write_bytes(data[:length])
        with pytest.raises(UnsupportedModelError):
            check_rpk(tmp_path / "cut.rpk")


@pytest.mark.parametrize(
    ("error", "stage", "kind"),
    [
        (RuntimeError("IMX500: Requested camera dev-node not found"), "load", DeviceLostError),
        (
            RuntimeError("IMX500: Unable to enable input tensor injection: Invalid argument"),
            "load",
            DriverMismatchError,
        ),
        (RuntimeError("Failed to acquire camera: Device or resource busy"), "load", DeviceBusyError),
        (RuntimeError("IMX500: Unable to set input tensor fd: Input/output error"), "run", EngineError),
        (KeyError("networkNum"), "load", UnsupportedModelError),
        (KeyError("another"), "run", EngineError),
    ],
)
def test_the_vendors_words_have_a_meaning(error: Exception, stage: Any, kind: type[LinesideError]) -> None:
    assert type(imx500.translate(error, stage)) is kind


def test_a_session_computes_in_the_sensor_and_on_the_processor_where_the_sensor_does_not_answer(
    sensor: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._loaded, "imx500", Imx500Backend())
    monkeypatch.setattr(imx500, "RUN_TIMEOUT_S", 0.3)
    bundle = make_bundle(tmp_path / "b", (FOLDER / "conv_int8.onnx").read_bytes(), (NETWORK.inputs, NETWORK.outputs))
    write_rpk(bundle.path / "network.rpk")
    sensors = Variant(
        name="imx500", format="imx500", file="network.rpk", level=0, precision="int8", device_kinds=("npu",)
    )
    variants = (*bundle.manifest.variants, sensors)
    scaled = msgspec.structs.replace(bundle.manifest.preprocess, std=(255.0,))
    bundle = write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, variants=variants, preprocess=scaled))
    inputs = NETWORK.sample(5)
    with Session(bundle, Config(threads=1)) as session:
        assert session.infer(inputs).used_device == "ort/cpu:0", "it is not named"
    with Session(bundle, Config(threads=1, engines=("imx500", "ort"))) as session:
        found = session.infer(inputs)
        assert (found.requested_device, found.used_device) == ("npu:0", "imx500/npu:0")
        assert np.abs(found.outputs["map"] - NETWORK.compute(inputs)["map"]).max() < 0.01
        sensor.silent = True
        found = session.infer(NETWORK.sample(6))
        assert (found.requested_device, found.used_device) == ("npu:0", "ort/cpu:0")
