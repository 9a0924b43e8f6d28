"""`DINModel`: train, evaluate and compress a deep interest network in a few calls."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_converters.training import checkpoints
from lineside_converters.training.loop import BEST
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.recommendation.config import RecommenderConfig
from lineside_converters.training.recommendation.daily_update import update_network
from lineside_converters.training.recommendation.interactions import (
    COLUMNS,
    Interactions,
    as_rows,
    collect,
    extended,
    read_interactions,
    write_interactions,
)
from lineside_converters.training.recommendation.objective import (
    KINDS,
    HeldChoices,
    NegativeSampler,
    held_choices,
    padded,
    score_all,
    trained_share,
)
from lineside_converters.training.recommendation.packaging import write_recommender
from lineside_converters.training.recommendation.trainer import (
    FACTS,
    TABLES,
    RecommenderTrainer,
    build_network,
    write_float_tables,
)
from lineside_converters.training.run_folder import check_run_folder
from lineside_converters.training.settings import USED, read_settings, write_settings
from lineside_models.networks.din import InterestNetwork
from lineside_models.recommendation.metrics import auc, hit_rate, ndcg, ranks, user_auc
from lineside_models.recommendation.recommender import Recommendation
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import BadInputFormatError, TrainingError
from lineside_runtime.files import write_atomic
from lineside_runtime.progress import TextListener

DATA = "interactions.csv"
"""Interactions that were given as a data frame or an iterable, in the run's folder."""


@dataclass(frozen=True, slots=True)
class RankingFigures:
    """Accuracy of a ranking against one kind of negatives.

    Attributes:
        gauc: Mean over the users of the share of negatives below the chosen item.
        auc: The same over all pairs of users.
        hit_rate_10: Share of users whose chosen item is among the first ten.
        ndcg_10: See `lineside_models.recommendation.metrics.ndcg`.
    """

    users: int
    gauc: float
    auc: float
    hit_rate_10: float
    ndcg_10: float


