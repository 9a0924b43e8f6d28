"""Rank items for a history with a bundle, on the device: numpy and `Session`, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.recommendation.exploration import draw_order
from lineside_models.recommendation.tables import ItemTables, open_tables
from lineside_runtime.bundle import Bundle, Rows
from lineside_runtime.config import Config
from lineside_runtime.errors import BadInputFormatError, ConfigError, UnsupportedModelError
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

HISTORY, CANDIDATES, BIAS, SCORES = "history", "candidates", "bias", "scores"
"""Names of the network's inputs and of its output."""


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """One recommended item.

    Attributes:
        score: Higher is better; comparable within one answer only.
        propensity: Probability with which exploration put this item at this place, given the places before; 1 without.
    """

    item: str
    score: float
    propensity: float = 1.0


class Recommender:
    """Recommends items by a user's history.

    ::

        with Recommender("parts-recommender") as recommender:
            for found in recommender.recommend(["bearing-6204", "seal-22"], top=3):
                print(found.item, found.score)

    A user needs no training: the history is the user. Items that the bundle does not know are ranked by their
    attributes.
    """

    def __init__(
        self, bundle: Session | Bundle | Path | str, config: Config | None = None, *, seed: int | None = None
    ) -> None:
        """Opens the bundle.

        Args:
            bundle: A recommender's bundle: its folder or ``.lsb`` file, or a session that has it loaded.
            config: Engines, threads and result cache.
            seed: Of exploration; ``None`` for another one at each start.

        Raises:
            UnsupportedModelError: The bundle is no recommender's.
            LinesideError: As `Session`.
        """
        self.session = bundle if isinstance(bundle, Session) else Session(bundle, config)
        rows = self.session.manifest.preprocess.rows
        if not isinstance(rows, Rows):
            identity = self.session.manifest.identity
            self.session.close()
            raise UnsupportedModelError(
                f"{identity} is no recommender's bundle",
                expected="tables of items (preprocess.rows)",
                action="Give a bundle of `lineside train recommender`.",
            )
        self.history_max = rows.history_max
        self.tables: ItemTables = open_tables(self.session.bundle, rows)
        self._rng = np.random.default_rng(seed)

    def recommend(
        self,
        history: Sequence[str],
        candidates: Iterable[str] | None = None,
        top: int = 10,
        *,
        attributes: Mapping[str, Sequence[str]] | None = None,
        repeat: bool = False,
        exploration: float = 0.0,
    ) -> list[Recommendation]:
        """Returns the best candidates, best first.

        Args:
            history: Items that the user chose, oldest first; may be empty. The last `history_max` count.
            candidates: Items to rank; ``None`` for all that the bundle knows. One given twice counts once.
            attributes: Of items that the bundle does not know.
            repeat: Whether items of the history are recommended again.
            exploration: Temperature of the draw; 0 for the best ones. See `exploration.draw_order`.

        Raises:
            BadInputFormatError: An id is no text.
            ConfigError: ``top`` or ``exploration`` is out of range.
            DeviceError: No device could rank them.
        """
        if top < 1 or not 0 <= exploration < float("inf"):
            raise ConfigError(
                "top or exploration",
                expected="top from 1, exploration from 0",
                actual=f"{top}, {exploration}",
                action="Give other values.",
            )
        names, rows = self.candidates(history, candidates, repeat=repeat)
        if not len(rows):
            return []
        scores = self.score(history, names, rows=rows, attributes=attributes)
        if exploration:
            order, propensity = draw_order(scores, top, exploration, self._rng)
        else:
            order = np.argsort(-scores, kind="stable")[:top]
            propensity = np.ones(len(order))
        items = self.names_of(names, rows, order)
        return [
            Recommendation(item=item, score=float(scores[place]), propensity=float(chance))
            for item, place, chance in zip(items, order, propensity, strict=True)
        ]

    def names_of(
        self, names: Sequence[str] | None, rows: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
    ) -> list[str]:
        """Returns the ids at some places of what `candidates` returned."""
        if names is not None:
            return [names[place] for place in places.tolist()]
        return [item.decode() for item in self.tables.ids[rows[places]].tolist()]

    def score(
        self,
        history: Sequence[str],
        candidates: Sequence[str] | None,
        *,
        rows: npt.NDArray[np.int64] | None = None,
        attributes: Mapping[str, Sequence[str]] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Returns the score of each candidate ``(n,)``, higher is better.

        Args:
            history: As for `recommend`.
            candidates: Ids; ``None`` where ``rows`` are all that is known.
            rows: Rows of the candidates, where the caller has them.
            attributes: As for `recommend`.

        Raises:
            BadInputFormatError: An id is no text.
            DeviceError: No device could rank them.
        """
        if isinstance(history, str):
            raise BadInputFormatError(
                "history is one text", expected="a list of ids", actual=history[:80], action="Give a list."
            )
        if rows is None:
            rows = self.tables.rows_of(candidates or ())
        inputs = self._inputs(history, candidates, rows, attributes or {})
        scores: npt.NDArray[np.float32] = self.session.predict(inputs)[SCORES][0]
        return scores

    def inputs(
        self,
        history: Sequence[str],
        candidates: Sequence[str] | None,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> dict[str, Array]:
        """Returns the network's inputs; arguments as for `score`."""
        if rows is None:
            rows = self.tables.rows_of(candidates or ())
        return self._inputs(history, candidates, rows, {})

    def _inputs(
        self,
        history: Sequence[str],
        candidates: Sequence[str] | None,
        rows: npt.NDArray[np.int64],
        attributes: Mapping[str, Sequence[str]],
    ) -> dict[str, Array]:
        past = list(history)[-self.history_max :]
        past_rows = self.tables.rows_of(past) if past else np.array([self.tables.empty])
        unknown = self.tables.unknown
        before, _ = self.tables.vectors(past_rows, _described(past, past_rows == unknown, attributes))
        vectors, bias = self.tables.vectors(rows, _described(candidates, rows == unknown, attributes))
        return {HISTORY: before[None], CANDIDATES: vectors[None], BIAS: bias[None]}

    def candidates(
        self, history: Sequence[str], candidates: Iterable[str] | None, *, repeat: bool = False
    ) -> tuple[list[str] | None, npt.NDArray[np.int64]]:
        """Returns the names and rows to rank; no names for all that are known."""
        if candidates is None:
            rows = np.arange(self.tables.count)
            return None, rows if repeat else np.setdiff1d(rows, self.tables.rows_of(list(history)))
        chosen = set() if repeat else set(history)
        names = [name for name in dict.fromkeys(candidates) if name not in chosen]
        return names, self.tables.rows_of(names)

    def close(self) -> None:
        """Gives the devices back."""
        self.session.close()

    def __enter__(self) -> Recommender:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()


def _described(
    names: Sequence[str] | None, unknown: npt.NDArray[np.bool_], attributes: Mapping[str, Sequence[str]]
) -> dict[int, Sequence[str]]:
    """Returns the given attributes of the unknown items, by their place."""
    if names is None or not attributes:
        return {}
    places = np.flatnonzero(unknown).tolist()
    return {place: attributes[names[place]] for place in places if names[place] in attributes}
