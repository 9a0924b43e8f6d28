"""Training of a detector at one plant, from weights that several plants share.

The learning rate and the batches follow from the step's number over all rounds. The optimiser's state, and tensors that
are not shared, stay at the plant between rounds.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lineside_converters.training import checkpoints
from lineside_converters.training.detection.config import DetectorConfig, channels_of, is_short
from lineside_converters.training.detection.trainer import DetectorTrainer
from lineside_converters.training.initial_weights import FACTS
from lineside_converters.training.loop import BEST, GRADIENT_NORM, rate_factor
from lineside_converters.training.memory_pages import kept_pages
from lineside_converters.training.settings import USED, read_settings
from lineside_models.networks.detector import SurfaceDetector
from lineside_runtime.bundle import Preprocess
from lineside_runtime.errors import ConfigError, InputNotFoundError, TrainingError

LOCAL_NAME = "local.pt"
REPORT_EVERY_S = 10.0

_SETTINGS = (
    "batch",
    "learning_rate",
    "canvas_px",
    "canvas_sizes",
    "framing",
    "balance",
    "pcb_share",
    "simulated_share",
    "architecture",
    "seed",
    "held_share",
)
"""Settings of the first run that all plants train with."""

_STATISTICS = ("running_mean", "running_var")

Weights = dict[str, npt.NDArray[np.float32]]
log = logging.getLogger("lineside.training")


@dataclass(frozen=True, slots=True)
class FirstWeights:
    """Initial weights of a federated training.

    Attributes:
        settings: Of the run that the weights come from, those that all plants train with.
        labels: Types, in the order of the network's outputs.
        weights: All tensors of the network by name.
        shared: Tensors that change in training, in the order of the network.
        norms: Those of them that belong to batch norms.
    """

    settings: dict[str, Any]
    labels: tuple[str, ...]
    weights: Weights
    shared: tuple[str, ...]
    norms: frozenset[str]


def read_first_weights(run: Path) -> FirstWeights:
    """Reads the folder of a finished ``lineside train detector --architecture …``.

    Raises:
        InputNotFoundError: It is no such folder.
        TrainingError: The run did not begin with an architecture, or its files do not belong together.
    """
    for name in (USED, BEST, FACTS):
        if not (run / name).is_file():
            raise InputNotFoundError(
                f"{run} holds no finished run: {name} is missing",
                action="Give the folder that lineside train detector --architecture has written.",
            )
    config = read_settings(DetectorConfig, run / USED, {"out": run})
    labels = tuple(json.loads((run / FACTS).read_bytes())["labels"])
    if config.architecture is None or config.reference or config.random_weights:
        raise TrainingError(
            f"{run} can't be trained by several plants",
            expected="a run with architecture, without reference and without random_weights",
            action="Begin it by: lineside train detector --architecture lite0@96.",
        )
    model = SurfaceDetector(len(labels), channels=channels_of(config.architecture), short=is_short(config.architecture))
    try:
        model.load_state_dict(checkpoints.load(run / BEST))
    except RuntimeError as error:
        raise TrainingError(f"{run / BEST} is of another network", actual=str(error).splitlines()[0]) from error
    shared, norms = _changing(model)
    settings = {name: msgspec.to_builtins(getattr(config, name)) for name in _SETTINGS}
    return FirstWeights(settings, labels, _arrays(model, model.state_dict()), tuple(shared), frozenset(norms))


def _changing(model: nn.Module) -> tuple[list[str], list[str]]:
    """Returns the tensors that change in training, and those of them that belong to batch norms."""
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    changing, of_norms = [], []
    for name in model.state_dict():
        module, _, last = name.rpartition(".")
        if name in trained or (module in norms and last in _STATISTICS):
            changing.append(name)
            if module in norms:
                of_norms.append(name)
    return changing, of_norms


def _arrays(model: nn.Module, names: Iterable[str]) -> Weights:
    state = model.state_dict()
    return {name: state[name].detach().contiguous().numpy().copy() for name in names}


class _PlantDetectorTrainer(DetectorTrainer):
    """A detector's training that begins with weights from elsewhere."""

    def pretrained(self) -> nn.Module:
        """Builds the network; `PlantTrainer` gives it the round's weights."""
        return self.build()


