"""What is ncnn's own; what every engine must do is in tests/conformance."""

from __future__ import annotations

import inspect
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import pytest

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends import ncnn_
from lineside_runtime.backends.ncnn_ import NcnnBackend, read_sizes
from lineside_runtime.config import Config
from lineside_runtime.conformance.models import FOLDER
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    BundleFormatError,
    ConfigError,
    DeviceLostError,
    InputNotFoundError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.serving.candidates import choose
from lineside_runtime.tensors import TensorSpec
from tests.runtime.onnx_models import make_bundle

CPU = Device("cpu", name="CPU", handle="cpu")


def load(param: Path, **options: Any) -> Any:
    return NcnnBackend().load(param, CPU, LoadOptions(**{"threads": 1, **options}))


def write(folder: Path, layers: list[str], blobs: int, weights: bytes = b"") -> Path:
    param = folder / "model.ncnn.param"
    param.write_text("\n".join(["7767517", f"{len(layers)} {blobs}", *layers, ""]))
    (folder / "model.ncnn.bin").write_bytes(weights)
    return param


def test_the_vendor_has_no_exceptions_of_its_own() -> None:
    found = vars(ncnn.ncnn).values()
    assert [kind for kind in found if inspect.isclass(kind) and issubclass(kind, BaseException)] == []


@pytest.mark.parametrize(("status", "kind"), [(-100, OutOfDeviceMemoryError), (-1, DeviceLostError)])
def test_each_status_is_an_error_of_ours(status: int, kind: type[LinesideError]) -> None:
    with pytest.raises(kind, match="map"):
        ncnn_._succeeded(status, "map")


