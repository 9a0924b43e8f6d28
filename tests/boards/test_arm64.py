"""T1: the wheels of a board's payload run on its processor's instructions, under qemu's user emulation.

T2: Debian's arm64 kernel and an initramfs of ours start on qemu's board with the Pi 5's core and reach a broker here.
Neither says anything of a board's speed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from lineside_boards import profile
from lineside_boards.detect import Board
from lineside_converters.bundles.packaging import golden_frame
from lineside_converters.formats import ConversionRequest, makers_for
from lineside_converters.graph.cleanup import clean_graph
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_runtime.bundle import Bundle, Variant, open_bundle, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array
from tests.agent.inspection.test_variant_selection import two_forms
from tests.boards import arm64, emulator
from tests.converters import nets
from tests.peers.programs import find_program

MEAN_ERROR_MAX = 0.08
"""Mean difference of an output from the one on x86, as a share of its mean magnitude, where engines round otherwise.

Signed activations differ as much (0.05) between two optimization levels of ONNX Runtime on one machine. Unsigned ones
with weights of 7 bits are exact."""

INSTALLED_BYTES_MAX, CARRIED_BYTES_MAX = 300e6, 120e6
"""Of the agent with its shipped bundles; 11 MB of them read printed text."""


@pytest.fixture(scope="module")
def emulated() -> list[str]:
    """How a program of the board's Python is run here."""
    qemu = find_program("qemu-aarch64-static", "qemu-user-static")
    sysroot = arm64.sysroot()
    return [qemu, "-cpu", "cortex-a76", "-L", str(sysroot), str(sysroot / f"usr/bin/python{arm64.PYTHON}")]


