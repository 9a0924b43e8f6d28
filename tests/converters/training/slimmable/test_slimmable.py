"""Several widths of one network: trained at once, stored once, switched on an agent."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import onnx
import torch

from lineside_agent.config import DegradeConfig, InspectConfig
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.inspection.variant_selection import widest_within
from lineside_converters.optimizer import Optimizer
from lineside_converters.pruning.channel_groups import find_groups
from lineside_converters.training import checkpoints
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.trainer import ClassifierTrainer, train_classifier
from lineside_converters.training.loop import CHECKPOINT
from lineside_converters.training.objective import as_tuple
from lineside_converters.training.progress import TrainingProgress
from lineside_converters.training.slimmable.channel_order import order_channels
from lineside_converters.training.slimmable.network import SlimmableNetwork
from lineside_converters.training.slimmable.settings import WIDTHS_MAX
from lineside_converters.training.slimmable.training import widths_of_step
from lineside_models.frame import Frame
from lineside_runtime.bundle import Bundle, parse_manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import BundleFormatError, ConfigError, TrainingError
from lineside_runtime.session import Session
from tests.converters.small_nets import Blocks, bars

pytestmark = pytest.mark.torch


def picture(label: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:40, :40]
    wave = np.sin((x, y)[label] * 0.9 + rng.uniform(0, 6)) + rng.normal(0, 0.3, (40, 40))
    return (wave * 40 + 127).clip(0, 255).astype(np.uint8)


def write_stripes(root: Path, folds: dict[str, int]) -> Path:
    """Writes pictures of upright and lying stripes, a folder a class."""
    rng, rows = np.random.default_rng(0), ["image,fold"]
    for fold, count in folds.items():
        for number in range(count):
            label = number % 2
            name = f"{('upright', 'lying')[label]}/{fold}{number}.png"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name), picture(label, rng))
            rows.append(f"{name},{fold}")
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of two widths, from a training of both."""
    root = tmp_path_factory.mktemp("widths")
    data = write_stripes(root / "stripes", {"train": 64, "val": 24})
    config = ClassifierConfig(
        data=(data,),
        out=root / "run",
        epochs=12,
        batch=16,
        side_px=32,
        threads=1,
        width=0.25,
        widths=(1.0, 0.5),
        evaluate_every=12,
        learning_rate=4e-3,
        held_share=0.2,
    )
    assert train_classifier(config, lambda _: None).held_top1 >= 0.9
    made = Optimizer(
        root / "run", "rpi5", data=[data], max_drop=0.1, min_metric=0.5, out=root / "bundle", min_speedup=1.0
    ).run()
    return made.bundle


def stored_apart(graph: Path) -> set[int]:
    """Returns the places in the file of weights of a graph's tensors."""
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors if tensor.external_data]
    return {int(place["offset"]) for place in places}


def test_the_first_channels_are_the_most_important_ones_and_are_shared() -> None:
    net, images = Blocks(), bars(8, 1)[0]
    groups = find_groups(net, images[:1]).groups
    weight = net.get_parameter("wide.0.weight")
    before = net.eval()(images).detach()
    order_channels(net, images[:1], groups, {each.name: torch.arange(each.width) for each in groups})
    assert torch.allclose(net(images), before, atol=1e-5), "another order computes the same"
    slim = SlimmableNetwork(net, images[:1], groups, (1.0, 0.5)).eval()
    form = slim.form(0.5)
    first = form.get_parameter("wide.0.weight")
    assert first.shape == (16, 8, 1, 1)
    assert torch.equal(first, weight[:16, :8])
    assert torch.allclose(as_tuple(form(images))[0], slim.at(0.5, images)[0], atol=1e-6)
    slim.at(0.5, images)[0].sum().backward()
    gradient = weight.grad
    assert gradient is not None
    assert gradient[:16, :8].abs().sum() > 0
    assert gradient[16:].abs().sum() == 0, "the narrower network trains its own channels alone"


def test_the_narrower_networks_begin_as_the_first_channels_of_the_trained_widest_one() -> None:
    net, images = Blocks(), bars(8, 1)[0]
    net.requires_grad_(True)
    slim = SlimmableNetwork(net, images[:1], find_groups(net, images[:1]).groups, (1.0, 0.5))
    optimizer = torch.optim.AdamW(slim.parameters(), lr=1e-2)
    for _ in range(3):
        as_tuple(slim.train()(images))[0].square().sum().backward()
        optimizer.step()
    for parameter in net.parameters():
        optimizer.state[parameter]["exp_avg"].copy_(parameter)
    before, first = net.eval()(images).detach(), net.get_parameter("wide.0.weight").detach().clone()
    orders = slim.orders([images], postprocess="classification", seed=0)
    slim.narrow(orders, [images], optimizer)
    assert slim.is_narrowed
    assert torch.allclose(net.eval()(images), before, atol=1e-5), "another order computes the same"
    assert not torch.equal(net.get_parameter("wide.0.weight"), first)
    for parameter in net.parameters():
        assert torch.equal(optimizer.state[parameter]["exp_avg"], parameter), "its average moved with a weight"
    for name, found in slim.form(0.5).named_modules():
        if isinstance(found, torch.nn.BatchNorm2d):
            assert torch.equal(found.weight, net.get_parameter(f"{name}.weight")[: len(found.weight)])


