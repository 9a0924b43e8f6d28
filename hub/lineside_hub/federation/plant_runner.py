"""Rounds of secure aggregation over MQTT, as one of their plants."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_hub.federation import envelopes
from lineside_hub.federation.allowed_sums import AllowedSums
from lineside_hub.federation.pool_config import PoolConfig
from lineside_hub.federation.vector_transfer import INLINE_MAX_BYTES, VectorServer
from lineside_link.aggregation.identity import PlantKey, is_signed, public_hex
from lineside_link.aggregation.messages import (
    FromPlant,
    MaskedVector,
    RevealedShares,
    RoundPlan,
    Survivors,
    read_plan,
    to_plant,
)
from lineside_link.aggregation.participant import Participant
from lineside_link.client.client import LinkClient
from lineside_link.topics import Topics
from lineside_runtime.errors import AggregationError, ConfigError, LinesideError

log = logging.getLogger("lineside.pool")


@dataclasses.dataclass(frozen=True)
class PlantAnswer:
    """What a plant adds to a sum.

    Attributes:
        values: ``(plan.length,)``.
        subjects: What the sum is of, such as days; see `AllowedSums`.
        text: What was asked for, in words.
    """

    values: npt.NDArray[np.int64]
    subjects: tuple[str, ...]
    text: str


@dataclasses.dataclass
class _Part:
    """This plant's part of a round.

    Attributes:
        step: Last one that was answered.
        sent: Answer to that step.
        plants: Of which the sum is, once the coordinator has said so.
    """

    participant: Participant
    answer: PlantAnswer
    step: int
    sent: bytes
    plants: tuple[str, ...] = ()


class PlantRunner:
    """Answers the rounds of a pool for one plant.

    Args:
        key: Whose public part the pool names.
        answer: Called in the connection's thread with a plan that the coordinator signed. It returns the plant's
            numbers, or ``None`` while it has none yet, or raises `LinesideError` to refuse.
        uploads: Folder for long vectors.
        on_progress: Called with a line for what was asked, answered or refused.

    Raises:
        ConfigError: The pool has another key for this plant.
    """

    def __init__(
        self,
        pool: PoolConfig,
        plant: str,
        key: PlantKey,
        answer: Callable[[RoundPlan], PlantAnswer | None],
        *,
        sums: AllowedSums,
        uploads: Path,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        if pool.plants.get(plant) != public_hex(key):
            known = pool.plants.get(plant)
            raise ConfigError(
                f"the key of {plant!r}",
                expected=f"the one whose public part is {known}" if known else f"one of {', '.join(pool.plants)}",
                actual=f"that of {public_hex(key)}" if known else "a plant that pool.toml does not name",
                action="Give this plant's name and its own key, or name the public part of this key in pool.toml.",
            )
        self._pool, self._plant, self._key = pool, plant, key
        self._answer, self._sums, self._uploads = answer, sums, uploads
        self._say = on_progress
        self._part: _Part | None = None
        self._server: VectorServer | None = None
        self._refused = ""
        self._rounds = 0
        self._done = threading.Condition()
        self.topics = Topics(pool.link.site)
        self.client = LinkClient(pool.link, f"pool-{plant}")
        self.client.subscribe(self.topics.pool_plan(plant), self._guarded(self._on_plan))

    def start(self) -> None:
        """Connects in the background.

        Raises:
            ConfigError: A certificate, key or password file cannot be read.
        """
        self.client.start()

    @property
    def rounds(self) -> int:
        """How many rounds were answered to the end."""
        with self._done:
            return self._rounds

    def wait(self, rounds: int, timeout_s: float | None = None) -> bool:
        """Waits until so many rounds were answered to the end; returns whether they were."""
        with self._done:
            return self._done.wait_for(lambda: self._rounds >= rounds, timeout_s)

    def close(self) -> None:
        """Disconnects; a round that is under way goes on without this plant."""
        self.client.close()
        if self._server is not None:
            self._server.close()

    def _guarded(self, handler: Callable[[bytes], None]) -> Callable[[str, bytes], None]:
        def handle(topic: str, data: bytes) -> None:
            try:
                handler(data)
            except (LinesideError, msgspec.DecodeError) as error:
                if str(error) != self._refused:  # once, however often it is sent again
                    self._refused = str(error)
                    self._say(f"refused: {error}")
                    log.warning("refused: %s", error)

        return handle

    def _on_plan(self, data: bytes) -> None:
        signed = envelopes.signed_plan.decode(data)
        if not is_signed(self._pool.coordinator, signed.signature, signed.plan):
            raise AggregationError(
                "a plan that the pool's coordinator did not sign",
                action="Nothing was sent. Compare coordinator in pool.toml with the coordinator's public key.",
            )
        if self._takes_other(signed.plan):
            return
        plan = read_plan(signed.plan)
        if self._part is not None and self._part.participant.plan.round == plan.round:
            if self._part.step == 1:
                self._send(self._part)
            return
        if plan.plants != self._pool.plants:
            raise AggregationError("a plan with other plants or keys than pool.toml", action="Compare the two files.")
        answer = self._answer(plan)
        if answer is None:
            return
        self._refused = ""
        participant = Participant(plan, self._plant, self._key, answer.values)
        if self._part is not None:
            self.client.unsubscribe(self.topics.pool_message(self._part.participant.plan.round, self._plant))
        self._part = _Part(participant, answer, 1, envelopes.enveloped(1, participant.join()))
        self.client.subscribe(self.topics.pool_message(plan.round, self._plant), self._guarded(self._on_message))
        self._send(self._part)
        self._say(f"round {plan.round}: asked for {answer.text}")

    def _takes_other(self, plan: bytes) -> bool:
        """Takes a signed plan of another kind than a sum; returns whether it was one. Overridden."""
        return False

    def _on_message(self, data: bytes) -> None:
        found, part = envelopes.envelope.decode(data), self._part
        if part is None or found.step not in (part.step, part.step + 1):
            return
        if found.step == part.step:
            self._send(part)
            return
        message = to_plant.decode(found.body)
        if isinstance(message, Survivors):
            self._sums.check(part.answer.subjects, message.plants)
            part.plants = message.plants
        answer = part.participant.receive(message)
        if isinstance(answer, RevealedShares):
            self._sums.add(part.answer.subjects, part.participant.plan.round, part.plants)
        part.step, part.sent = found.step, self._enveloped(found.step, answer)
        self._send(part)
        if part.participant.done:
            self._say(f"round {part.participant.plan.round}: answered")
            with self._done:
                self._rounds += 1
                self._done.notify_all()

    def _enveloped(self, step: int, message: FromPlant) -> bytes:
        if not isinstance(message, MaskedVector) or len(message.data) <= INLINE_MAX_BYTES:
            return envelopes.enveloped(step, message)
        if self._server is None:
            self._server = VectorServer(self.client, self.topics, self._plant, self._uploads)
        return msgspec.json.encode(envelopes.Envelope(step, b"", self._server.offer(message.data)))

    def _send(self, part: _Part) -> None:
        self.client.publish(self.topics.pool_answer(part.participant.plan.round, self._plant), part.sent)