def run_there(emulated: list[str], tree: Path, *words: str, more: Path | None = None) -> str:
    """Runs the board's Python with the payload's packages, and ``more``; returns what it says."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, (arm64.site_packages(tree), more)))),
        "PYTHONPYCACHEPREFIX": str(arm64.BYTECODE),
    }
    done = subprocess.run(
        [*emulated, *words], capture_output=True, text=True, env=environment, timeout=arm64.TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def mean_error(found: npt.ArrayLike, wanted: npt.ArrayLike) -> float:
    return float(np.abs(np.subtract(found, wanted)).mean() / np.abs(wanted).mean())


@pytest.mark.slow
def test_every_variant_gives_the_same_outputs_on_the_boards_instructions(emulated: list[str], tmp_path: Path) -> None:
    payload, tree = arm64.agent()
    words = [str(Path(__file__).with_name("on_arm64.py")), str(tmp_path / "input.npy")]
    tensor, _ = prepare(golden_frame().image, open_bundle(zoo.path("surface-12")).manifest.preprocess)
    np.save(words[1], tensor)
    here = json.loads(subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout)
    there = json.loads(run_there(emulated, tree, *words))
    assert (there["machine"], there["python"]) == ("aarch64", arm64.PYTHON)
    assert there["jpeg_mean"] == pytest.approx(here["jpeg_mean"], abs=0.1)
    assert there["input_mean"] == pytest.approx(here["input_mean"], abs=0.01), "OpenCV rounds a pixel otherwise"
    assert len(here["outputs"]) == 3
    for variant, outputs in here["outputs"].items():
        for name, values in outputs.items():
            found = there["outputs"][variant][name]
            assert mean_error(found, values) < MEAN_ERROR_MAX, (variant, name)
            if "s8s8" not in variant:
                np.testing.assert_allclose(found, values, atol=1e-3, err_msg=f"{variant} {name}")
    installed = sum(path.lstat().st_size for path in tree.rglob("*"))
    assert installed < INSTALLED_BYTES_MAX
    assert payload.manifest.size_bytes < CARRIED_BYTES_MAX


@pytest.mark.slow
def test_the_optimizers_trial_is_timed_on_the_boards_instructions(emulated: list[str], tmp_path: Path) -> None:
    _, tree = arm64.agent()
    bundle = two_forms(tmp_path / "bundle")
    deep, shallow = json.loads(
        run_there(emulated, tree, "-m", "lineside_agent.inspection.variant_timing", str(bundle.path), "3", "[]", "{}")
    )
    assert (deep["device"], shallow["device"]) == ("ort/cpu:0", "ort/cpu:0")
    assert len(deep["rounds_ms"]) == len(shallow["rounds_ms"]) == 3
    assert min(deep["rounds_ms"]) > min(shallow["rounds_ms"]) > [0]  # 40 layers and one, each undisturbed once


@pytest.mark.slow
def test_ncnns_int8_is_as_near_to_the_float_model_on_the_boards_instructions_as_here(
    emulated: list[str], tmp_path: Path
) -> None:
    made = makers_for("ncnn")[1]
    if made.missing():
        pytest.skip(made.missing())
    _, tree = arm64.agent()
    source = nets.bundle(tmp_path / "float", nets.convnet(depth=4))
    clean_graph(source.file("onnx-fp32/model.onnx"), tmp_path / "clean.onnx")
    folder = tmp_path / "bundle"
    (folder / "ncnn-int8").mkdir(parents=True)
    made.make(
        ConversionRequest(
            clean=tmp_path / "clean.onnx",
            int8=None,
            manifest=source.manifest,
            feeds=nets.feeds(nets.noise(4)),
            folder=folder / "ncnn-int8",
        )
    )
    variant = Variant(name="ncnn-int8", format="ncnn", file="ncnn-int8/model.param", level=1, precision="int8")
    bundle = write_manifest(folder, msgspec.structs.replace(source.manifest, variants=(variant,)))
    (x,) = nets.noise(1, seed=9)
    shipped = open_bundle(zoo.path("surface-12"))
    tensor, _ = prepare(golden_frame().image, shipped.manifest.preprocess)
    there, shipped_there = run_ncnn(emulated, tree, [(bundle, x), (shipped, tensor)], tmp_path)
    with Session(source, Config(engines=("ort",))) as floats, Session(bundle, Config(engines=("ncnn",))) as here:
        wanted, found = floats.predict(x), here.predict(x)
    for name, array in wanted.items():
        on_board, on_x86 = (np.corrcoef(array.ravel(), each[name].ravel())[0, 1] for each in (there, found))
        assert on_board > 0.99, name
        assert on_board == pytest.approx(on_x86, abs=0.002), name
    with Session(shipped, Config(engines=("ncnn",))) as here:
        for name, array in here.predict(tensor).items():
            assert mean_error(shipped_there[name], array) < MEAN_ERROR_MAX, name


def run_ncnn(
    emulated: list[str], tree: Path, bundles: list[tuple[Bundle, Array]], folder: Path
) -> list[dict[str, Array]]:
    """Runs the ncnn variants of bundles on the board's instructions, each on its input; returns their outputs."""
    words = [str(Path(__file__).with_name("ncnn_on_arm64.py"))]
    for number, (bundle, tensor) in enumerate(bundles):
        np.save(folder / f"x{number}.npy", tensor)
        words += [str(bundle.path), str(folder / f"x{number}.npy"), str(folder / f"there{number}.npz")]
    used = run_there(emulated, tree, *words, more=arm64.package("ncnn", version("ncnn")))
    assert used.split() == ["ncnn/cpu:0"] * len(bundles)
    found = []
    for number in range(len(bundles)):
        with np.load(folder / f"there{number}.npz") as outputs:
            found.append(dict(outputs))
    return found


def test_board_of_the_pis_core_boots_and_its_message_arrives(tmp_path: Path) -> None:
    took_s, message = emulator.boot_to_message(tmp_path)
    print(f"power to the message on the host: {took_s:.1f} s")
    compatible, machine, memory_kib, gpio = message.split(";")
    found = Board("qemu", tuple(compatible.split()), machine, memory_bytes=int(memory_kib) * 1024)
    assert [one.name for one in profile.matching(found, ())] == ["qemu-virt"]
    assert gpio == "/dev/gpiochip0", "the PL061 that rejects are signalled on"
