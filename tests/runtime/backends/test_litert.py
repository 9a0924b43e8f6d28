"""What is LiteRT's own; what every engine must do is in tests/conformance."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends import litert
from lineside_runtime.backends.litert import LiteRtBackend
from lineside_runtime.backends.tflite_file import check_whole
from lineside_runtime.conformance.models import FOLDER
from lineside_runtime.conformance.networks import NETWORKS
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    DriverMismatchError,
    EngineError,
    NoDeviceError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.tensors import TensorSpec

NETWORK = {network.name: network for network in NETWORKS}
LIBC = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libc.so" in line)


def cpu(backend: LiteRtBackend) -> Device:
    return next(device for device in backend.probe() if device.kind == "cpu")


def load(name: str, **options: Any) -> Any:
    backend = LiteRtBackend()
    return backend.load(FOLDER / f"{name}.tflite", cpu(backend), LoadOptions(threads=1, **options))


def edge_tpu_on_usb(root: Path, *, number: str = "18d1:9302") -> Path:
    device = root / "sys/bus/usb/devices/2-1"
    device.mkdir(parents=True)
    vendor, _, product = number.partition(":")
    (device / "idVendor").write_text(f"{vendor}\n")
    (device / "idProduct").write_text(f"{product}\n")
    return root


@pytest.mark.parametrize("module", ["interpreter", "tensor_buffer", "options", "compiled_model"])
def test_the_vendor_has_no_exceptions_of_its_own(module: str) -> None:
    found = vars(importlib.import_module(f"ai_edge_litert.{module}")).values()
    own = {kind for kind in found if inspect.isclass(kind) and issubclass(kind, BaseException)}
    assert {kind for kind in own if kind.__module__.startswith("ai_edge_litert")} == set()


def test_out_of_memory_is_told_apart_from_a_failing_engine() -> None:
    with pytest.raises(OutOfDeviceMemoryError), LiteRtBackend()._boundary("run"):
        raise MemoryError
    with pytest.raises(EngineError), LiteRtBackend()._boundary("run"):
        raise RuntimeError("Node number 3 (CONV_2D) failed to invoke.")


def test_a_quantised_model_takes_and_gives_integers_where_nothing_else_is_said() -> None:
    executable = load("conv_int8")
    integers = np.zeros((1, 1, 64, 64), np.int8)
    assert executable.run({"image": integers})["map"].dtype == np.int8
    with pytest.raises(BadInputFormatError, match="int8"):
        executable.run({"image": integers.astype(np.float32)})


def test_values_beyond_the_scale_are_clipped_and_do_not_wrap() -> None:
    network = NETWORK["conv_int8"]
    executable = load("conv_int8", inputs=network.inputs, outputs=network.outputs)
    ones = {"image": np.ones((1, 1, 64, 64), np.float32)}
    beyond = {"image": np.full((1, 1, 64, 64), 1e6, np.float32)}
    assert np.array_equal(executable.run(beyond)["map"], executable.run(ones)["map"])


def test_a_type_that_the_file_cannot_give_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="int64"):
        load("scale", inputs=(TensorSpec(name="x", shape=(-1, 4), dtype="int64"),))


def test_other_names_than_the_manifests_are_refused_unless_there_is_only_one() -> None:
    renamed = (TensorSpec(name="frame", shape=(-1, 4)),)
    executable = load("scale", inputs=renamed)
    assert executable.run({"frame": np.ones((1, 4), np.float32)})["y"].tolist() == [[3, 3, 3, 3]]
    with pytest.raises(UnsupportedModelError, match="other inputs"):
        load("pair", inputs=(*renamed, TensorSpec(name="b", shape=(-1, 4))))


@pytest.mark.parametrize("name", ["scale", "conv", "conv_int8"])
def test_a_file_that_was_cut_off_anywhere_is_noticed(name: str) -> None:
    whole = (FOLDER / f"{name}.tflite").read_bytes()
    check_whole(whole, "m.tflite")
    unnoticed = []
    for size in range(0, len(whole) - 4, 4):
        try:
            check_whole(whole[:size], "m.tflite")
        except UnsupportedModelError:
            continue
        unnoticed.append(size)
    assert unnoticed == []


def test_a_file_with_any_byte_changed_is_whole_or_unsupported() -> None:
    whole = bytearray((FOLDER / "conv_int8.tflite").read_bytes())
    for at in range(0, len(whole), 7):
        changed = whole.copy()
        changed[at] ^= 0xFF
        with contextlib.suppress(UnsupportedModelError):
            check_whole(bytes(changed), "m.tflite")


def test_tensor_names_of_tensorflows_converter_lose_their_decoration() -> None:
    assert litert._plain("serving_default_image:0") == "image"
    assert litert._plain("StatefulPartitionedCall:1") == "StatefulPartitionedCall"


def test_interpreters_are_made_only_when_calls_meet() -> None:
    executable = load("conv")
    inputs = NETWORK["conv"].sample(1)
    for _ in range(3):
        executable.run(inputs)
    assert len(executable._idle) == 1
    gate = threading.Barrier(2)
    taken: list[Any] = []

    def hold() -> None:
        with executable._interpreter() as interpreter:
            taken.append(interpreter)
            gate.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    hold()
    other.join(60)
    assert len({id(one) for one in taken}) == 2
    assert len(executable._idle) == 2


def test_a_library_that_is_no_delegate_is_refused() -> None:
    with pytest.raises(ConfigError, match="no delegate"):
        load("scale", operator_libraries=(Path(LIBC),))


def test_an_edge_tpu_without_its_library_is_said_and_not_offered(tmp_path: Path) -> None:
    backend = LiteRtBackend(root=edge_tpu_on_usb(tmp_path), edge_tpu="libedgetpu_that_is_not_there.so.1")
    assert [device.kind for device in backend.probe()] == ["cpu"]
    facts = backend.compatibility()
    assert facts.fits is False
    assert "libedgetpu_that_is_not_there" in facts.advice


@pytest.mark.parametrize("number", ["1a6e:089a", "18d1:9302"])
def test_an_edge_tpu_is_offered_before_and_after_its_first_use(number: str, tmp_path: Path) -> None:
    backend = LiteRtBackend(root=edge_tpu_on_usb(tmp_path, number=number), edge_tpu=LIBC)
    npu = backend.probe()[0]
    assert (str(npu), npu.handle) == ("npu:0", "usb:0")
    assert "npu" in backend.untested_kinds
    with pytest.raises(DriverMismatchError, match="delegate"):  # libc stands for the library, and is none
        backend.load(FOLDER / "scale.tflite", npu, LoadOptions())


def test_a_device_of_another_machine_is_refused() -> None:
    with pytest.raises(NoDeviceError, match="npu:0"):
        LiteRtBackend().load(FOLDER / "scale.tflite", Device("npu", handle="usb:0"), LoadOptions())


def test_tensorflow_lites_runtime_is_taken_where_litert_is_not_installed(tmp_path: Path) -> None:
    """The module is the same but for its name, so LiteRT's own stands in; the real one is in tests/system."""
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text("class Interpreter: ...\n")
    script = """
        import sys
        for name in ("ai_edge_litert", "ai_edge_litert.interpreter"):
            sys.modules[name] = None
        from lineside_runtime.backends.litert import LiteRtBackend
        print(LiteRtBackend().package)
        sys.modules["tflite_runtime.interpreter"] = None
        from lineside_runtime import registry
        print(registry.status("litert").reason)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines()[0] == "tflite-runtime"
    assert "1006" in run.stdout.splitlines()[1]
