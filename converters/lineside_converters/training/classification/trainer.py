"""Training of a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn

from lineside_converters.loading.onnx_export import export_onnx
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.data import ClassifierInput, load_classes
from lineside_converters.training.classification.objective import ClassificationObjective
from lineside_converters.training.initial_weights import (
    InitialModel,
    check_outputs,
    facts_of_start,
    see_new_images,
    take_labels,
)
from lineside_converters.training.objective import Outputs, as_tuple
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.trainer import Trainer, TrainingResult, log
from lineside_models.networks.classifier import SurfaceClassifier, pretrained_classifier, resnet18
from lineside_models.networks.detector import INPUT, MEAN, STD
from lineside_models.preprocess import CHANNELS
from lineside_models.verdict.good_classes import good_of, rule_of, with_good_classes
from lineside_models.vision.model_facts import METADATA_KEY, ModelFacts
from lineside_runtime.bundle import Postprocess, Preprocess

OUTPUT = "logits"
READING = Postprocess(name="classification")
NETWORKS = {"lite0": "surface_classifier_lite0", "resnet18": "surface_classifier_resnet18"}


class ClassifierResult(TrainingResult, frozen=True, kw_only=True):
    """Result of a run; pre- and post-processing are in the metadata of the graph.

    Attributes:
        labels: The classes, in the order of the outputs.
        held_top1: Of the chosen weights on the held-out share of the train folds.
        good_classes: Labels that mean a good part.
        rule: Sentence that says which parts pass.
    """

    labels: tuple[str, ...]
    held_top1: float
    good_classes: tuple[str, ...]
    rule: str


def train_classifier(config: ClassifierConfig, on_progress: OnProgress) -> ClassifierResult:
    """Trains a classifier on the train folds and chooses the best weights.

    Raises:
        TrainingError: The settings or the checkpoint are not usable, or the loss is not finite.
        DatasetError: A data folder is not usable.
    """
    return ClassifierTrainer(config, on_progress).run_alone()


class ClassifierTrainer(Trainer[ClassifierConfig, ClassificationObjective, ClassifierResult]):
    """Training of a surface classifier."""

    figure = "top-1"
    begins_again = True
    warm_up_steps = 60
    narrowed_rate = 4.0
    postprocess = READING.name

    def load(self) -> ClassificationObjective:
        """Reads the crops, and finds which classes mean a good part."""
        config = self.config
        self.data = load_classes(config.data, look=_input_of(config), held_share=config.held_share, settings=config)
        self.reading = with_good_classes(READING, self.data.labels, config.good_classes)
        return ClassificationObjective(self.data, batch=config.batch, seed=config.seed, part=self.strategy.part)

    @property
    def widths(self) -> tuple[float, ...]:
        """Widths of the settings."""
        return self.config.widths

    def outputs(self, model: nn.Module, images: Tensor) -> Outputs:
        """Returns the logits; with ``bf16`` the network multiplies in bfloat16."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16):
            return [each.float() for each in as_tuple(model(images))]

    def adapt(self, start: InitialModel) -> str:
        """Gives the output the classes of the data, and the file their facts."""
        check_outputs(start, start.network.output_names[:1], "a classifier with one output")
        known = take_labels(start, self.data.labels)
        facts = classifier_facts(self.data.labels, self.data.look, start.network.input_name, self.reading)
        start.network.metadata[METADATA_KEY] = msgspec.json.encode(facts).decode()
        return known

    def pretrained(self) -> nn.Module:
        """Builds an EfficientNet-Lite0 with ImageNet's weights, or a ResNet-18 with random ones."""
        if self.config.network != "lite0":
            log.info("starting from random weights")
            return self.build()
        log.info("starting from an EfficientNet-Lite0 with ImageNet's weights")
        channels = len(self.data.look.mean)
        model = pretrained_classifier(len(self.data.labels), channels=channels, seed=self.config.seed)
        see_new_images(model, self.first_inputs())
        if not self.widths:
            model.trunk.freeze_early()
        return model

    def build(self) -> nn.Module:
        """Builds the network with random weights."""
        config, classes, channels = self.config, len(self.data.labels), len(self.data.look.mean)
        if config.network == "lite0":
            model: nn.Module = SurfaceClassifier(classes, channels=channels, folded=not self.widths)
        else:
            model = resnet18(classes, width=config.width or 1.0, channels=channels, seed=config.seed)
        return model.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

    def export(self, model: nn.Module, path: Path) -> float:
        """Writes it with `export_classifier`."""
        return export_classifier(model, path, labels=self.data.labels, look=self.data.look, reading=self.reading)

    def examples(self) -> tuple[Tensor, Tensor]:
        """Returns an input, and a batch of two."""
        return _examples(self.data.look)

    def result(self, model: nn.Module, difference: float) -> ClassifierResult:
        """Evaluate, and write the facts."""
        config, labels = self.config, self.data.labels
        top1 = self.objective.evaluate(model)["top1"]
        facts = {
            "settings": config.as_dict(),
            **msgspec.to_builtins(classifier_facts(labels, self.data.look, reading=self.reading)),
            "images": self.objective.facts,
            "held_top1": top1,
        }
        self.write_facts(NETWORKS[config.network], facts, difference)
        return ClassifierResult(
            **self.files,
            labels=labels,
            held_top1=top1,
            good_classes=tuple(labels[index] for index in good_of(self.reading)),
            rule=rule_of(self.reading, labels),
        )


def _input_of(config: ClassifierConfig) -> ClassifierInput:
    """Returns the input of a run's network: that of the model that it starts from."""
    colour: Literal["grey", "rgb", "bgr"] = config.colour
    mean: tuple[float, ...] = (MEAN,)
    std: tuple[float, ...] = (STD,)
    if config.start is not None:
        before = facts_of_start(config.start).preprocess
        if before is not None and before.colour != "none":
            colour, mean, std = before.colour, before.mean, before.std
    channels = CHANNELS[colour]
    return ClassifierInput(config.side_px, colour, mean * (channels // len(mean)), std * (channels // len(std)))


def classifier_facts(
    labels: tuple[str, ...], look: ClassifierInput, name: str = INPUT, reading: Postprocess = READING
) -> ModelFacts:
    """Returns the facts of a classifier in its bundle."""
    size = (look.side_px, look.side_px)
    return ModelFacts(
        labels=labels,
        preprocess=Preprocess(
            input=name, colour=look.colour, resize="stretch", size=size, mean=look.mean, std=look.std
        ),
        postprocess=reading,
    )


def _examples(look: ClassifierInput) -> tuple[Tensor, Tensor]:
    shape = (1, len(look.mean), look.side_px, look.side_px)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return example, torch.cat([example, -example])


def export_classifier(
    model: nn.Module, path: Path, *, labels: tuple[str, ...], look: ClassifierInput, reading: Postprocess = READING
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
