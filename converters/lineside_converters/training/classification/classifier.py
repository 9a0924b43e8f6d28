"""Training of a classifier of surfaces, on one page."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn

from lineside_converters.distillation.losses import LogitDistillation
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.pruning.torch_graph import PrunableNetwork, close_network
from lineside_converters.training import checkpoints
from lineside_converters.training.bundle_facts import INPUT, MEAN, STD
from lineside_converters.training.classification.config import ClassifierConfig as ClassifierConfig
from lineside_converters.training.classification.data import ClassData, ClassificationObjective, CropLook, load_classes
from lineside_converters.training.config import TrainProgress
from lineside_converters.training.initial_weights import check_outputs, facts_of_start, open_start, take_labels
from lineside_converters.training.loop import BEST
from lineside_converters.training.pretrained_trunk import NORM_BATCHES, rate_of, see_new_images
from lineside_converters.training.run_folder import begin_run
from lineside_converters.training.strategy import ALONE, Strategy
from lineside_models.good_classes import good_of, rule_of, with_good_classes
from lineside_models.networks.classifier import SurfaceClassifier, pretrained_classifier, resnet18
from lineside_models.preprocess import CHANNELS
from lineside_models.vision.model_facts import METADATA_KEY, ModelFacts
from lineside_runtime.bundle import Postprocess, Preprocess
from lineside_runtime.files import write_atomic

OUTPUT = "logits"
READING = Postprocess(name="classification")
NETWORKS = {"lite0": "surface_classifier_lite0", "resnet18": "surface_classifier_resnet18"}

log = logging.getLogger("lineside.training")


class ClassifierResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run leaves behind.

    Attributes:
        weights: ``best.pt``, a state dict.
        onnx: ``float.onnx``, the same weights as a graph that says itself how it is used.
        facts: ``training.json``.
        labels: The classes, in the order of the outputs.
        held_top1: Of the chosen weights on the held-out share of the train folds.
        good_classes: Of the labels, those that mean a good part.
        rule: Which parts pass, in words.
    """

    weights: str
    onnx: str
    facts: str
    labels: tuple[str, ...]
    held_top1: float
    good_classes: tuple[str, ...]
    rule: str


def train_classifier(config: ClassifierConfig, on_progress: Callable[[TrainProgress], None]) -> ClassifierResult:
    """Trains a classifier on the train folds and chooses the best weights.

    Writes ``checkpoint.pt`` (each epoch), ``best.pt``, ``float.onnx`` and ``training.json`` into ``config.out``.

    Args:
        config: The run's settings.
        on_progress: Called after every step, in this thread.

    Raises:
        TrainingError: The settings or the checkpoint are not usable, or the loss is no number any more.
        DatasetError: A data folder is not usable.
    """
    return learn_classifier(config, on_progress, ALONE)()


