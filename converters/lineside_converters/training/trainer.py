"""Steps that the trainings of detectors, classifiers and segmenters share."""

from __future__ import annotations

import abc
import dataclasses
import json
import logging
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from lineside_converters.pruning.torch_graph import PrunableNetwork, close_network
from lineside_converters.training import checkpoints
from lineside_converters.training.checkpoints import TrainingRun
from lineside_converters.training.initial_weights import FACTS, FLOAT, NORM_BATCHES, InitialModel, open_start, rate_of
from lineside_converters.training.loop import (
    BEST,
    CHECKPOINT,
    WARM_UP_STEPS,
    TrainingPlan,
    fit,
    parameter_groups,
    start_run,
)
from lineside_converters.training.objective import LabelledObjective, Outputs, as_tuple
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.run_folder import check_run_folder, new_folder, prepare_run_folder
from lineside_converters.training.settings import TrainingSettings
from lineside_converters.training.slimmable.network import SlimmableNetwork
from lineside_converters.training.slimmable.training import (
    WIDEST_FIRST,
    begin_narrower,
    export_widths,
    figures_by_width,
    plain_name,
    sandwich_loss,
    slimmable,
)
from lineside_converters.training.strategy import ALONE, Strategy
from lineside_runtime.errors import TrainingError
from lineside_runtime.files import write_atomic

EARLY = "trunk.early."
"""Stages whose weights stay as ImageNet left them."""

S = TypeVar("S", bound=TrainingSettings)
O = TypeVar("O", bound=LabelledObjective[Any])  # noqa: E741  # the objective
R = TypeVar("R")

