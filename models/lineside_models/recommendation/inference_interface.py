"""A recommender over the Open Inference Protocol: texts in, texts and scores out."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from lineside_models.recommendation.recommender import SCORES, Recommender
from lineside_runtime.bundle import Rows
from lineside_runtime.errors import BadInputFormatError
from lineside_runtime.server.model_interface import ModelInterface
from lineside_runtime.serving.types import Prediction
from lineside_runtime.session import Session
from lineside_runtime.tensors import DYNAMIC, Array, TensorSpec

TOP = 10
TOP_MAX = 1000
ITEMS_MAX = 20_000
"""Items of a history, or candidates: each takes some kilobytes while it is ranked."""


class RankingInterface:
    """Ranks items by their ids.

    Attributes:
        inputs: ``history`` and ``candidates`` (ids), ``top`` (one number); see `Recommender.recommend`.
        optional: All of them.
        outputs: ``items`` (ids, best first) and ``scores``.
    """

    inputs = (
        TensorSpec(name="history", shape=(DYNAMIC,), dtype="string"),
        TensorSpec(name="candidates", shape=(DYNAMIC,), dtype="string"),
        TensorSpec(name="top", shape=(1,), dtype="int64"),
    )
    optional = frozenset(("history", "candidates", "top"))
    outputs = (
        TensorSpec(name="items", shape=(DYNAMIC,), dtype="string"),
        TensorSpec(name="scores", shape=(DYNAMIC,)),
    )

    def __init__(self, session: Session) -> None:
        self._session, self._recommender = session, Recommender(session)

    def run(self, inputs: Mapping[str, Array], deadline_s: float) -> Prediction:
        """As `ModelInterface.run`; where no candidate is left to rank, the answer is empty and no device is used."""
        top = int(inputs["top"][0]) if "top" in inputs else TOP
        if not 1 <= top <= TOP_MAX:
            raise BadInputFormatError("input 'top'", expected=f"1 to {TOP_MAX}", actual=top, action="Send another.")
        for name in ("history", "candidates"):
            if len(inputs.get(name, ())) > ITEMS_MAX:
                raise BadInputFormatError(
                    f"input {name!r}",
                    expected=f"at most {ITEMS_MAX} items",
                    actual=len(inputs[name]),
                    action="Send fewer in a call; without candidates, all that the bundle knows are ranked.",
                )
        history = [str(item) for item in inputs.get("history", ())]
        given = inputs.get("candidates")
        wanted = None if given is None else [str(item) for item in given]
        names, rows = self._recommender.candidates(history, wanted)
        if not len(rows):
            return self._nothing()
        tensors = self._recommender.inputs(history, names, rows)
        prediction = self._session.submit(tensors, deadline_s=deadline_s).result()
        scores = prediction.outputs[SCORES][0]
        order = np.argsort(-scores, kind="stable")[:top]
        items = np.empty(len(order), object)
        items[:] = self._recommender.names_of(names, rows, order)
        return msgspec.structs.replace(prediction, outputs={"items": items, "scores": scores[order]})

    def _nothing(self) -> Prediction:
        return Prediction(
            outputs={"items": np.empty(0, object), "scores": np.empty(0, np.float32)},
            requested_device=self._session.requested_device,
            used_device="",
            fell_back=False,
            inference_ms=0.0,
            bundle=self._session.manifest.identity,
        )


def interface_of(session: Session) -> ModelInterface | None:
    """Returns the interface of a recommender's bundle; ``None`` for any other."""
    return RankingInterface(session) if isinstance(session.manifest.preprocess.rows, Rows) else None
