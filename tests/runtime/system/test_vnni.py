"""INT8 sums: who says that they are cut off here, and that they are not, whatever the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from lineside_models import zoo
from lineside_models.golden import replay
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.backend import OrtBackend
from lineside_runtime.backends.ort.session import session_options
from lineside_runtime.bundle import open_bundle
from lineside_runtime.devices import Device
from lineside_runtime.session import Session
from lineside_runtime.system import vnni
from lineside_runtime.system.vnni import saturates
from tests.runtime.vnni_nets import write_largest_sums, write_shared_weights


@pytest.mark.parametrize(
    ("machine", "flags", "cut"),
    [
        ("x86_64", "fpu sse4_1 avx avx2 fma", True),
        ("x86_64", "avx2 avx512f avx512bw", True),
        ("x86_64", "avx2 avx512f avx512_vnni", False),
        ("AMD64", "avx2 avx_vnni", False),
        ("aarch64", "asimd", False),
    ],
)
def test_the_processor_tells_by_its_flags(tmp_path: Path, machine: str, flags: str, cut: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: vnni of nobody\nflags\t\t: {flags}\n")
    assert saturates(machine, cpuinfo) is cut


def test_an_x86_that_does_not_tell_is_not_trusted(tmp_path: Path) -> None:
    assert saturates("x86_64", tmp_path / "none") is True


@pytest.mark.parametrize("bits", [8, 7])
def test_the_largest_sums_come_out_exact(tmp_path: Path, bits: int) -> None:
    """All activations at 255 and all weights at the end of their range: where sums are cut off, this is where."""
    expected = write_largest_sums(tmp_path / "net.onnx", bits)
    executable = OrtBackend().load(
        tmp_path / "net.onnx", Device("cpu", handle="CPUExecutionProvider"), LoadOptions(threads=1, precision="int8")
    )
    found = executable.run({"x": np.full((1, 64, 8, 8), 255, np.float32)})["y"]
    executable.close()
    np.testing.assert_allclose(found[0, :, 4, 4], expected, rtol=0.01)


@pytest.mark.parametrize("bits", [8, 7])
@pytest.mark.parametrize("shared", ["weights", "zero points"])
def test_layers_that_share_weights_come_out_exact_and_what_is_float_for_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shared: str, bits: int
) -> None:
    """ONNX Runtime's exact kernels can't load them."""
    pictures = np.random.default_rng(1).integers(0, 255, (1, 8, 8, 8)).astype(np.float32)
    answers = []
    for kind in ("nothing", shared):
        write_shared_weights(tmp_path / "net.onnx", kind, bits=bits)
        device = Device("cpu", handle="CPUExecutionProvider")
        executable = OrtBackend().load(tmp_path / "net.onnx", device, LoadOptions(threads=1, precision="int8"))
        answers.append(executable.run({"x": pictures})["y"])
        executable.close()
    alone, shares = answers
    np.testing.assert_allclose(alone, shares, atol=1)
    assert alone.std() > 5
    assert ("it computes as float" in caplog.text) == (saturates() and bits == 8)


def test_this_processor_is_judged_rightly(tmp_path: Path) -> None:
    """With ONNX Runtime's fast kernels: wrong sums if and only if we say so."""
    expected = write_largest_sums(tmp_path / "net.onnx", 8)
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, 64, 8, 8), 255, np.float32)})
    wrong = not np.allclose(found[0, :, 4, 4], expected, rtol=0.01)
    assert wrong == saturates()


@pytest.mark.parametrize("cut", [True, False])
def test_the_exact_kernels_are_asked_for_only_where_the_fast_ones_cut_sums_off(
    monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """With VNNI they would take more than twice as long for the same sums."""
    monkeypatch.setattr(vnni, "saturates", lambda: cut)
    options = session_options(LoadOptions(threads=1))
    assert options.get_session_config_entry("session.x64quantprecision") == str(int(cut))


def test_the_shipped_bundle_says_the_same_as_in_exact_arithmetic() -> None:
    """Its golden outputs were made on a processor with VNNI."""
    bundle = open_bundle(zoo.path("surface-12"))
    with Session(bundle) as session:
        report = replay(session, bundle)
    assert min(report.cosine.values()) > 0.999
