"""Which engines are asked, and which are left alone because they are not needed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from lineside_runtime import registry
from lineside_runtime.bundle import write_manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, EngineMissingError, LinesideError
from lineside_runtime.serving.candidates import choose
from lineside_runtime.session import Session
from lineside_runtime.system import accelerator_hints
from tests.runtime.onnx_models import SWISH_SPECS, make_bundle, openvino_only, scaler

ENGINE_MODULES = (
    "onnxruntime",
    "openvino",
    "torch",
    "ncnn",
    "MNN",
    "ai_edge_litert",
    "tflite_runtime",
    "tensorrt",
    "onnx",
)


def imported_by(script: str, *arguments: str) -> dict[str, Any]:
    """Runs a script in a process of its own; it prints JSON, to which the imported engines are added."""
    code = f"""
import json, sys
import numpy as np
from lineside import Config, Session
x = np.ones((1, 4), np.float32)
said = {{}}
{textwrap.dedent(script)}
said["imported"] = [name for name in {ENGINE_MODULES!r} if name in sys.modules]
print(json.dumps(said))
"""
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_engines_that_are_not_needed_are_not_imported(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "gpu", "cpu"))
    said = imported_by(
        """
        with Session(sys.argv[1]) as session:
            session.predict(x)
            said["used"] = session.used_device
        """,
        str(bundle.path),
    )
    expected = ["onnxruntime"]
    if accelerator_hints.may_have("gpu") or accelerator_hints.may_have("npu"):
        expected = ["onnxruntime", "openvino"]  # then it is worth asking
    assert said == {"used": "ort/cpu:0", "imported": expected}


def test_the_next_engine_is_imported_when_the_first_one_fails(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", openvino_only(), SWISH_SPECS)
    said = imported_by(
        """
        with Session(sys.argv[1]) as session:
            said["used"] = session.used_device
        """,
        str(bundle.path),
    )
    assert said["used"] == "openvino/cpu:0"
    assert "torch" not in said["imported"]


def test_named_engines_are_looked_for_without_importing_those_that_are_not_needed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    said = imported_by(
        """
        with Session(sys.argv[1], Config(engines=("ort", "openvino", "abacus"))) as session:
            said["noted"] = [fallback.device for fallback in session.fallbacks]
        """,
        str(bundle.path),
    )
    assert said == {"noted": ["abacus"], "imported": ["onnxruntime"]}


def test_all_are_asked_where_the_fastest_is_wanted(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    said = imported_by(
        'with Session(sys.argv[1], Config(threads=1, fallback_strategy="fastest")): pass', str(bundle.path)
    )
    assert {"onnxruntime", "openvino"} <= set(said["imported"])
    assert "torch" not in said["imported"]


def test_candidates_are_found_one_by_one_in_the_order_of_all_of_them(tmp_path: Path, numpy_engine: ModuleType) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "gpu", "cpu"))
    one_by_one, at_once = (choose(bundle.manifest, Config()) for _ in range(2))
    found: list[str] = []
    while (candidate := one_by_one.at(len(found))) is not None:
        found.append(str(candidate))
    everything = [str(candidate) for candidate in at_once.candidates]
    assert found[: len(everything)] == everything == ["numpy/gpu:0", "numpy/npu:0", "ort/cpu:0", "openvino/cpu:0"]
    assert one_by_one.at(0) is one_by_one.at(0)


def test_the_last_resort_follows_all_others_and_is_not_among_them(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    choice = choose(bundle.manifest, Config())
    assert not {candidate.backend.name for candidate in choice.candidates} & set(registry.LAST_RESORT)
    named = choose(bundle.manifest, Config(engines=("torch", "ort")))
    assert [candidate.backend.name for candidate in named.candidates][-1] == "ort"


def test_an_engine_that_is_absent_is_told_once_and_when_it_is_its_turn(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    told: list[str] = []
    config = Config(engines=("ort", "abacus", "sliderule"))
    choice = choose(bundle.manifest, config, on_absent=lambda name, _: told.append(name))
    assert told == ["abacus", "sliderule"]
    assert [str(candidate) for candidate in choice.candidates] == ["ort/cpu:0"]
    assert told == ["abacus", "sliderule"]
    assert all(isinstance(error, EngineMissingError) for error in choice.absent.values())


def test_with_error_a_named_engine_that_is_absent_is_an_error_wherever_it_stands(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    with pytest.raises(EngineMissingError, match="abacus"):
        choose(bundle.manifest, Config(engines=("ort", "abacus"), fallback_strategy="error"))


@pytest.mark.parametrize("name", [*registry.PREFERENCE, *registry.BY_NAME_ONLY])
def test_what_the_registry_knows_of_an_engine_is_what_the_engine_says(name: str) -> None:
    known = registry._BUILTIN[name]
    try:
        engine = registry.backend(name)
    except LinesideError:
        assert registry.missing(name) is not None
        return
    assert registry.missing(name) is None
    assert not known.formats or engine.formats == known.formats
    assert {device.kind for device in engine.probe()} <= known.kinds
    assert engine.untested_kinds <= known.kinds


def test_the_variant_that_was_asked_for_is_tried_first(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    (only,) = bundle.manifest.variants
    forms = tuple(msgspec.structs.replace(only, name=name) for name in ("deep", "shallow"))
    manifest = msgspec.structs.replace(bundle.manifest, variants=forms)
    bundle = write_manifest(bundle.path, manifest)

    def first(**asked: Any) -> str:
        candidate = choose(manifest, Config(**asked)).at(0)
        assert candidate is not None
        return candidate.variant.name

    assert first() == first(variant="deep") == "deep"
    assert first(variant="shallow") == first(variant="shallow", engines=("openvino", "ort")) == "shallow"
    with Session(bundle, Config(threads=1, variant="shallow")) as session:
        assert session.variant == "shallow"
    with pytest.raises(ConfigError, match="no 'steep'") as raised:
        first(variant="steep")
    assert raised.value.expected == "one of deep, shallow"
