"""Training of a classifier of surfaces, on one page."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from lineside_converters.export import export_onnx
from lineside_converters.training import checkpoint
from lineside_converters.training.classes import ClassData, ClassLessons, Look, load_classes
from lineside_converters.training.config import TrainProgress
from lineside_converters.training.config_classifier import ClassifierConfig as ClassifierConfig
from lineside_converters.training.facts import INPUT, MEAN, STD
from lineside_converters.training.loop import BEST
from lineside_converters.training.run_folder import begin_run
from lineside_converters.training.strategy import ALONE, Strategy
from lineside_converters.training.taught import Tuition, teach
from lineside_converters.training.teaching import LogitTeaching
from lineside_models.good_classes import good_of, rule_of, with_good_classes
from lineside_models.networks.classifier import resnet18
from lineside_models.vision.facts import METADATA_KEY, ModelFacts
from lineside_runtime.bundle import Postprocess, Preprocess
from lineside_runtime.files import write_atomic

OUTPUT = "logits"
NETWORK = "surface_classifier_resnet18"
READING = Postprocess(name="classification")


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
    """Trains a ResNet-18 on the train folds and chooses the best weights.

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
    config.out.mkdir(parents=True, exist_ok=True)
    data = load_classes(config.data, look=Look(config.side_px), held_share=config.held_share, settings=config)
    reading = with_good_classes(READING, data.labels, config.good_classes)
    begin_run(config)
    lessons = ClassLessons(data, batch=config.batch, seed=config.seed, part=strategy.part)
    model = resnet18(len(data.labels), width=config.width, seed=config.seed)
    curve = teach(
        model,
        None,
        lessons,
        LogitTeaching(),
        tuition=Tuition(
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
        strategy=strategy,
    )
    return lambda: _finish(config, data, lessons, curve, reading)


def _finish(
    config: ClassifierConfig,
    data: ClassData,
    lessons: ClassLessons,
    curve: list[dict[str, float]],
    reading: Postprocess,
) -> ClassifierResult:
    model = resnet18(len(data.labels), width=config.width, seed=config.seed)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    model.load_state_dict(checkpoint.load(config.out / BEST))
    how: dict[str, Any] = {"labels": data.labels, "side_px": config.side_px, "reading": reading}
    difference = export_classifier(model, config.out / "float.onnx", **how)
    top1 = lessons.evaluate(model)["top1"]
    facts = {
        "architecture": NETWORK,
        "settings": config.as_dict(),
        **msgspec.to_builtins(classifier_facts(**how)),
        "images": lessons.facts,
        "curve": curve,
        "held_top1": top1,
        "onnx_max_difference": difference,
        "versions": {name: version(name) for name in ("torch", "timm", "onnx", "numpy")},
        "python": platform.python_version(),
    }
    write_atomic(config.out / "training.json", json.dumps(facts, indent=2).encode())
    return ClassifierResult(
        weights=str(config.out / BEST),
        onnx=str(config.out / "float.onnx"),
        facts=str(config.out / "training.json"),
        labels=data.labels,
        held_top1=top1,
        good_classes=tuple(data.labels[index] for index in good_of(reading)),
        rule=rule_of(reading, data.labels),
    )


def classifier_facts(labels: tuple[str, ...], side_px: int, reading: Postprocess = READING) -> ModelFacts:
    """Returns what a bundle must say of a classifier of grey pictures besides its weights.

    Args:
        labels: The classes.
        side_px: Side of the input.
        reading: How its outputs are read, with its classes of good parts.
    """
    return ModelFacts(
        labels=labels,
        preprocess=Preprocess(
            input=INPUT, colour="grey", resize="stretch", size=(side_px, side_px), mean=(MEAN,), std=(STD,)
        ),
        postprocess=reading,
    )


def export_classifier(
    model: nn.Module,
    path: Path,
    *,
    labels: tuple[str, ...],
    side_px: int,
    reading: Postprocess = READING,
) -> float:
    """Writes a classifier as ONNX: input ``image``, output ``logits``, batch free, its facts in the metadata.

    Returns:
        The largest difference between the graph's and torch's outputs.

    Raises:
        ParityGateError: It is above the tolerance.
    """
    facts = msgspec.json.encode(classifier_facts(labels, side_px, reading)).decode()
    example = torch.randn((1, 1, side_px, side_px), generator=torch.Generator().manual_seed(0))
    return export_onnx(
        model,
        path,
        example=example,
        input_name=INPUT,
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        check=(torch.cat([example, -example]),),
        metadata={METADATA_KEY: facts},
    )
