"""A vendor's file joins a bundle through the gates, or marked unproven, and never in place."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

from lineside_converters.bundles.packaging import next_version
from lineside_converters.formats.vendor_variant import VendorVariant, add_variant
from lineside_converters.optimizer import Optimizer
from lineside_converters.reports.report import read_report
from lineside_converters.thresholds.output import write_reading
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_runtime import registry
from lineside_runtime.backends.imx500 import Imx500Backend
from lineside_runtime.bundle import Bundle, Preprocess, open_bundle
from lineside_runtime.errors import ConfigError, InputNotFoundError, ParityGateError, SpeedGateError
from tests.converters import nets
from tests.runtime.backends import picamera2_stand_in

FRAMES = [Frame(image=render("steel", seed).image, sequence=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("old")
    (folder / "surface.onnx").write_bytes(nets.convnet())
    return Optimizer(folder / "surface.onnx", optimization_level=0, out=folder / "bundle", frames=FRAMES).run().bundle


def content(bundle: Bundle) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in bundle.path.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compiled(folder: Path, bundle: Bundle, *, scramble: bool = False) -> Path:
    """An OpenVINO file of the bundle's own network, as Intel's converter writes it."""
    openvino = pytest.importorskip("openvino")
    model = nets.load(nets.convnet())
    if scramble:
        for tensor in model.graph.initializer:
            weights = numpy_helper.to_array(tensor)
            mixed = np.random.default_rng(0).permutation(weights.ravel()).reshape(weights.shape)
            tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    openvino.save_model(openvino.convert_model(str(folder / "net.onnx")), str(folder / "net.xml"))
    return folder / "net.xml"


def variant(file: Path, level: int = 0) -> VendorVariant:
    return VendorVariant(file=file, engine="openvino", kind="cpu", precision="fp32", level=level)


def test_what_can_be_run_here_goes_through_the_gates_into_a_new_bundle(old: Bundle, tmp_path: Path) -> None:
    before, lax = content(old), {"frames": FRAMES, "max_drop": 1.0, "max_slowdown": 1e9}
    made = add_variant(old, variant(compiled(tmp_path, old)), tmp_path / "new", **lax)  # type: ignore[arg-type]
    assert content(old) == before
    opened = open_bundle(made.path)
    assert {variant.name for variant in opened.manifest.variants} == {"onnx-fp32", "openvino-fp32"}
    assert opened.manifest.speed == "measured"
    added = next(one for one in read_report(made.path).variants if one.name == "openvino-fp32")
    assert added.kept and added.latency_ms is not None and "correlation" in added.why
    assert {path.suffix for path in (opened.path / "openvino-fp32").iterdir()} == {".xml", ".bin"}
    assert opened.manifest.version == next_version(old.manifest.version), (
        "two bundles have no name and version in common"
    )


def test_every_other_file_stays_and_the_card_names_the_variant_before_the_thresholds(
    old: Bundle, tmp_path: Path
) -> None:
    params = dict(old.manifest.postprocess.params)
    decided = write_reading(
        old, params, tmp_path / "decided", card="## Thresholds\n\nAs chosen.\n", files={"decision.json": b"{}"}
    )
    (tmp_path / "net.hef").write_bytes(b"what Hailo's compiler wrote")
    made = add_variant(decided, VendorVariant(file=tmp_path / "net.hef", engine="hailo", kind="npu"), tmp_path / "new")
    changed = {"model_card.md", "report.json", "report.html", "hailo-int8/net.hef"}
    assert {name for name, entry in made.manifest.files.items() if decided.manifest.files.get(name) != entry} == changed
    assert (
        decided.manifest.files.keys() < made.manifest.files.keys() and made.manifest.golden == decided.manifest.golden
    )
    card = (made.path / "model_card.md").read_text()
    assert card.index("hailo-int8") < card.index("## Thresholds") and card.endswith("As chosen.\n")


@pytest.mark.parametrize("level", [0, 1])
def test_devices_can_be_left_the_choice_between_the_variants_of_the_first_level(
    old: Bundle, tmp_path: Path, level: int
) -> None:
    new = variant(compiled(tmp_path, old), level)
    made = add_variant(old, new, tmp_path / "new", frames=FRAMES, max_drop=1.0, max_slowdown=1e9, device_chooses=True)
    assert made.manifest.speed == "by_level"
    timed = [one.name for one in made.manifest.to_time]
    if level == 0:
        assert set(timed) == {"onnx-fp32", "openvino-fp32"}
    else:
        assert timed == ["onnx-fp32"]
        assert [one.name for one in made.manifest.variants] == ["onnx-fp32", "openvino-fp32"]


def test_a_file_that_computes_something_else_or_is_slower_is_refused(old: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ParityGateError):
        other = variant(compiled(tmp_path, old, scramble=True))
        add_variant(old, other, tmp_path / "new", frames=FRAMES, max_drop=1.0)
    with pytest.raises(SpeedGateError, match="ms a frame"):  # nothing could pass that
        slower = variant(compiled(tmp_path, old))
        add_variant(old, slower, tmp_path / "new", frames=FRAMES, max_drop=1.0, max_slowdown=0.0)
    assert not (tmp_path / "new").exists()


def test_what_nobody_here_can_run_is_marked_unproven(old: Bundle, tmp_path: Path) -> None:
    (tmp_path / "net.hef").write_bytes(b"what Hailo's compiler wrote")
    messages: list[str] = []
    new = VendorVariant(file=tmp_path / "net.hef", engine="hailo", kind="npu", requires=">=4.20")
    made = add_variant(old, new, tmp_path / "new", report=messages.append)
    opened = open_bundle(made.path)
    variant = opened.manifest.variants[0]
    assert (variant.name, variant.device_kinds, variant.requires) == ("hailo-int8", ("npu",), {"hailort": ">=4.20"})
    assert opened.manifest.speed == "unproven"
    assert any("unproven" in note for note in read_report(made.path).notes)
    assert "unproven" in messages[0]
    assert "unproven" in (made.path / "model_card.md").read_text()


def test_nonsense_is_refused(old: Bundle, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    with pytest.raises(ConfigError, match="engine"):
        add_variant(old, VendorVariant(file=tmp_path / "net.onnx", engine="abacus", kind="cpu"), tmp_path / "new")
    with pytest.raises(InputNotFoundError):
        add_variant(old, VendorVariant(file=tmp_path / "none.hef", engine="hailo", kind="npu"), tmp_path / "new")
    twice = VendorVariant(file=tmp_path / "net.onnx", engine="ort", kind="cpu", name="onnx-fp32")
    with pytest.raises(ConfigError, match="name"):
        add_variant(old, twice, tmp_path / "new")


def test_an_rpk_goes_through_the_gates_in_the_sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = picamera2_stand_in.install(monkeypatch)
    monkeypatch.setitem(registry._loaded, "imx500", Imx500Backend())
    preprocess = Preprocess(input="image", colour="grey", size=(96, 96), mean=(127.0,), std=(128.0,))
    data = nets.convnet(depth=1, facts=msgspec.structs.replace(nets.FACTS, preprocess=preprocess))
    (tmp_path / "surface.onnx").write_bytes(data)
    old = Optimizer(tmp_path / "surface.onnx", optimization_level=0, out=tmp_path / "old", frames=FRAMES).run().bundle
    own = onnxruntime.InferenceSession(data)

    def compute(planes: picamera2_stand_in.Codes) -> list[Any]:
        grey = (planes[:1] ^ np.uint8(0x80)).astype(np.float32)
        outputs = own.run([spec.name for spec in old.manifest.outputs], {"image": (grey[None] - 127) / 128})
        return [np.asfortranarray(np.moveaxis(output[0], 0, -1)) for output in outputs]

    sensor.outputs = compute
    file = picamera2_stand_in.write_rpk(tmp_path / "network.rpk", side=96)
    new = VendorVariant(file=file, engine="imx500", kind="npu", level=0)
    made = add_variant(old, new, tmp_path / "new", frames=FRAMES, max_slowdown=1e9)
    added = next(one for one in read_report(made.path).variants if one.name == "imx500-int8")
    assert added.kept and "on imx500/npu:0; least correlation of an output 1.0000" in added.why
    sensor.outputs = lambda planes: compute(planes[:, ::-1])
    with pytest.raises(ParityGateError):
        add_variant(old, new, tmp_path / "wrong", frames=FRAMES, max_slowdown=1e9)
