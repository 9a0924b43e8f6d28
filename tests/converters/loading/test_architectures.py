"""Networks that people have: torchvision's and timm's weights, and modules in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineside_converters.optimizer import Optimizer
from lineside_runtime.errors import MissingModelFactsError, UnsupportedModelError

pytest.importorskip("torch")
pytest.importorskip("timm")

import torch

from lineside_converters.loading.architectures import facts_of, labels_of, network_of
from lineside_converters.loading.torch_import import import_pt
from lineside_models.vision.model_facts import ModelFacts
from lineside_runtime.backends.ort.backend import read_metadata

pytestmark = pytest.mark.torch


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, 3, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3), torch.nn.ReLU()
        )
        self.head = torch.nn.Linear(64, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image).mean((2, 3)))


@pytest.fixture
def of_few_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm has no other networks than those of these families: to build all takes four seconds."""
    import timm

    families = ("mobilenetv3_small", "regnet", "tiny_patch16")
    names = [name for name in timm.list_models() if any(family in name for family in families)]
    monkeypatch.setattr(timm, "list_models", lambda: names)


def test_a_state_dict_is_known_by_its_files_name_and_says_what_it_wants(tmp_path: Path) -> None:
    import torchvision

    net = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=7)
    path = tmp_path / "shufflenet_v2_x0_5-f707e7126e.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, path)
    exported = import_pt(path)
    facts = read_metadata(exported, "lineside")
    assert facts["labels"] == [f"class {number}" for number in range(7)]
    assert facts["preprocess"]["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert facts["postprocess"]["name"] == "classification"


def test_weights_are_known_by_their_keys_whatever_the_file_is_called(tmp_path: Path) -> None:
    import timm
    import torchvision

    net = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=7)
    torch.save(net.state_dict(), tmp_path / "final.pt")
    assert len(read_metadata(import_pt(tmp_path / "final.pt"), "lineside")["labels"]) == 7
    net = timm.create_model("efficientnet_b1_pruned", pretrained=False, num_classes=4)  # is cut after it is built
    found = network_of(tmp_path / "final.pt", net.state_dict())
    assert found is not None and type(found) is type(net) and found.num_classes == 4


def test_a_network_that_the_caller_names_is_that_or_an_error(tmp_path: Path) -> None:
    import timm

    net = timm.create_model("tf_mobilenetv3_small_075", pretrained=False, num_classes=4)
    torch.save(net.state_dict(), tmp_path / "final.pt")
    exported = import_pt(tmp_path / "final.pt", architecture="mobilenetv3_small_075")
    assert len(read_metadata(exported, "lineside")["labels"]) == 4
    with pytest.raises(UnsupportedModelError, match="not those of resnet18"):
        import_pt(tmp_path / "final.pt", architecture="resnet18")
    with pytest.raises(UnsupportedModelError, match="no network 'resnet19'"):
        import_pt(tmp_path / "final.pt", architecture="resnet19")


@pytest.mark.usefixtures("of_few_families")
@pytest.mark.parametrize(
    ("package", "name"),
    [("torchvision", "regnet_y_400mf"), ("timm", "regnety_004"), ("timm", "vit_tiny_patch16_384")],
)
def test_regnets_and_plain_vits_are_known_by_their_keys_and_shapes(package: str, name: str, tmp_path: Path) -> None:
    import timm
    import torchvision

    make = timm.create_model if package == "timm" else torchvision.models.get_model
    net = make(name, num_classes=4)
    found = network_of(tmp_path / "final.pt", net.state_dict())
    assert found is not None and type(found) is type(net)
    size = 384 if name.endswith("384") else 64
    image = torch.rand(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(found(image), net.eval()(image))


@pytest.mark.usefixtures("of_few_families")
@pytest.mark.parametrize(
    ("name", "asked"),
    [
        # which may be a DeiT of another normalization
        ("vit_tiny_patch16_224", r"deit_tiny_patch16_224.*vit_tiny_patch16_224.*--architecture"),
        # which has the keys of one that computes something else
        ("tf_mobilenetv3_small_075", r"named after one of them.*mobilenetv3_small_075"),
    ],
)
def test_networks_of_the_same_keys_as_others_are_asked_for(tmp_path: Path, name: str, asked: str) -> None:
    import timm

    net = timm.create_model(name, pretrained=False, num_classes=4)
    with pytest.raises(UnsupportedModelError, match=asked):
        network_of(tmp_path / "final.pt", net.state_dict())


def test_a_checkpoint_of_timms_says_its_name_itself(tmp_path: Path) -> None:
    import timm

    net = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=4)
    torch.save({"arch": "mobilenetv3_small_050", "state_dict": net.state_dict()}, tmp_path / "best.pt")
    facts = read_metadata(import_pt(tmp_path / "best.pt"), "lineside")
    assert len(facts["labels"]) == 4
    assert facts["preprocess"]["size"] == [224, 224]


def test_weights_of_another_network_than_the_name_says_are_refused_and_imagenets_names_are_unique(
    tmp_path: Path,
) -> None:
    torch.save(Tiny().state_dict(), tmp_path / "resnet18.pt")
    with pytest.raises(UnsupportedModelError, match="torchvision or timm"):
        import_pt(tmp_path / "resnet18.pt")
    assert network_of(Path("resnet18.pt"), {}) is None
    assert len(set(labels_of(1000))) == 1000
    assert facts_of(Tiny(), 5) == ModelFacts()


def test_a_module_with_its_own_inputs_needs_to_say_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feeds = [rng.normal(0, 1, (1, 3, 64, 64)).astype(np.float32) for _ in range(6)]
    result = Optimizer(Tiny(), optimization_level=0, out=tmp_path / "out", frames=feeds).run()
    manifest = result.bundle.manifest
    assert (manifest.task, manifest.preprocess.colour, manifest.golden) == ("generic", "none", None)
    assert [spec.shape for spec in manifest.inputs] == [(1, 3, 64, 64)]
    with pytest.raises(MissingModelFactsError, match="Tiny"):
        Optimizer(Tiny(), out=tmp_path / "other").run()
