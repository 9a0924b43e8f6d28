"""Federated training of a detector: the hub's rounds, and the training of a plant."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lineside_converters.training.plant_training import PlantTrainer, read_first_weights
from lineside_hub.federation.differential_privacy import PrivacySettings
from lineside_hub.federation.training_coordinator import create_federation
from lineside_hub.federation.training_plant import LocalUpdate
from lineside_hub.federation.training_round import FederationSettings, TrainingRound, Weights
from lineside_models.datasets import load_dataset
from lineside_runtime.errors import ConfigError
from lineside_runtime.wording import counted

RESULT_NAME = "result"
"""Folder of the trained model at a plant."""


def begin_federation(
    run: Path,
    out: Path,
    *,
    rounds: int,
    steps: int,
    local_norms: bool = False,
    outer_rate: float = 1.0,
    outer_momentum: float = 0.0,
    privacy: PrivacySettings | None = None,
) -> FederationSettings:
    """Makes a coordinator's folder from a finished training run.

    Args:
        run: Folder of ``lineside train detector --architecture …``.
        out: A new folder; ``root.json`` in it goes to the plants.
        steps: Steps that a plant trains in a round.
        local_norms: Whether batch norms stay at each plant (FedBN, arXiv:2102.07623).
        outer_rate: Factor on the mean change.
        outer_momentum: Nesterov momentum of the mean change.
        privacy: Bound and noise of a plant's change; ``None`` without differential privacy.

    Raises:
        ConfigError: A setting is out of its range; nothing is made.
    """
    first = read_first_weights(run)
    settings = FederationSettings(
        settings=first.settings,
        labels=first.labels,
        shared=tuple(name for name in first.shared if not (local_norms and name in first.norms)),
        rounds=rounds,
        steps=steps,
        outer_rate=outer_rate,
        outer_momentum=outer_momentum,
        privacy=privacy,
    )
    try:  # a struct checks its ranges only when it is read
        msgspec.convert(msgspec.to_builtins(settings), FederationSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of the training: {error}", action="Correct the option of this name.") from error
    create_federation(out, settings, first.weights)
    return settings


class DetectorTraining:
    """A plant's part of the training, as `lineside_hub.federation.training_plant.LocalTraining`.

    Args:
        plant: Name of the plant, from which its seed follows: with the same order and the same distortions of pictures
            at every plant, their noise would not average out.
        data: Folders of this plant's annotated images.
        folder: For the plant's state and result.
        on_progress: Called with a line now and then.

    Raises:
        DatasetError: A data folder is not usable. A plant waits for its first round for hours before it reads it.
    """

    def __init__(
        self, plant: str, data: Sequence[Path], folder: Path, *, threads: int, on_progress: Callable[[str], None]
    ) -> None:
        for each in data:
            load_dataset(each, "train")
        self._plant, self._data, self._folder = plant, data, folder
        self._threads, self._say = threads, on_progress
        self._trainer: PlantTrainer | None = None

    def train(self, content: TrainingRound, weights: Weights, should_stop: Callable[[], bool]) -> LocalUpdate | None:
        """Trains the round's steps."""
        settings = content.federation
        found = self._trainer_of(settings).train(
            weights,
            settings.shared,
            number=content.number,
            rounds=settings.rounds,
            steps=settings.steps,
            should_stop=should_stop,
        )
        return None if found is None else LocalUpdate(*found)

    def finish(self, content: TrainingRound, weights: Weights) -> float | None:
        """Writes the run folder of the result: ``float.onnx``, ``training.json``, ``config.toml``."""
        score = self._trainer_of(content.federation).finish(weights, content.federation.shared)
        result = self._folder / RESULT_NAME
        data = " ".join(f"--data {each}" for each in self._data)
        self._say(f"wrote {result}; make a bundle: lineside bundle from-run {result} BUNDLE --name NAME {data}")
        return score

    def _trainer_of(self, settings: FederationSettings) -> PlantTrainer:
        if self._trainer is None:
            self._trainer = PlantTrainer(
                {**settings.settings, "seed": settings.settings["seed"] + zlib.crc32(self._plant.encode())},
                settings.labels,
                data=self._data,
                out=self._folder / RESULT_NAME,
                threads=self._threads,
                on_progress=self._say,
            )
            self._say(f"{counted(self._trainer.pictures, 'picture')} to train on")
        return self._trainer
