"""Recommendations for programs on the same machine: a socket in the state folder.

One JSON object a line each way; a connection may bring many::

    {"do": "recommend", "user": "u1", "history": ["a", "b"], "top": 3}
        ->  {"id": 7, "items": [{"item": "c", "score": 1.2, "propensity": 1.0}, …], "bundle": "parts@1.0.0"}
    {"do": "chose", "user": "u1", "item": "c", "id": 7}
        ->  {"done": true}

Without ``history`` the user's last choices on this device count. Who may write to the socket is the agent's user and
group.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from lineside_agent.config import RecommendConfig
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.recommendation.interaction_log import InteractionLog
from lineside_agent.service.line_socket import LineServer, ask_line
from lineside_models.recommendation.tables import ID_MAX_BYTES, is_id
from lineside_runtime.errors import RequestError

NAME = "recommend.sock"

LINE_MAX = 1 << 20
ITEMS_MAX = 20_000

Id = Annotated[str, msgspec.Meta(max_length=256)]
Items = Annotated[tuple[Id, ...], msgspec.Meta(max_length=ITEMS_MAX)]


class RecommendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Request of a program.

    Attributes:
        user: For whom; empty for nobody in particular, whose choices make no history.
        history: Items, oldest first; ``None`` for what the user chose on this device.
        candidates: Items to rank; ``None`` for all of the bundle.
        attributes: Of items that the bundle does not know.
        top: Items at most.
        repeat: Whether items of the history are recommended again.
        id: Of the answer that the choice followed; 0 for none.
    """

    do: Literal["recommend", "chose"] = "recommend"
    user: Id = ""
    history: Items | None = None
    candidates: Items | None = None
    attributes: dict[Id, Items] = {}
    top: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    repeat: bool = False
    item: Id = ""
    id: Annotated[int, msgspec.Meta(ge=0)] = 0


class RecommendationService:
    """Answers by the active bundle, and keeps the interactions.

    Attributes:
        log: What was shown and chosen; `close` closes it.
        sent: What the hub gets of it; ``None`` for nothing.
    """

    def __init__(self, folder: Path, config: RecommendConfig, active: ActiveBundle, stop: threading.Event) -> None:
        self._config, self._active = config, active
        self.log = InteractionLog(folder, answers_max=config.answers_max)
        self.sent = self.log if config.send_interactions else None
        self._server = LineServer(folder / NAME, RecommendRequest, self.ask, line_max=LINE_MAX)
        self._stop = stop
        self._ranking = threading.Lock()

    def run(self) -> None:
        """Serves in the caller's thread until stopped."""
        self._server.run_until(self._stop)

    def close(self) -> None:
        """Closes the log, after `run` and the outbox that reads it have ended."""
        self.log.close()

    def ask(self, request: RecommendRequest) -> dict[str, Any]:
        """Carries out a request.

        Raises:
            RequestError: The active bundle is no recommender's, the choice names no answer, or an item that would be
                logged has no id that training reads.
            LinesideError: As `Recommender.recommend`.
        """
        for item in (request.item,) if request.do == "chose" else request.candidates or ():
            if not is_id(item):
                raise RequestError(
                    "the id of an item",
                    expected=f"1 to {ID_MAX_BYTES} bytes of text",
                    actual=repr(item[:80]),
                    action="Send the id that the training data has.",
                )
        if request.do == "chose":
            self.log.chose(request.user, request.item, request.id)
            return {"done": True}
        with self._active.use() as loaded:
            if loaded is None or loaded.recommender is None:
                raise RequestError(
                    "no recommender runs here",
                    actual="no bundle" if loaded is None else loaded.bundle.manifest.identity,
                    action="Push a recommender's bundle to this device.",
                )
            recommender, bundle = loaded.recommender, loaded.bundle.manifest.identity
            history = request.history
            if history is None:
                history = tuple(self.log.history(request.user, recommender.history_max)) if request.user else ()
            with self._ranking:
                found = recommender.recommend(
                    history,
                    request.candidates,
                    request.top,
                    attributes=request.attributes,
                    repeat=request.repeat,
                    exploration=self._config.exploration,
                )
        return {"id": self.log.shown(request.user, bundle, found), "items": found, "bundle": bundle}


def ask(folder: Path, request: RecommendRequest) -> dict[str, Any]:
    """Sends a request to the agent with this state folder: the other end of the socket.

    Raises:
        InputNotFoundError: No agent listens there.
        RequestError: It can't do that, or has ended meanwhile.
    """
    action = "Start the agent with `lineside agent run`; its configuration needs a [recommend] table."
    return ask_line(folder / NAME, msgspec.json.encode(request), action=action)