def test_the_features_of_a_gpu_are_not_written_to_the_terminal_but_other_words_are() -> None:
    code = """
import logging, os, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(message)s")
from lineside_runtime.backends import ncnn_
count = ncnn_.ncnn.get_gpu_count
ncnn_.ncnn.get_gpu_count = lambda: os.write(2, b"vkCreateInstance failed -9\\n") and count()
print(len(ncnn_.NcnnBackend().probe()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stderr.splitlines()) == {"vkCreateInstance failed -9"}
    gpus = int(done.stdout.splitlines()[-1]) - 1
    assert done.stdout.count("queueC") == gpus  # there is one where Mesa's llvmpipe is installed


def test_a_graph_tells_its_inputs_and_their_sizes() -> None:
    assert read_sizes(FOLDER / "conv.ncnn.param") == {"image": (1, 64, 64)}
    assert read_sizes(FOLDER / "pair.ncnn.param") == {"a": (4,), "b": (4,)}


def test_inputs_and_outputs_that_pnnx_has_numbered_are_found_by_position(tmp_path: Path) -> None:
    layers = [
        "Input in1 0 1 in1",
        "Input in0 0 1 in0",
        "BinaryOp out1 2 1 in0 in1 out1 0=1",
    ]
    param = write(tmp_path, layers, 3)
    specs = (TensorSpec(name="a", shape=(1, 4)), TensorSpec(name="b", shape=(1, 4)))
    executable = load(param, inputs=specs, outputs=(TensorSpec(name="difference", shape=(1, 4)),))
    a, b = np.full((1, 4), 5, np.float32), np.ones((1, 4), np.float32)
    assert executable.run({"a": a, "b": b})["difference"].tolist() == [[4, 4, 4, 4]]


def test_a_graph_without_sizes_is_refused_where_no_manifest_tells_them(tmp_path: Path) -> None:
    param = write(tmp_path, ["Input in0 0 1 in0", "BinaryOp half 1 1 in0 out0 0=2 1=1 2=0.5"], 2)
    with pytest.raises(UnsupportedModelError, match="size"):
        load(param)
    executable = load(param, inputs=(TensorSpec(name="in0", shape=(1, 6)),))
    assert executable.run({"in0": np.ones((1, 6), np.float32)})["out0"].tolist() == [[0.5] * 6]


def test_a_manifest_that_contradicts_the_graph_is_refused() -> None:
    wrong = (TensorSpec(name="image", shape=(-1, 3, 64, 64)),)
    with pytest.raises(UnsupportedModelError, match="another in the graph"):
        load(FOLDER / "conv.ncnn.param", inputs=wrong)


@pytest.mark.parametrize("spec", [TensorSpec(name="x", shape=(-1, 4), dtype="int8"), TensorSpec(name="x", shape=(4,))])
def test_what_a_mat_cannot_hold_is_refused(spec: TensorSpec) -> None:
    with pytest.raises(UnsupportedModelError, match="can't take"):
        load(FOLDER / "scale.ncnn.param", inputs=(spec,))


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (2, 3, 5, 7), (1, 2, 3, 5, 7), (1, 5, 7)])
def test_sizes_that_ncnn_pads_in_memory_come_out_whole(shape: tuple[int, ...], tmp_path: Path) -> None:
    param = write(tmp_path, ["Input x 0 1 x", "BinaryOp double 1 1 x y 0=2 1=1 2=2.0"], 2)
    executable = load(param, inputs=(TensorSpec(name="x", shape=(-1, *shape[1:])),))
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert np.array_equal(executable.run({"x": x})["y"], 2 * x)


def test_dimensions_that_ncnn_has_dropped_are_put_back() -> None:
    outputs = (TensorSpec(name="y", shape=(-1, 4, 1, 1)),)
    executable = load(FOLDER / "scale.ncnn.param", outputs=outputs)
    assert executable.run({"x": np.ones((2, 4), np.float32)})["y"].shape == (2, 4, 1, 1)


def test_batches_of_several_lengths_in_one_call_are_refused() -> None:
    executable = load(FOLDER / "pair.ncnn.param")
    for a, b in ((2, 3), (0, 0)):
        with pytest.raises(BadInputFormatError, match="batch"):
            executable.run({"a": np.ones((a, 4), np.float32), "b": np.ones((b, 4), np.float32)})


def test_missing_weights_are_not_found(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "conv.ncnn.param", tmp_path)
    with pytest.raises(InputNotFoundError, match=r"conv\.ncnn\.bin"):
        load(tmp_path / "conv.ncnn.param")


def test_weights_that_were_cut_off_are_unsupported(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "conv.ncnn.param", tmp_path)
    whole = (FOLDER / "conv.ncnn.bin").read_bytes()
    (tmp_path / "conv.ncnn.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnsupportedModelError):
        load(tmp_path / "conv.ncnn.param")


def test_an_unknown_layer_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError):
        load(write(tmp_path, ["Input x 0 1 x 0=4", "Frobnicate f 1 1 x y"], 2))


def test_a_bundle_must_name_the_weights_beside_the_graph(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "whole", b"", model_format="ncnn")  # ends with .onnx: nothing is beside it
    assert bundle.manifest.variants[0].format == "ncnn"
    folder = tmp_path / "half"
    folder.mkdir()
    with pytest.raises(BundleFormatError, match=r"model\.ncnn\.bin"):
        ncnn_bundle(folder, weights=False)
    assert "level0/model.ncnn.bin" in ncnn_bundle(tmp_path / "good").manifest.files


def ncnn_bundle(folder: Path, *, weights: bool = True, device_kinds: tuple[str, ...] = ("gpu", "cpu")) -> Any:
    import msgspec

    from lineside_runtime.bundle import write_manifest

    made = make_bundle(folder / "onnx", b"x", device_kinds=device_kinds)
    target = folder / "ncnn" / "level0"
    target.mkdir(parents=True)
    shutil.copy(FOLDER / "scale.ncnn.param", target / "model.ncnn.param")
    if weights:
        shutil.copy(FOLDER / "scale.ncnn.bin", target / "model.ncnn.bin")
    variant = msgspec.structs.replace(made.manifest.variants[0], format="ncnn", file="level0/model.ncnn.param")
    return write_manifest(folder / "ncnn", msgspec.structs.replace(made.manifest, variants=(variant,)))


def llvmpipe() -> Device:
    for device in NcnnBackend().probe():
        if device.emulated:
            return device
    pytest.skip("no Vulkan driver in software here: install mesa-vulkan-drivers")


def test_an_emulated_gpu_serves_only_where_its_engine_is_named(tmp_path: Path) -> None:
    assert "llvmpipe" in llvmpipe().name
    manifest = ncnn_bundle(tmp_path).manifest
    unnamed = choose(manifest, Config()).candidates
    assert [str(one) for one in unnamed] == ["ncnn/cpu:0"]
    named = choose(manifest, Config(engines=("ncnn",))).candidates
    assert [str(one) for one in named] == ["ncnn/gpu:0", "ncnn/cpu:0"]


def test_loading_on_an_emulated_gpu_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    backend, gpu = NcnnBackend(), llvmpipe()
    with caplog.at_level(logging.WARNING, "lineside.runtime"):
        for _ in range(2):
            backend.load(FOLDER / "scale.ncnn.param", gpu, LoadOptions()).close()
    assert [record.message for record in caplog.records] == [f"ncnn/gpu:0 is {gpu.name}, which computes on the CPU"]


def test_the_drivers_of_vulkan_devices_are_told() -> None:
    gpu = llvmpipe()
    facts = NcnnBackend().compatibility()
    assert facts.fits is True
    assert facts.versions[f"Vulkan API of {gpu.name}"].startswith("1.")


def test_half_precision_is_used_only_where_the_variant_says_so() -> None:
    net = ncnn_._net(CPU, LoadOptions(precision="fp16"))
    assert net.opt.use_fp16_storage and net.opt.use_fp16_arithmetic
    net = ncnn_._net(CPU, LoadOptions(precision="fp32"))
    assert not (net.opt.use_fp16_storage or net.opt.use_fp16_arithmetic or net.opt.use_bf16_storage)


def test_a_profile_names_each_layer_in_the_order_of_the_graph(tmp_path: Path) -> None:
    layers = [
        "Input x 0 1 x 0=8 1=8 2=1",
        "BinaryOp small 1 1 x half 0=2 1=1 2=0.5",
        "Interp large 1 1 half y 0=1 1=128.0 2=128.0",
    ]
    executable = load(write(tmp_path, layers, 3), profile=True)
    assert executable.operators() == ()
    for _ in range(3):
        answer = executable.run({"x": np.ones((1, 1, 8, 8), np.float32)})["y"]
    assert np.array_equal(answer, np.full((1, 1, 1024, 1024), 0.5, np.float32))
    first, second = executable.operators()
    assert (first.name, first.kind, first.calls) == ("small", "BinaryOp", 3)
    assert (second.name, second.kind, second.calls) == ("large", "Interp", 3)
    assert 0 < first.mean_us < second.mean_us  # 16384 times the numbers


def test_more_than_one_thread_cannot_be_kept_on_cores() -> None:
    with pytest.raises(ConfigError, match="cores"):
        load(FOLDER / "scale.ncnn.param", threads=2, cores=(0,))
    load(FOLDER / "scale.ncnn.param", threads=None, cores=(0,)).close()
