"""Which engines are asked, and which are left alone because they are not needed."""

from __future__ import annotations

import json
import subprocess
import sys
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


IMPORTS = """
import json, sys
import numpy as np
from lineside import Config, Session

x, said = np.ones((1, 4), np.float32), {}
def note(what, value):
    said[what] = [value, [name for name in json.loads(sys.argv[1]) if name in sys.modules]]

with Session(sys.argv[2]) as session:
    session.predict(x)
    note("on any device", session.used_device)
with Session(sys.argv[3], Config(engines=("ort", "openvino", "abacus"))) as session:
    note("named", [fallback.device for fallback in session.fallbacks])
with Session(sys.argv[3], Config(threads=1, fallback_strategy="fastest")) as session:
    note("the fastest", "")
with Session(sys.argv[4]) as session:
    note("the first one fails", session.used_device)
print(json.dumps(said))
"""


def test_engines_are_imported_when_they_are_needed_and_not_before(tmp_path: Path) -> None:
    bundles = [
        make_bundle(tmp_path / "any", scaler(2.0), device_kinds=("npu", "gpu", "cpu")),
        make_bundle(tmp_path / "cpu", scaler(2.0)),
        make_bundle(tmp_path / "swish", openvino_only(), SWISH_SPECS),
    ]
    command = [sys.executable, "-c", IMPORTS, json.dumps(ENGINE_MODULES), *(str(bundle.path) for bundle in bundles)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    asked = ["onnxruntime"]
    if accelerator_hints.may_have("gpu") or accelerator_hints.may_have("npu"):
        asked = ["onnxruntime", "openvino"]  # then it is worth asking
    assert said["on any device"] == ["ort/cpu:0", asked]
    assert said["named"] == [["abacus"], asked]
    assert {"onnxruntime", "openvino"} <= set(said["the fastest"][1])
    used, imported = said["the first one fails"]
    assert (used, "torch" in imported) == ("openvino/cpu:0", False)


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