def learn_classifier(
    config: ClassifierConfig, on_progress: Callable[[TrainProgress], None], strategy: Strategy
) -> Callable[[], ClassifierResult]:
    """Does what all workers do of `train_classifier`, and returns the rest, which only the first one calls."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    data = load_classes(config.data, look=_look_of(config), held_share=config.held_share, settings=config)
    reading = with_good_classes(READING, data.labels, config.good_classes)
    begin_run(config)
    objective = ClassificationObjective(data, batch=config.batch, seed=config.seed, part=strategy.part)
    network = None if config.start is None else _given(config.start, data, objective, reading)
    curve = train_student(
        _begin(config, data, objective) if network is None else network.module,
        None,
        objective,
        LogitDistillation(),
        settings=DistillationSettings(
            learning_rate=config.learning_rate,
            epochs=config.epochs,
            minutes=config.minutes,
            evaluate_every=config.evaluate_every,
            threads=config.threads,
            seed=config.seed,
            bf16=config.bf16,
        ),
        out=config.out,
        on_progress=on_progress,
        rate_of=rate_of(config.learning_rate),
        figure="top-1",
        judge_start=network is not None,
        strategy=strategy,
    )
    return lambda: _finish(config, data, objective, curve, network, reading)


def _look_of(config: ClassifierConfig) -> CropLook:
    """Returns how the network of a run sees a picture: as that which it starts from did."""
    colour: Literal["grey", "rgb", "bgr"] = config.colour
    mean: tuple[float, ...] = (MEAN,)
    std: tuple[float, ...] = (STD,)
    if config.start is not None:
        before = facts_of_start(config.start).preprocess
        if before is not None and before.colour != "none":
            colour, mean, std = before.colour, before.mean, before.std
    channels = CHANNELS[colour]
    return CropLook(config.side_px, colour, mean * (channels // len(mean)), std * (channels // len(std)))


def _given(model: Path, data: ClassData, objective: ClassificationObjective, reading: Postprocess) -> PrunableNetwork:
    """Opens what the run begins with, proved on some pictures of the data to come."""
    found = open_start(model, objective.some(NORM_BATCHES))
    check_outputs(found, found.network.output_names[:1], "a classifier with one output")
    log.info("starting from %s: %s", found.name, take_labels(found, data.labels))
    facts = msgspec.json.encode(classifier_facts(data.labels, data.look, found.network.input_name, reading)).decode()
    found.network.metadata[METADATA_KEY] = facts
    return found.network


def _begin(config: ClassifierConfig, data: ClassData, objective: ClassificationObjective) -> nn.Module:
    """Returns the network that a run begins with; one that is resumed gets its weights from the checkpoint."""
    if config.network != "lite0":
        log.info("starting from random weights")
        return _build(config, data)
    log.info("starting from an EfficientNet-Lite0 with ImageNet's weights")
    model = pretrained_classifier(len(data.labels), channels=len(data.look.mean), seed=config.seed)
    see_new_images(model, objective.some(NORM_BATCHES))
    model.trunk.freeze_early()
    return model


def _build(config: ClassifierConfig, data: ClassData) -> nn.Module:
    """Returns the network as it is trained, with random weights."""
    classes, channels = len(data.labels), len(data.look.mean)
    if config.network == "lite0":
        return SurfaceClassifier(classes, channels=channels)
    return resnet18(classes, width=config.width or 1.0, channels=channels, seed=config.seed)


def _finish(
    config: ClassifierConfig,
    data: ClassData,
    objective: ClassificationObjective,
    curve: list[dict[str, float]],
    network: PrunableNetwork | None,
    reading: Postprocess,
) -> ClassifierResult:
    model = _build(config, data) if network is None else network.module
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    model.load_state_dict(checkpoints.load(config.out / BEST))
    onnx = config.out / "float.onnx"
    if network is None:
        difference = export_classifier(model, onnx, labels=data.labels, look=data.look, reading=reading)
    else:
        difference = close_network(network, onnx, _examples(data.look))
    top1 = objective.evaluate(model)["top1"]
    facts = {
        "architecture": NETWORKS[config.network] if config.start is None else f"that of {config.start.name}",
        "settings": config.as_dict(),
        **msgspec.to_builtins(classifier_facts(data.labels, data.look, reading=reading)),
        "images": objective.facts,
        "curve": curve,
        "held_top1": top1,
        "onnx_max_difference": difference,
        "versions": {name: version(name) for name in ("torch", "timm", "onnx", "numpy")},
        "python": platform.python_version(),
    }
    write_atomic(config.out / "training.json", json.dumps(facts, indent=2).encode())
    return ClassifierResult(
        weights=str(config.out / BEST),
        onnx=str(onnx),
        facts=str(config.out / "training.json"),
        labels=data.labels,
        held_top1=top1,
        good_classes=tuple(data.labels[index] for index in good_of(reading)),
        rule=rule_of(reading, data.labels),
    )


def classifier_facts(
    labels: tuple[str, ...], look: CropLook, name: str = INPUT, reading: Postprocess = READING
) -> ModelFacts:
    """Returns what a bundle must say of a classifier besides its weights.

    Args:
        labels: Its classes.
        look: How it sees a picture.
        name: Of its input.
        reading: How its outputs are read, with its classes of good parts.
    """
    size = (look.side_px, look.side_px)
    return ModelFacts(
        labels=labels,
        preprocess=Preprocess(
            input=name, colour=look.colour, resize="stretch", size=size, mean=look.mean, std=look.std
        ),
        postprocess=reading,
    )


def _examples(look: CropLook) -> tuple[Tensor, Tensor]:
    """Returns an input, and a batch of two."""
    shape = (1, len(look.mean), look.side_px, look.side_px)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return example, torch.cat([example, -example])


def export_classifier(
    model: nn.Module, path: Path, *, labels: tuple[str, ...], look: CropLook, reading: Postprocess = READING
) -> float:
    """Writes a classifier as ONNX: input ``image``, output ``logits``, batch free, its facts in the metadata.

    Returns:
        The largest difference between the graph's and torch's outputs.

    Raises:
        ParityGateError: It is above the tolerance.
    """
    facts = msgspec.json.encode(classifier_facts(labels, look, reading=reading)).decode()
    example, check = _examples(look)
    return export_onnx(
        model,
        path,
        example=example,
        input_name=INPUT,
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        check=(check,),
        metadata={METADATA_KEY: facts},
    )