class DINModel:
    """A deep interest network: ranks items for a history by attention to what resembles the candidate.

    ::

        model = DINModel(user_features=128, item_features=64, attention_heads=8)
        model.train(interactions, epochs=10)
        print(model.evaluate(later_interactions))
        print(model.recommend(["bearing-6204", "seal-22"], top=3))
        bundle = model.optimize("parts-recommender")
    """

    def __init__(
        self,
        user_features: int = 128,
        item_features: int = 64,
        attention_heads: int = 8,
        *,
        out: Path | str | None = None,
        **settings: Any,
    ) -> None:
        """Checks the settings.

        Args:
            user_features: Length of a user's vector: half attended by the candidate, half the mean of the history.
            item_features: Length of an item's vector: half for its id, half for its attributes.
            out: Folder of the run, with checkpoints and results; a temporary one if not given.
            **settings: Other fields of `RecommenderConfig`, such as ``history_max`` or ``seed``.

        Raises:
            TrainingError: A value is out of range.
            TypeError: There is no such setting.
        """
        folder = None if out is None else Path(out)
        self.config = RecommenderConfig(
            data=(Path(DATA),),
            out=folder or Path(),
            user_features=user_features,
            item_features=item_features,
            attention_heads=attention_heads,
            **settings,
        )
        self._folder = folder
        self._network: InterestNetwork | None = None
        self._data: Interactions | None = None

    @classmethod
    def load(cls, run: Path | str) -> DINModel:
        """Opens the folder of a finished run of ``lineside train recommender``.

        Raises:
            InputNotFoundError: It has no settings, or its data is not where it was.
            TrainingError: The run is not finished.
        """
        folder = Path(run)
        config = read_settings(RecommenderConfig, folder / USED, {"out": folder})
        model = cls(config.user_features, config.item_features, config.attention_heads, out=folder)
        model.config = config
        model._open()
        return model

    @property
    def network(self) -> InterestNetwork:
        """The trained network.

        Raises:
            TrainingError: The model is not trained.
        """
        return self._trained()[0]

    def train(
        self,
        train_data: Any,
        epochs: int = 10,
        *,
        workers: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
        on_progress: OnProgress = lambda _: None,
    ) -> dict[str, float]:
        """Trains, and chooses the weights by each user's last choice.

        Args:
            train_data: A file or folder (see `lineside_converters.training.recommendation.interactions`), a data frame
                with the columns ``user``, ``item`` and any of ``time``, ``label``, ``attributes``, or an iterable of
                such tuples or mappings.
            epochs: Passes over the data at most; training ends when it gets no better.
            workers: Processes that train together on Ray; ``None`` for this one alone.
            resume: Continue from the last checkpoint in the run's folder.
            overwrite: Begin again where a run stands in the folder.
            on_progress: Called after every step.

        Returns:
            GAUC on the choices that were held out, by the kind of the negatives.

        Raises:
            DatasetError: The data is not usable.
            InputError: A run stands in the folder, and neither ``resume`` nor ``overwrite`` is given.
            TrainingError: The loss is not finite, or the checkpoint is not usable.
        """
        folder = self._folder or self._temporary_folder()
        given = {name: getattr(self.config, name) for name in self.config.__struct_fields__}
        given |= {"epochs": epochs, "resume": resume, "overwrite": overwrite, "out": folder}
        given["data"] = (Path(train_data) if isinstance(train_data, (str, Path)) else folder / DATA,)
        self.config = RecommenderConfig(**given)
        check_run_folder(self.config)
        if not isinstance(train_data, (str, Path)):
            _write_rows(train_data, folder)
        if workers is None:
            trainer = RecommenderTrainer(self.config, on_progress)
            trainer.train()
            trainer.finish()
        else:
            from lineside_converters.training.distributed.config import ClusterConfig
            from lineside_converters.training.distributed.driver import train_on_ray

            train_on_ray("recommender", self.config, ClusterConfig(workers=workers), on_progress)
        self._open()
        found: dict[str, float] = json.loads((self.config.out / FACTS).read_bytes())["held_gauc"]
        return found

    def update(self, new_data: Any, epochs: int = 3) -> int:
        """Learns from the newest choices, such as a day's: only the rows of the items in them change.

        The bundle that `optimize` then writes differs from the one before in little else, so that its patch is small.

        Args:
            new_data: As for `train`: choices that came after those of the training.

        Returns:
            Number of new choices.

        Raises:
            TrainingError: The model is not trained.
            DatasetError: The data is not usable.
        """
        network, known = self._trained()
        new = new_data if isinstance(new_data, Interactions) else collect(as_rows(new_data), choices_min=1)
        merged, counts = extended(known, new)
        updated = update_network(network, known, merged, counts, self.config, epochs=epochs)
        folder = self.config.out
        write_interactions(merged, folder / DATA)
        checkpoints.save(folder / BEST, updated.state_dict())
        write_float_tables(updated.embedding, merged, folder)
        self.config = msgspec.structs.replace(self.config, data=(folder / DATA,))
        write_settings(self.config)
        self._network, self._data = updated, merged
        return int(counts.sum())

    def evaluate(
        self, data: Any = None, *, users: int | None = None, negatives: int = 99, seed: int = 0
    ) -> dict[str, RankingFigures]:
        """Ranks each user's last choice among items that the user never chose.

        Args:
            data: As for `train`: with choices that the training did not see as each user's last. ``None`` for the data
                of the training, whose last choices chose the weights.
            users: Number of users at most, drawn by ``seed``.
            negatives: Number of other items for each kind: ``uniform`` and ``popular``.
            seed: Of users and negatives.

        Returns:
            The figures by kind.

        Raises:
            TrainingError: The model is not trained.
            DatasetError: The data is not usable.
        """
        _, scores = self.scores(data, users=users, negatives=negatives, seed=seed)
        groups = np.split(scores[:, 1:], len(KINDS), axis=1)
        return {kind: ranking_figures(scores[:, 0], group) for kind, group in zip(KINDS, groups, strict=True)}

    def scores(
        self, data: Any = None, *, users: int | None = None, negatives: int = 99, seed: int = 0
    ) -> tuple[HeldChoices, npt.NDArray[np.float32]]:
        """Returns what `evaluate` ranks, and the scores ``(users, 1 + 2 negatives)``; arguments as there."""
        network, known = self._trained()
        own = known if data is None else _same_items(known, self._interactions(data))
        sampler = NegativeSampler(trained_share(own))
        held = held_choices(
            own,
            sampler,
            self.config.history_max,
            seed=seed,
            users=len(own.users) if users is None else users,
            count=negatives,
        )
        return held, score_all(network, held.histories, held.candidates)

    def recommend(
        self, user_or_history: str | Sequence[str], candidates: Iterable[str] | None = None, top: int = 10
    ) -> list[Recommendation]:
        """Returns the best candidates, best first; never what is in the history.

        Args:
            user_or_history: A user of the training data, or items, oldest first.
            candidates: Items to rank; ``None`` for all.

        Raises:
            TrainingError: The model is not trained.
            BadInputFormatError: There is no such user.
        """
        network, known = self._trained()
        history = self._history_of(user_or_history, known)
        unknown = len(known.items)
        names = list(dict.fromkeys(known.items if candidates is None else candidates))
        names = [name for name in names if name not in set(history)]
        if not names:
            return []
        rows = known.rows_of(names)
        past = known.rows_of(history)
        scores = score_all(
            network,
            padded(np.where(past < 0, unknown, past), self.config.history_max)[None],
            np.where(rows < 0, unknown, rows)[None],
        )[0]
        order = np.argsort(-scores, kind="stable")[:top]
        return [Recommendation(item=names[place], score=float(scores[place])) for place in order]

    def optimize(
        self,
        out: Path | str = "recommender",
        *,
        name: str = "",
        version: str = "1.0.0",
        previous: Bundle | Path | str | None = None,
        overwrite: bool = False,
        on_progress: TextListener | None = None,
    ) -> Bundle:
        """Writes the bundle for devices.

        Its tables are INT8, its network too if that is no slower and GAUC drops by no more than 0.001.

        Args:
            name: Of the bundle; the folder's if not given.
            previous: The bundle before `update`: its network is taken as it is, so that the patch holds rows only.
            overwrite: Whether a bundle that stands there is replaced.
            on_progress: Told in words what is done.

        Raises:
            TrainingError: The model is not trained.
            InputError: Something stands at ``out``.
        """
        _, data = self._trained()
        folder = self.config.out
        with np.load(folder / TABLES, allow_pickle=False) as stored:
            tables = dict(stored)
        return write_recommender(
            folder / "float.onnx",
            tables,
            held_choices(data, NegativeSampler(trained_share(data)), self.config.history_max, seed=self.config.seed),
            Path(out),
            name=name or Path(out).name,
            version=version,
            history_max=self.config.history_max,
            facts=json.loads((folder / FACTS).read_bytes()),
            previous=open_bundle(previous) if isinstance(previous, (str, Path)) else previous,
            overwrite=overwrite,
            on_progress=on_progress,
        )

    def _temporary_folder(self) -> Path:
        """Makes a folder that is deleted with this object."""
        folder = tempfile.mkdtemp(prefix="lineside-din-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _open(self) -> None:
        """Loads the chosen weights of the run."""
        config = self.config
        self._data = read_interactions(config.data[0])
        network = build_network(config, self._data, trained_share(self._data).popularity() > 0)
        network.load_state_dict(checkpoints.load(config.out / BEST))
        self._network = network.eval()

    def _trained(self) -> tuple[InterestNetwork, Interactions]:
        if self._network is None or self._data is None:
            raise TrainingError("the model is not trained", action="Call train first, or DINModel.load.")
        return self._network, self._data

    def _interactions(self, data: Any) -> Interactions:
        if isinstance(data, Interactions):
            return data
        if isinstance(data, (str, Path)):
            return read_interactions(Path(data))
        return collect(as_rows(data))

    def _history_of(self, given: str | Sequence[str], known: Interactions) -> list[str]:
        if not isinstance(given, str):
            return list(given)
        if given not in known.users:
            raise BadInputFormatError(
                f"no user {given[:80]!r} in the training data",
                expected="a user, or a list of items",
                action="Give the user's items: a user needs no training.",
            )
        return [known.items[row] for row in known.chosen[known.users.index(given)]]


def ranking_figures(chosen: npt.NDArray[np.floating], others: npt.NDArray[np.floating]) -> RankingFigures:
    """Returns the figures of scores ``(users,)`` against ``(users, n)``."""
    rank = ranks(chosen, others)
    return RankingFigures(
        users=len(chosen),
        gauc=float(user_auc(chosen, others).mean()),
        auc=auc(chosen, others),
        hit_rate_10=hit_rate(rank, 10),
        ndcg_10=ndcg(rank, 10),
    )


def _write_rows(data: Any, folder: Path) -> None:
    """Writes interactions that are not in a file into the run's folder."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in as_rows(data):
        values = ["" if value is None else value for value in row]
        if len(values) == len(COLUMNS) and not isinstance(values[4], str):
            values[4] = "|".join(map(str, values[4]))
        writer.writerow(values)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / DATA, text.getvalue().encode())


def _same_items(known: Interactions, given: Interactions) -> Interactions:
    """Returns interactions with the rows of the known items; unknown items keep none."""
    rows = known.rows_of(given.items)
    rows = np.where(rows < 0, len(known.items), rows)
    return Interactions(
        items=known.items,
        attributes=known.attributes,
        attribute_rows=known.attribute_rows,
        users=given.users,
        chosen=tuple(rows[each] for each in given.chosen),
        shown=given.shown,
    )