log = logging.getLogger("lineside.training")


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a finished run, with the chosen weights.

    Attributes:
        weights: ``best.pt``, a state dict.
        onnx: ``float.onnx``, the same weights as a graph.
        facts: ``training.json``.
    """

    weights: Path
    onnx: Path
    facts: Path


class Trainer(abc.ABC, Generic[S, O, R]):
    """One training, from its data to the files of its run folder.

    It writes ``config.toml``, ``checkpoint.pt`` (each epoch), ``curves.html`` and ``best.pt`` (each evaluation), and at
    the end ``float.onnx`` and ``training.json``. One process calls `run_alone`. Of several workers every one constructs
    it and calls `train`; the first one then calls `finish`.

    Attributes:
        figure: Name of what the evaluation measures.
        warm_up_steps: Steps in which the learning rate rises, a tenth of the run at most.
        patience: Evaluations without a better one after which training ends; ``None`` to end with the schedule.
        postprocess: Name of the decoder of the network's outputs.
        begins_again: Whether a run that was ended before its first checkpoint begins again.
        narrowed_rate: Factor on the learning rates of a network with ImageNet's weights that is narrowed: without all
            of its channels, its weights are further from what they need.
        network: The model that it starts from; ``None`` for a network built here.
    """

    figure: ClassVar[str]
    warm_up_steps: ClassVar[int] = WARM_UP_STEPS
    postprocess: ClassVar[str] = ""
    begins_again: ClassVar[bool] = False
    narrowed_rate: ClassVar[float] = 1.0
    patience: int | None = None

    def __init__(self, config: S, on_progress: OnProgress, strategy: Strategy = ALONE) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        check_run_folder(config)
        self.config, self.on_progress, self.strategy = config, on_progress, strategy
        with new_folder(config.out):
            self.objective: O = self.load()
            self._widths: list[dict[str, Any]] = []
            first = config.first_model
            self.network = None if first is None else self._open(first)
            self.run = self._start()
            prepare_run_folder(config)  # last: what is refused above leaves an earlier run as it was

    @abc.abstractmethod
    def load(self) -> O:
        """Reads the data."""

    @abc.abstractmethod
    def adapt(self, start: InitialModel) -> str:
        """Adapts the outputs of a model to start from to this run, and describes what it keeps."""

    @abc.abstractmethod
    def pretrained(self) -> nn.Module:
        """Builds the network that a run without a model starts from."""

    @abc.abstractmethod
    def build(self) -> nn.Module:
        """Builds the network of `pretrained` for the weights of a checkpoint."""

    @abc.abstractmethod
    def export(self, model: nn.Module, path: Path) -> float:
        """Writes a network of `build` as ONNX, and returns the largest difference of their outputs."""

    @abc.abstractmethod
    def examples(self) -> Sequence[Tensor]:
        """Returns inputs to compare a model to start from with its ONNX file."""

    @abc.abstractmethod
    def result(self, model: nn.Module, difference: float) -> R:
        """Evaluates the chosen weights, writes ``training.json`` and returns the result.

        Args:
            model: Network with the chosen weights; written to ``float.onnx``.
        """

    def first_inputs(self) -> list[Tensor]:
        """Returns batches for the statistics of batch norms."""
        return self.objective.some(NORM_BATCHES)

    @property
    def widths(self) -> tuple[float, ...]:
        """Widths that are trained at once; empty for one network as it is built."""
        return ()

    @property
    def has_imagenet_weights(self) -> bool:
        """Whether the trunk of `pretrained` has ImageNet's weights, which learn at a lower rate."""
        return True

    def outputs(self, model: nn.Module, images: Tensor) -> Outputs:
        """Returns the outputs of a network."""
        return as_tuple(model(images))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Returns the loss of a network on a batch."""
        if isinstance(model, SlimmableNetwork) and len(model.widths) > 1:
            return self._loss_of_widths(model, batch)
        return self.objective.true_loss(self.outputs(model, self.objective.images(batch)), batch)

    def _loss_of_widths(self, model: SlimmableNetwork, batch: Any) -> Tensor:
        if not model.is_narrowed:
            config, run = self.config, self.run
            done = run.step / (config.epochs * self.objective.epoch_steps)
            if config.minutes is not None:
                done = max(done, run.elapsed_s / (60 * config.minutes))
            if done < WIDEST_FIRST:
                return self.objective.true_loss(self.outputs(model, self.objective.images(batch)), batch)
            begin_narrower(run, self.first_inputs(), postprocess=self.postprocess, seed=config.seed)
        return sandwich_loss(
            model, batch, self.objective, self.outputs, postprocess=self.postprocess, step=self.run.step
        )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns the figures of a network on the held-out share; of several widths, those of each."""
        if isinstance(model, SlimmableNetwork):
            return figures_by_width(model, self.objective.evaluate)
        return self.objective.evaluate(model)

    def checkpoint(self) -> dict[str, Any] | None:
        """Returns the content of the checkpoint to resume from; ``None`` to begin."""
        path = self.config.out / CHECKPOINT
        if not self.config.resume:
            return None
        if self.begins_again and not path.exists():
            log.warning("%s holds no checkpoint to go on from: the training begins", self.config.out)
            return None
        return checkpoints.load(path)

    def open(self, model: Path) -> InitialModel:
        """Returns the model that the run starts from."""
        return open_start(model, self.first_inputs())

    def _open(self, model: Path) -> PrunableNetwork:
        found = self.open(model)
        log.info("starting from %s: %s", found.name, self.adapt(found))
        return found.network

    def _start(self) -> TrainingRun:
        resumed = self.checkpoint()
        peak, transferred = self.config.learning_rate, self.network is None and self.has_imagenet_weights
        rate: Callable[[str], float] = rate_of(peak) if transferred else lambda _: peak
        if self.network is not None:
            model = self.network.module
        else:
            model = self.pretrained() if resumed is None else self.build()
        if self.widths:
            narrowed = transferred and self.widths[-1] < 1
            model = self._slimmable(model, ordered=resumed is not None)
            rate = _by_plain_name(rate, self.narrowed_rate if narrowed else 1.0)
        return start_run(model, parameter_groups(model, rate), resumed=resumed, strategy=self.strategy)

    def _slimmable(self, model: nn.Module, *, ordered: bool) -> SlimmableNetwork:
        if self.strategy.world > 1:
            raise TrainingError("widths can't be trained by several workers", action="Train in one process.")
        config = self.config
        network = slimmable(
            model, self.first_inputs(), self.widths, postprocess=self.postprocess, seed=config.seed, ordered=ordered
        )
        if self.network is None:
            network.freeze(EARLY)
        return network

    def run_alone(self) -> R:
        """Trains in this process, and returns the result.

        Raises:
            TrainingError: The checkpoint is not usable, or the loss is not finite.
        """
        self.train()
        return self.finish()

    def train(self) -> None:
        """Trains to the end of the schedule."""
        config, steps = self.config, self.objective.epoch_steps
        first = config.first_model
        plan = TrainingPlan(
            out=config.out,
            epochs=config.epochs,
            epoch_steps=steps,
            minutes=config.minutes,
            evaluate_every=config.evaluate_every,
            warm_up_steps=min(self.warm_up_steps, config.epochs * steps // 10),
            evaluate_start=self.network is not None,
            patience=self.patience,
            figure=self.figure,
            settings=config.as_dict() | {"start": None if first is None else first.name},
        )
        fit(
            self.run,
            plan,
            batches=self.objective.batches,
            loss=self.loss,
            evaluate=self.evaluate,
            on_progress=self.on_progress,
            strategy=self.strategy,
        )

    def finish(self) -> R:
        """Writes the best weights as ``float.onnx``, evaluates them, and returns the result."""
        network, onnx = self.network, self.config.out / FLOAT
        if isinstance(slim := self.run.model, SlimmableNetwork):
            slim.load_state_dict(checkpoints.load(self.config.out / BEST))
            widest, largest, self._widths = export_widths(
                slim, self.config.out, export=self._export, evaluate=self.objective.evaluate
            )
            return self.result(widest, largest)
        model = self.build() if network is None else network.module
        model.load_state_dict(checkpoints.load(self.config.out / BEST))
        if network is None:
            return self.result(model, self.export(model, onnx))
        return self.result(model, close_network(network, onnx, self.examples()))

    def _export(self, model: nn.Module, path: Path) -> float:
        if self.network is None:
            return self.export(model, path)
        return close_network(dataclasses.replace(self.network, module=model), path, self.examples())

    @property
    def files(self) -> dict[str, Path]:
        """Files of the finished run, as fields of `TrainingResult`."""
        return {name: self.config.out / file for name, file in (("weights", BEST), ("onnx", FLOAT), ("facts", FACTS))}

    def write_facts(self, architecture: str, facts: dict[str, Any], difference: float) -> Path:
        """Writes ``training.json``: the facts of the kind of model, and those that every run has."""
        first, run, path = self.config.first_model, self.run, self.config.out / FACTS
        content = {
            "architecture": architecture if first is None else f"that of {first.name}",
            **facts,
            **({"widths": self._widths} if self._widths else {}),
            "starts": run.starts,
            "steps": run.step,
            "elapsed_s": round(run.elapsed_s, 1),
            "curve": run.curve,
            "losses": run.losses,
            "onnx_max_difference": difference,
            "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "onnx", "numpy")},
            "python": platform.python_version(),
        }
        write_atomic(path, json.dumps(content, indent=2).encode())
        return path


def _by_plain_name(rate: Callable[[str], float], factor: float) -> Callable[[str], float]:
    return lambda name: factor * rate(plain_name(name))


def two_sizes(channels: int = 1) -> list[Tensor]:
    """Returns inputs of two sizes, for networks with free height and width."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((1, channels, 224, 224), (2, channels, 96, 160))]
