"""What can be told of Hailo without an accelerator; with one: ``lineside conformance hailo``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lineside_runtime.backends import hailo
from lineside_runtime.backends.common.streams import Stream, Tensor, pair_up
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceBusyError,
    DeviceLostError,
    DriverMismatchError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.tensors import TensorSpec

HEADS = (
    TensorSpec(name="cls_8", shape=(-1, 12, 28, 28), layout="NCHW"),
    TensorSpec(name="box_8", shape=(-1, 4, 28, 28), layout="NCHW"),
    TensorSpec(name="cls_16", shape=(-1, 12, 14, 14), layout="NCHW"),
)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("HAILO8L", "Hailo-8L"), ("DeviceArchitecture.HAILO10H", "Hailo-10H"), ("HAILO8", "Hailo-8"), ("HAILO99", "")],
)
def test_the_firmware_tells_the_chip(architecture: str, name: str) -> None:
    assert hailo.chip_name(architecture) == name


def test_streams_are_found_by_the_layer_that_they_come_from() -> None:
    streams = [
        Stream("net/conv3", ("box_8",), (28, 28, 4)),
        Stream("net/conv1", ("cls_8",), (28, 28, 12)),
        Stream("net/cls_16", (), (14, 14, 12)),
    ]
    found = {tensor.name: tensor.stream for tensor in pair_up(streams, HEADS)}
    assert found == {"cls_8": "net/conv1", "box_8": "net/conv3", "cls_16": "net/cls_16"}


def test_streams_of_unknown_origin_are_found_by_their_shape_and_then_by_their_order() -> None:
    streams = [Stream("a", (), (14, 14, 12)), Stream("b", (), (28, 28, 4)), Stream("c", (), (28, 28, 12))]
    assert [tensor.stream for tensor in pair_up(streams, HEADS)] == ["c", "b", "a"]
    twins = [TensorSpec(name=name, shape=(-1, 4)) for name in ("left", "right")]
    streams = [Stream("x", (), (4,)), Stream("y", (), (4,))]
    assert [(tensor.name, tensor.stream) for tensor in pair_up(streams, twins)] == [("left", "x"), ("right", "y")]


def test_another_number_of_outputs_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="other inputs or outputs"):
        pair_up([Stream("a", (), (28, 28, 4))], HEADS)


def test_without_a_manifest_the_compilers_names_are_kept() -> None:
    assert [tensor.name for tensor in pair_up([Stream("net/in", (), (8, 8, 3))], ())] == ["net/in"]


def test_images_are_turned_for_the_accelerator_and_back() -> None:
    spec = TensorSpec(name="image", shape=(-1, 3, 4, 5), layout="NCHW")
    (tensor,) = pair_up([Stream("net/in", (), (4, 5, 3))], [spec])
    batch = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    frames = tensor.frames(batch)
    assert [frame.shape for frame in frames] == [(4, 5, 3), (4, 5, 3)]
    assert all(frame.flags.c_contiguous for frame in frames)
    assert frames[1][2, 3, 1] == batch[1, 1, 2, 3]
    assert np.array_equal(tensor.batch(frames), batch)


def test_a_vector_comes_back_as_the_bundle_has_it() -> None:
    (tensor,) = pair_up([Stream("net/fc", (), (1, 1, 6))], [TensorSpec(name="scores", shape=(-1, 6))])
    assert tensor.batch([np.zeros((1, 1, 6), np.float32)] * 3).shape == (3, 6)
    assert tensor.frames(np.zeros((3, 6), np.float32))[0].shape == (1, 1, 6)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 3, 5, 5), (3, 4, 5), ()])
def test_a_frame_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    tensor = Tensor("image", "net/in", (4, 5, 3), turned=True, rank=4)
    with pytest.raises(BadInputFormatError):
        tensor.frames(np.zeros(shape, np.float32))


def test_an_array_of_another_type_is_refused() -> None:
    with pytest.raises(BadInputFormatError, match="float32"):
        Tensor("image", "net/in", (4, 5, 3)).frames(np.zeros((1, 4, 5, 3)))


@pytest.mark.parametrize(
    ("name", "text", "stage", "kind"),
    [
        (
            "HailoRTException",
            "libhailort failed with error: 71 (HAILO_OUT_OF_FW_MEMORY)",
            "load",
            OutOfDeviceMemoryError,
        ),
        (
            "HailoRTException",
            "libhailort failed with error: 74 (HAILO_OUT_OF_PHYSICAL_DEVICES)",
            "load",
            DeviceBusyError,
        ),
        (
            "HailoRTException",
            "libhailort failed with error: 76 (HAILO_INVALID_DRIVER_VERSION)",
            "probe",
            DriverMismatchError,
        ),
        ("HailoRTStatusException", "36 (HAILO_DRIVER_FAIL)", "probe", DeviceLostError),
        ("HailoRTTimeout", "Received a timeout", "run", DeviceLostError),
        ("HailoRTStreamAborted", "the stream was aborted", "run", DeviceLostError),
        ("InvalidProtocolVersionException", "another version of the protocol", "probe", DriverMismatchError),
        (
            "HailoRTInvalidHEFException",
            "Invalid HEF. See hailort.log for more information",
            "load",
            UnsupportedModelError,
        ),
        ("HailoRTInvalidArgumentException", "Invalid argument. See hailort.log", "run", BadInputFormatError),
        ("HailoRTInvalidArgumentException", "Invalid argument. See hailort.log", "load", EngineError),
        ("HailoRTException", "Buffer must be C_CONTIGUOUS", "run", EngineError),
        ("MemoryError", "MemoryError", "load", OutOfDeviceMemoryError),
        ("AnotherOne", "of a later version", "run", EngineError),
    ],
)
def test_the_vendors_words_have_a_meaning(name: str, text: str, stage: Any, kind: type[LinesideError]) -> None:
    error = hailo.translate(name, text, stage)
    assert type(error) is kind
    assert text in str(error)
