"""Convolutions that compute as INT8, fine-tuning with them, and the choice of an architecture by its INT8 form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the train_detector extra is not installed")

import onnxruntime as ort
import torch

from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.quantization.static import quantize
from lineside_converters.training.detection.architecture_selection import ArchitectureTrial, choose, table, train_best
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.int8 import qat
from lineside_converters.training.detection.int8.fake_quantization import FakeQuantConv2d, fake_quantise, plain_again
from lineside_converters.training.detection.trainer import train_detector
from lineside_models.networks import from_state_dict
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.session import session_options
from lineside_runtime.errors import TrainingError
from tests.worlds.annotated_sets import write_coco

pytestmark = pytest.mark.torch


def convs(seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 4, 1),
    )
    with torch.no_grad():  # scales far apart by channel, as after folded batch norms
        net.get_parameter("2.weight").mul_(torch.logspace(-2, 1, 8)[:, None, None, None])
    return net


def test_rounding_convolutions_answer_as_onnx_runtimes_int8_does(tmp_path: Path) -> None:
    net, image = convs(), torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    axes = {"image": {0: "batch"}, "out": {0: "batch"}}
    export_onnx(net, tmp_path / "f.onnx", example=image, input_name="image", output_names=["out"], dynamic_axes=axes)
    quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", feeds=[{"image": image.numpy()}])
    exact = session_options(LoadOptions(threads=1))
    (theirs,) = ort.InferenceSession(tmp_path / "q.onnx", exact).run(None, {"image": image.numpy()})
    wanted = net(image).detach().numpy()
    names = fake_quantise(net, floats=0, answering={"4"})
    assert names == ["0", "2", "4"]
    net.train()(image)  # sees the ranges
    ours = net.eval()(image).detach().numpy()
    lost = np.abs(theirs - wanted).mean()
    assert np.abs(ours - wanted).mean() == pytest.approx(lost, rel=0.1)
    assert np.abs(ours - theirs).mean() < 0.5 * lost


def test_the_first_stay_in_float_and_plain_ones_come_back_with_the_same_weights() -> None:
    net = convs()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    names = fake_quantise(net, floats=1)
    assert [isinstance(net[n], FakeQuantConv2d) for n in (0, 2, 4)] == [False, True, True]
    plain_again(net, names)
    assert not any(isinstance(each, FakeQuantConv2d) for each in net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()) and len(before) == 6


def test_gradients_go_through_and_ranges_follow_in_training_only() -> None:
    layer = FakeQuantConv2d(torch.nn.Conv2d(1, 1, 1))
    image = torch.linspace(-1, 3, 16).reshape(1, 1, 4, 4)
    layer.train()(image).sum().backward()
    assert layer.weight.grad is not None and float(layer.weight.grad.abs()) > 0
    assert (float(layer.rounded_input.low), float(layer.rounded_input.high)) == (-1.0, 3.0)
    layer.eval()(image * 10)
    assert float(layer.rounded_input.high) == 3.0
    layer.train()(image * 2)
    assert 3.0 < float(layer.rounded_input.high) < 6.0


def trial(name: str, ms: float, map50: float) -> ArchitectureTrial:
    return ArchitectureTrial(
        architecture=name, float_map50=map50, int8_map50=map50, latency_ms=ms, size_bytes=1_000_000
    )


def test_the_best_that_is_fast_enough_is_taken() -> None:
    trials = [trial("lite0@32", 2.0, 0.5), trial("lite0@64", 4.0, 0.7), trial("lite0@96", 8.0, 0.8)]
    assert choose(trials, None).architecture == "lite0@96"
    assert choose(trials, 5.0).architecture == "lite0@64"
    assert "slower than 5 ms" in table(trials, 5.0)[-1] and "slower" not in table(trials, 5.0)[-2]
    with pytest.raises(TrainingError, match=r"fast enough.*1\.5 ms.*lite0@32: 2\.00"):
        choose(trials, 1.5)


@pytest.mark.parametrize(
    "wrong",
    [{"architecture": "lite0@9999"}, {"architectures": ("resnet",)}, {"max_ms": 4.0}, {"qat_epochs": 0}],
)
def test_settings_that_cannot_be_meant_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        DetectorConfig(data=(Path("a"),), out=Path("b"), **wrong)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("sets") / "parts", 18, side=64)


def settings(parts: Path, out: Path, **more: Any) -> DetectorConfig:
    common: dict[str, Any] = {
        "canvas_px": 64,
        "batch": 8,
        "epochs": 1,
        "threads": 1,
        "held_share": 0.3,
        "architecture": "lite0-short@16",
    }
    return DetectorConfig(data=(parts,), out=out, **(common | more))


@pytest.mark.slow
def test_architectures_are_tried_and_the_run_goes_on_with_one(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qat, "ENOUGH", 1.0)  # nothing loses that much: the network is left as it is
    said: list[str] = []
    config = settings(parts, tmp_path, architectures=("lite0-short@16", "lite0-short@32"), trial_epochs=1, qat=True)
    result = train_best(config, lambda _: None, said.append)
    assert result.qat is not None and not result.qat["kept"] and not result.qat["int8_after"]
    assert not (tmp_path / "qat" / "best.pt").exists()
    trials = json.loads((tmp_path / "architectures.json").read_text())
    assert [each["architecture"] for each in trials] == ["lite0-short@16", "lite0-short@32"]
    assert trials[0]["size_bytes"] < trials[1]["size_bytes"] and min(each["latency_ms"] for each in trials) > 0
    facts = json.loads((tmp_path / "training.json").read_text())
    chosen = from_state_dict(torch.load(tmp_path / "best.pt", weights_only=True))
    assert said[-1] == f"going on with lite0-short@{facts['channels']}"
    assert len(chosen.state_dict()["neck.laterals.0.0.weight"]) == facts["channels"]


@pytest.mark.slow
def test_a_network_that_loses_too_much_is_taught_and_its_better_form_kept(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qat, "ENOUGH", -1.0)  # one epoch makes no network that loses anything
    result = train_detector(settings(parts, tmp_path, qat=True, qat_epochs=1), lambda _: None)
    told = json.loads((tmp_path / "training.json").read_text())["qat"]
    assert told == result.qat and told["float_after"].keys() == told["int8_before"].keys() == {"parts"}
    assert told["kept"] == (told["int8_after"]["parts"] > told["int8_before"]["parts"])
    tuned, kept = (tmp_path / "qat" / "float.onnx").read_bytes(), (tmp_path / "float.onnx").read_bytes()
    assert (tuned == kept) == told["kept"]
    outputs = [each.name for each in ort.InferenceSession(tmp_path / "qat" / "float.onnx").get_outputs()]
    assert outputs == [each.name for each in ort.InferenceSession(tmp_path / "float.onnx").get_outputs()]
