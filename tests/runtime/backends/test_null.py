from __future__ import annotations

import typing
from pathlib import Path

import numpy as np
import pytest

from lineside_runtime import registry
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.null import NullBackend
from lineside_runtime.bundle import Variant
from lineside_runtime.config import Config
from lineside_runtime.devices import Device
from lineside_runtime.errors import BadInputFormatError, ConfigError, DeviceError, NoDeviceError
from lineside_runtime.serving.candidates import choose
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.runtime.onnx_models import make_bundle, scaler

X, Y = TensorSpec(name="x", shape=(-1, 4)), TensorSpec(name="y", shape=(-1, 4))


def load(path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> typing.Any:
    path.touch()
    backend = NullBackend()
    return backend.load(path, backend.probe()[0], LoadOptions(inputs=inputs, outputs=outputs))


def test_it_reads_every_format_that_a_variant_can_have() -> None:
    assert NullBackend.formats == set(typing.get_args(typing.get_type_hints(Variant)["format"]))


def test_it_answers_zeros_in_the_shape_of_the_manifest(tmp_path: Path) -> None:
    answer = load(tmp_path / "m", (X,), (Y,)).run({"x": np.ones((3, 4), np.float32)})["y"]
    assert (answer.shape, answer.dtype) == ((3, 4), np.float32)
    assert not answer.any()


def test_a_free_size_follows_the_inputs_of_the_same_letter(tmp_path: Path) -> None:
    image = TensorSpec(name="image", shape=(-1, 1, -1, -1), layout="NCHW")
    mask = TensorSpec(name="mask", shape=(-1, 5, -1, -1), dtype="uint8", layout="NCHW")
    boxes = TensorSpec(name="boxes", shape=(-1, -1, 4))
    executable = load(tmp_path / "m", (image,), (mask, boxes))
    answers = executable.run({"image": np.ones((2, 1, 6, 8), np.float32)})
    assert answers["mask"].shape == (2, 5, 6, 8)
    assert answers["mask"].dtype == np.uint8
    assert answers["boxes"].shape == (2, 1, 4)  # how many, only an engine would know


def test_it_checks_what_every_engine_checks(tmp_path: Path) -> None:
    executable = load(tmp_path / "m", (X,), (Y,))
    for wrong in ({}, {"x": np.ones((1, 5), np.float32)}, {"x": np.ones((1, 4))}, {"z": np.ones((1, 4), np.float32)}):
        with pytest.raises(BadInputFormatError):
            executable.run(wrong)
    executable.close()
    executable.close()
    with pytest.raises(DeviceError, match="closed"):
        executable.run({"x": np.ones((1, 4), np.float32)})


def test_it_needs_to_be_told_the_outputs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="outputs"):
        load(tmp_path / "m", (X,), ())


def test_what_it_cannot_follow_is_refused(tmp_path: Path) -> None:
    for name in ("m", "lib.so"):
        (tmp_path / name).touch()
    for wrong in (LoadOptions(cores=(0,)), LoadOptions(operator_libraries=(tmp_path / "lib.so",))):
        with pytest.raises(ConfigError):
            NullBackend().load(tmp_path / "m", Device("cpu"), wrong)
    with pytest.raises(NoDeviceError):
        NullBackend().load(tmp_path / "m", Device("gpu"), LoadOptions())


def test_it_serves_a_bundle_only_where_it_is_named(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(3.0))
    assert "null" not in registry.names()
    assert "null" not in {one.backend.name for one in choose(bundle.manifest, Config()).candidates}
    with Session(bundle, Config(engines=("null",))) as session:
        assert not session.predict(np.ones((2, 4), np.float32))["y"].any()
        assert session.used_device == "null/cpu:0"