def test_steps_train_the_widths_in_turn_and_no_width_is_left_out() -> None:
    turns = [widths_of_step((1.0, 0.75, 0.5, 0.35), step) for step in range(4)]
    assert turns == [(1.0, 0.5, 0.35), (0.75, 0.5), (0.75, 0.5, 0.35), (1.0, 0.5, 0.35)]
    assert [widths_of_step((1.0, 0.5), step) for step in range(3)] == [(1.0, 0.5), (0.5,), (0.5,)]
    for count in range(2, WIDTHS_MAX + 1):
        widths = tuple(1 - number / 10 for number in range(count))
        assert {width for step in range(30) for width in widths_of_step(widths, step)} == set(widths)


def test_a_bundle_of_widths_stores_the_weights_once(bundle: Bundle) -> None:
    wide, narrow = bundle.manifest.variants[0], bundle.manifest.variants[-1]
    assert (wide.width, narrow.width) == (1.0, 0.5)
    assert wide.weights == narrow.weights == "onnx-int8/weights.bin"
    assert bundle.manifest.to_time == tuple(one for one in bundle.manifest.variants if one.width != 0.5)
    shared, own = bundle.file("onnx-int8/weights.bin").stat().st_size, bundle.file(narrow.file).stat().st_size
    assert own < shared / 2
    apart_in_wide, apart_in_narrow = (stored_apart(bundle.file(one.file)) for one in (wide, narrow))
    assert apart_in_narrow and apart_in_narrow <= apart_in_wide, "what one of them alone has stays in its graph"
    elsewhere = msgspec.structs.replace(wide, weights="labels.json")
    apart = msgspec.json.encode(msgspec.structs.replace(bundle.manifest, variants=(elsewhere,)))
    with pytest.raises(BundleFormatError, match="weights of"):
        parse_manifest(apart)


def test_a_session_changes_the_width_by_name(bundle: Bundle) -> None:
    with Session(bundle, Config(threads=1)) as session:
        assert session.variant == "onnx-int8"
        with pytest.raises(ConfigError, match="has no 'onnx-int8-0"):
            session.reload(variant="onnx-int8-0.4")
        assert session.variant == "onnx-int8"
        session.reload(variant="onnx-int8-0.5")
        assert session.variant == "onnx-int8-0.5"


def test_an_agent_switches_to_the_narrower_network_without_loading(bundle: Bundle) -> None:
    loaded = load(
        "a", bundle, InspectConfig(threads=1, variant="onnx-int8"), degrade=DegradeConfig(variant="onnx-int8-0.5")
    )
    try:
        rng = np.random.default_rng(5)
        for label in (0, 1):
            frame = Frame(image=picture(label, rng))
            usual, reduced = loaded.inspect(frame), loaded.inspect(frame, fast=True)
            assert (usual.used_variant, reduced.used_variant) == ("onnx-int8", "onnx-int8-0.5")
            assert usual.detections[0].type == reduced.detections[0].type
    finally:
        loaded.close()


def test_a_device_takes_the_widest_network_that_is_fast_enough(bundle: Bundle) -> None:
    config = Config(threads=1)
    assert widest_within(bundle, config, 1e6).manifest.variants[0].name == "onnx-int8"
    assert widest_within(bundle, config, 1e-9).manifest.variants[0].name in ("onnx-int8", "onnx-int8-0.5")
    loaded = load("a", bundle, InspectConfig(threads=1, max_ms=1e6))
    assert loaded.variant in ("onnx-fp32", "onnx-int8"), "the fastest form of the widest"
    loaded.close()


def test_a_narrowed_network_from_imagenet_learns_faster_than_a_whole_one(tmp_path: Path) -> None:
    data = write_stripes(tmp_path / "stripes", {"train": 24})

    def peaks(*widths: float) -> set[float]:
        config = ClassifierConfig(
            data=(data,), out=tmp_path / "run", batch=8, side_px=32, threads=1, widths=widths, overwrite=True
        )
        trainer = ClassifierTrainer(config, lambda _: None)
        return {group["peak"] for group in trainer.run.optimizer.param_groups}

    assert peaks(0.5) == {ClassifierTrainer.narrowed_rate * peak for peak in peaks(1.0)}


class KilledError(BaseException):
    """Stands for a kill."""


def test_a_training_killed_before_or_after_the_narrower_networks_begin_goes_on_to_the_same_weights(
    tmp_path: Path,
) -> None:
    data = write_stripes(tmp_path / "stripes", {"train": 24})

    def train(out: Path, *, killed_in: int | None = None, resume: bool = False) -> dict[str, torch.Tensor]:
        def kill(progress: TrainingProgress) -> None:
            if progress.epoch == killed_in:
                raise KilledError

        config = ClassifierConfig(
            data=(data,),
            out=out,
            epochs=4,
            batch=8,
            side_px=32,
            threads=1,
            width=0.25,
            widths=(1.0, 0.5),
            resume=resume,
        )
        ClassifierTrainer(config, kill).train()
        weights: dict[str, torch.Tensor] = checkpoints.load(out / CHECKPOINT)["ema"]
        return weights

    whole = train(tmp_path / "whole")
    for killed_in in (1, 2):  # the narrower networks begin with epoch 1
        out = tmp_path / f"killed-{killed_in}"
        with pytest.raises(KilledError):
            train(out, killed_in=killed_in)
        assert bool(checkpoints.load(out / CHECKPOINT)["model"]["narrowed"]) == (killed_in == 2)
        resumed = train(out, resume=True)
        assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_widths_are_shares_that_fall() -> None:
    with pytest.raises(TrainingError, match="widths"):
        ClassifierConfig(data=(Path("x"),), out=Path("y"), widths=(0.5, 1.0))
