"""`make test-gpu`: a step that fails, hangs or crashes is told, and the others run; its environment; no GPU."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import environment, result_of
from benchmarks.gpu.environment import here
from benchmarks.gpu.hardware import Gpu, Gpus, find_gpus
from benchmarks.gpu.runner import run_step, run_steps
from benchmarks.gpu.steps import STEPS, Case, Step
from tests.peers.waiting import wait_for

NO_GPU = Gpus(reason="libcuda.so.1 can't be loaded")


def step(name: str, *, limit_s: float = 120, options: tuple[tuple[str, str], ...] = ()) -> Step:
    return Step(name, limit_s, f"tests.benchmarks.gpu_steps:{name}", options)


def test_without_a_gpu_every_step_runs_and_is_marked(tmp_path: Path) -> None:
    steps = [step("measures", options=(("engine", "ort"),)), step("needs_more")]
    environment_step, measured, needy = run_steps(NO_GPU, tmp_path, steps=steps)
    assert environment_step.status == measured.status == needy.status == "no GPU"
    assert environment_step.reason == NO_GPU.reason and "onnxruntime-gpu" in str(environment_step.figures)
    assert measured.figures["engine"] == "ort" and measured.figures["gpus"] == 0
    assert needy.reason == "no wheel of tensorrt"
    assert result_of([environment_step, measured, needy])["problems"] == []


def test_what_fails_is_a_problem_and_the_next_step_runs(tmp_path: Path) -> None:
    steps = [step("is_broken"), step("crashes"), step("is_half_done"), step("writes")]
    _, broken, crashed, half, written = run_steps(NO_GPU, tmp_path, steps=steps)
    assert broken.status == "failed" and broken.reason == "ZeroDivisionError: integer division or modulo by zero"
    assert "1 // 0" in "\n".join(broken.log)
    assert crashed.status == "failed" and "-6" in crashed.reason and "about to crash" in crashed.log
    assert half.status == "failed" and half.figures == {"fp32": {"ms": 1.0}}
    assert written.status == "no GPU" and (tmp_path / "written").exists()
    problems = result_of([broken, crashed, half, written])["problems"]
    assert [problem.partition(":")[0] for problem in problems] == ["is_broken", "crashes", "is_half_done"]


def test_a_step_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    case = Case(gpus=1, folder=tmp_path)
    for limit_s in (5, 20, 80, 200):  # on a busy machine a process takes long to start
        result = run_step(step("hangs"), case, here(), limit_s=limit_s)
        assert result.status == "failed" and result.reason == f"not done after {limit_s} s"
        if (tmp_path / "child").exists():
            break
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: is_over(child))


def is_over(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_with_a_gpu_a_step_is_ok_or_left_out_with_its_reason(tmp_path: Path) -> None:
    case = Case(gpus=2, folder=tmp_path)
    measured = run_step(step("measures", options=(("engine", "torch"),)), case, here(), limit_s=120)
    assert measured.status == "ok" and measured.figures["gpus"] == 2
    needy = run_step(step("needs_more"), case, here(), limit_s=120)
    assert needy.status == "left out" and needy.reason == "no wheel of tensorrt"


def test_steps_are_left_out_when_the_time_of_all_is_over(tmp_path: Path) -> None:
    _, late = run_steps(NO_GPU, tmp_path, steps=[step("writes")], budget_s=5)
    assert late.status == "left out" and "5 s" in late.reason and not (tmp_path / "written").exists()


def test_a_gpu_without_its_driver_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    found = find_gpus(tmp_path, library="libcuda-that-is-not-here.so.1")
    assert found.broken and not found.gpus and "can't be loaded" in found.reason
    (first,) = run_steps(found, tmp_path, steps=[])
    assert first.status == "failed" and "can't be loaded" in first.reason
    assert not Gpus(gpus=(Gpu(name="H100", memory_bytes=1),), nodes=("/dev/nvidia0",)).broken


def test_each_step_has_a_function_and_fits_the_time() -> None:
    names = [each.name for each in STEPS]
    assert len(set(names)) == len(names)
    for each in STEPS:
        module, _, function = each.target.partition(":")
        path = environment.ROOT / f"{module.replace('.', '/')}.py"
        assert f"def {function}(" in path.read_text()


@pytest.mark.slow
def test_the_environment_takes_its_own_packages_first_and_the_others_from_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pip = venv.EnvBuilder()  # which takes four seconds
    monkeypatch.setattr(venv, "create", lambda home, **_: without_pip.create(home))
    python = environment.layered(tmp_path / "venv")
    own = environment.packages_of(tmp_path / "venv")
    (own / "onnxruntime").mkdir()
    (own / "onnxruntime/__init__.py").write_text("__version__ = 'of the environment'\n")
    code = "import msgspec, numpy, onnxruntime, lineside_runtime; print(onnxruntime.__version__, numpy.__file__)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("of the environment") and str(own) not in done.stdout


def test_what_cannot_be_installed_is_said_in_pips_words() -> None:
    python = Path(sys.executable)
    assert "lineside-no-such" in environment.install(python, ["--no-index", "lineside-no-such"], limit_s=120)
    assert "0 s" in environment.install(python, ["--no-index", "lineside-no-such"], limit_s=0.01)


def test_tensorrt_and_onnx_runtime_are_those_that_fit_one_another_and_the_drivers_cuda(tmp_path: Path) -> None:
    provider = tmp_path / "libonnxruntime_providers_tensorrt.so"
    assert environment.linked_tensorrt(provider) is None
    provider.write_bytes(b"\x7fELF\0libnvinfer.so.10\0libcudart.so.13\0")
    assert environment.linked_tensorrt(provider) == 10
    assert environment.tensorrt_requirement(major=10, cuda=13) == "tensorrt-cu13>=10,<11"
    assert environment.onnxruntime_requirement(12).endswith("<1.27")
    assert environment.onnxruntime_requirement(13) == environment.onnxruntime_requirement(14)
    assert ">=1.27" in environment.onnxruntime_requirement(13)
