"""The device's install: the wheel without extras, in an empty environment, down to a first verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.ci.install import install_by_uv

ROOT = Path(__file__).parents[2]
HOST_ONLY = ("torch", "torchvision", "ray", "onnx", "nncf", "amqtt", "rich", "jinja2", "timm", "openvino")
EXTRAS = {
    "lineside_agent.cameras.children.": ("gi", "picamera2", "av"),
    "lineside_agent.screen.": ("starlette", "uvicorn", "h11", "tomli_w"),
    "lineside_models.nlp.pdf.": ("pypdfium2",),
    "lineside_runtime.cache.redis_": ("redis",),
    "lineside_runtime.encrypted.": ("starlette", "uvicorn", "h11", "tenseal"),
    "lineside_runtime.server.": ("starlette", "uvicorn", "h11", "anyio", "grpc", "google", "prometheus_client"),
}
"""Modules of the device side that need Debian's packages or an extra, and what these bring."""
OTHERS = (".networks", ".quantum.", ".backends.", "__main__")
"""Modules that only the host imports, that need a vendor's package, or that are a program."""
IMPORTS = f"""
EXTRAS = {EXTRAS}
OTHERS = {OTHERS}
import importlib, json, pkgutil, sys
import lineside, lineside.cli, lineside.vision, lineside_agent, lineside_link, lineside_models, lineside_runtime
for package in (lineside_agent, lineside_link, lineside_runtime, lineside_models):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not any(part in module.name for part in OTHERS):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:  # parts that need an extra, and nothing else than what it brings
                needs = next((packages for part, packages in EXTRAS.items() if module.name.startswith(part)), ())
                if error.name.partition(".")[0] not in needs:
                    raise
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("device") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    if not find_spec("uv") or not install_by_uv([str(wheel)], str(python)):
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile", wheel)
    return folder / "bin"


def test_wheel_holds_packages_of_our_own_names_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert packages == {
        "lineside",
        "lineside_agent",
        "lineside_boards",
        "lineside_converters",
        "lineside_hub",
        "lineside_link",
        "lineside_models",
        "lineside_runtime",
    }


@pytest.mark.slow
def test_bare_install_brings_nothing_of_the_host(device: Path) -> None:
    code = "import importlib.metadata as m; print(*(each.name.lower() for each in m.distributions()))"
    names = set(run(device / "python", "-c", code).split())
    assert "onnxruntime" in names
    assert names.isdisjoint(HOST_ONLY)


def test_every_device_module_imports_without_the_host_packages(device: Path, tmp_path: Path) -> None:
    loaded = set(json.loads(run(device / "python", "-c", IMPORTS, cwd=tmp_path)))
    assert "lineside_agent" in loaded
    assert loaded.isdisjoint(HOST_ONLY)


def test_help_loads_no_engine(device: Path, tmp_path: Path) -> None:
    code = (
        "import sys, lineside.cli\ntry: lineside.cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(sys.modules))"
    )
    printed = run(device / "python", "-c", code, cwd=tmp_path)
    assert "COMMAND" in printed
    assert not any(f"'{name}'" in printed for name in ("onnxruntime", "cv2", "numpy", "paho", "tuf", *HOST_ONLY))


def test_agent_reaches_its_first_verdict_on_the_shipped_bundle(device: Path, tmp_path: Path) -> None:
    site = run(device / "python", "-c", "import lineside_models; print(lineside_models.__path__[0])", cwd=tmp_path)
    bundle = Path(site.strip()) / "zoo" / "surface-12"
    config = tmp_path / "agent.toml"
    config.write_text(
        f"""
device = "cam-01"
group = "line-1"
folder = "{tmp_path / "state"}"
bundle = "{bundle}"
exit_when_done = true

[camera]
type = "simulator"
seed = 3
frames = 4
"""
    )
    run(device / "lineside", "agent", "run", "--config", config, cwd=tmp_path)
    status = json.loads((tmp_path / "state" / "status.json").read_text())
    assert status["inspected"] == 4
    assert status["faults"] == 0
    assert status["used_device"] == "ort/cpu:0"