class PlantTrainer:
    """Trains a detector on one plant's frames, a few steps a round.

    Args:
        settings: `FirstWeights.settings`.
        labels: Types, in the order of the network's outputs.
        data: Folders of this plant's annotated images.
        out: Folder for this plant's state and result.
        on_progress: Called with a line now and then.

    Raises:
        ConfigError: The settings are of another release.
        DatasetError: A data folder is not usable.
        TrainingError: The data annotate a type that the network does not know.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        labels: Sequence[str],
        *,
        data: Sequence[Path],
        out: Path,
        threads: int = 2,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._out, self._report = out, on_progress
        given = {**settings, "data": [str(each) for each in data], "out": str(out), "threads": threads}
        # A plant that was killed after its result, before the coordinator had its accuracy, makes the result again.
        given["overwrite"] = (out / LOCAL_NAME).exists()
        try:
            config = msgspec.convert(
                {**given, "labels": list(labels)}, DetectorConfig, dec_hook=lambda _kind, text: Path(text)
            )
        except msgspec.ValidationError as error:
            raise ConfigError(f"settings of a federated training: {error}", action="Update this plant.") from error
        self._trainer = _PlantDetectorTrainer(config, lambda _: None)
        self._kept = self._read_kept()

    @property
    def pictures(self) -> int:
        """How many pictures this plant trains on."""
        return sum(len(domain.train) + len(domain.clean) for domain in self._trainer.data.domains)

    @property
    def labels(self) -> tuple[str, ...]:
        """Types, in the order of the network's outputs."""
        return self._trainer.data.labels

    @property
    def preprocess(self) -> Preprocess:
        """How a picture becomes the network's input."""
        return self._trainer.data.preprocess

    @property
    def network(self) -> nn.Module:
        """The network."""
        return self._trainer.run.model

    def score(self) -> float:
        """Returns the mean of the figures of the network on the held-out share, 0 to 1."""
        return float(np.mean(list(self._trainer.objective.evaluate(self._trainer.run.model).values())))

    def train(
        self,
        weights: Weights,
        shared: Sequence[str],
        *,
        number: int,
        rounds: int,
        steps: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Weights, float] | None:
        """Trains one round.

        Args:
            weights: All tensors of the network; those that are not shared count in this plant's first round only.
            shared: Tensors that are averaged.
            number: Of the round, from 1.
            should_stop: Asked before each step.

        Returns:
            The change of each shared tensor, and the accuracy before it; ``None`` if ``should_stop`` returned true.

        Raises:
            TrainingError: The weights are of another network, or the loss is not finite.
        """
        self.take(weights, shared)
        run, model = self._trainer.run, self._trainer.run.model
        if self._kept is not None:
            peaks = run.peaks()
            run.optimizer.load_state_dict(self._kept["optimizer"])
            for group, peak in zip(run.optimizer.param_groups, peaks, strict=True):
                group["peak"] = peak
        score = self.score()
        first, last = (number - 1) * steps, rounds * steps
        reported_s = time.monotonic()
        objective = self._trainer.objective
        with kept_pages(), closing(objective.batches(first, lambda step: step / last)) as batches:
            for step in range(first, first + steps):
                if should_stop():
                    return None
                loss = self._step(next(batches), rate_factor(step, step / last, warm_up_steps=min(200, last // 10)))
                if time.monotonic() - reported_s >= REPORT_EVERY_S:
                    reported_s = time.monotonic()
                    self._report(f"step {step - first + 1} of {steps}, loss {loss:.3f}")
        change = {name: after - weights[name] for name, after in _arrays(model, shared).items()}
        local = {name: tensor for name, tensor in model.state_dict().items() if name not in set(shared)}
        self._kept = {"optimizer": run.optimizer.state_dict(), "local": local}
        checkpoints.save(self._out / LOCAL_NAME, self._kept)
        return change, score

    def finish(self, weights: Weights, shared: Sequence[str]) -> float:
        """Writes ``float.onnx`` and ``training.json`` of the result, scores calibrated; returns its accuracy."""
        self.take(weights, shared)
        if self._kept is None:  # it has trained no round: what is written here is a plant's own all the same
            checkpoints.save(
                self._out / LOCAL_NAME, {"optimizer": self._trainer.run.optimizer.state_dict(), "local": {}}
            )
        checkpoints.save(self._out / BEST, self._trainer.run.model.state_dict())
        return float(np.mean(list(self._trainer.finish().held_map50.values())))

    def _step(self, batch: Any, factor: float) -> float:
        run = self._trainer.run
        for group in run.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        run.model.train()
        loss = self._trainer.loss(run.model, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value}", action="Begin again with a smaller learning rate.")
        run.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(run.model.parameters(), GRADIENT_NORM)
        run.optimizer.step()
        return value

    def take(self, weights: Weights, shared: Sequence[str]) -> None:
        """Gives the network these weights; of tensors that are not shared it keeps its own, if it has trained.

        Raises:
            TrainingError: The weights are of another network.
        """
        state = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
        if self._kept is not None:
            names = set(shared)
            state |= {name: value for name, value in self._kept["local"].items() if name not in names}
        try:
            self._trainer.run.model.load_state_dict(state)
        except RuntimeError as error:
            raise TrainingError("the round's weights are of another network", actual=str(error)) from error

    def _read_kept(self) -> dict[str, Any] | None:
        path = self._out / LOCAL_NAME
        return checkpoints.load(path) if path.exists() else None
