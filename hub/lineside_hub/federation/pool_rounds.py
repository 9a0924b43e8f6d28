"""Rounds of a pool over MQTT: the coordinator starts one, plants answer.

The broker may lose messages when it is killed, so that the coordinator sends what is not answered again, and a plant
answers again with the same message. A killed plant has dropped out of the round; a killed coordinator starts another.

A coordinator that asks twice, once with a plant and once without, could subtract. So a plant allows sums of a day with
the same plants only: `AnsweredDays` notes days and plants before the last message of a round, which allows the sum.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from lineside_hub.config import HubConfig
from lineside_hub.federation.pool_config import PoolConfig
from lineside_hub.federation.quality_counts import (
    Ints,
    QualityQuestion,
    QualityReport,
    count_quality,
    quality_report,
    read_question,
)
from lineside_link.aggregation.coordinator import STEPS, Coordinator
from lineside_link.aggregation.identity import PlantKey, is_signed, public_hex
from lineside_link.aggregation.messages import (
    FromPlant,
    RevealedShares,
    RoundPlan,
    Survivors,
    from_plant,
    least_threshold,
    read_plan,
    to_plant,
)
from lineside_link.aggregation.participant import Participant
from lineside_link.client.client import LinkClient
from lineside_link.topics import Topics
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import AggregationError, ConfigError, LinesideError
from lineside_runtime.files import write_atomic

AGAIN_S = 2.0
"""Pause before what was not answered is sent again."""

CONNECT_S = 30.0
ANSWERED_NAME = "pool-answered.json"

log = logging.getLogger("lineside.pool")


class SignedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plan of a round as the coordinator sends it.

    Attributes:
        plan: JSON of a `RoundPlan`.
        signature: By the coordinator, of ``plan``.
    """

    plan: bytes
    signature: bytes


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of a step.

    Attributes:
        step: From 1; an answer has the step of the message that it answers.
        body: JSON of the message.
    """

    step: int
    body: bytes


_SIGNED_PLAN, _ENVELOPE = JsonDecoder(SignedPlan), JsonDecoder(Envelope)


class AnsweredDay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sum that a plant has allowed.

    Attributes:
        round: In which round.
        plants: Of which plants.
    """

    round: str
    plants: tuple[str, ...]


class AnsweredDays:
    """The days of which a plant has allowed a sum, kept in a file of its hub.

    Args:
        folder: Of the hub.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ANSWERED_NAME
        data = self._path.read_bytes() if self._path.exists() else b"{}"
        try:
            self._days: dict[str, AnsweredDay] = JsonDecoder(dict[str, AnsweredDay]).decode(data)
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"{self._path} can't be read: {error}",
                action="Restore it: without it a coordinator could ask for the same days again, and subtract.",
            ) from error

    def check(self, question: QualityQuestion, plants: tuple[str, ...]) -> None:
        """Checks that no day was answered before with other plants.

        Raises:
            AggregationError: One was.
        """
        for day in _days(question):
            before = self._days.get(day)
            if before is not None and set(before.plants) != set(plants):
                raise AggregationError(
                    f"{day} was answered in round {before.round} with other plants: two sums would show one plant's",
                    expected=", ".join(before.plants),
                    actual=", ".join(plants),
                    action="Ask for other days, or again when the same plants take part.",
                )

    def add(self, question: QualityQuestion, round_name: str, plants: tuple[str, ...]) -> None:
        """Notes the days, on the disk, before the sum is allowed."""
        self._days |= dict.fromkeys(_days(question), AnsweredDay(round_name, plants))
        write_atomic(self._path, msgspec.json.format(msgspec.json.encode(self._days), indent=1), mode=0o600)


def _days(question: QualityQuestion) -> list[str]:
    return [(question.since + datetime.timedelta(days=number)).isoformat() for number in range(question.days)]


def plan_round(pool: PoolConfig, question: QualityQuestion) -> RoundPlan:
    """Returns the plan of a new round.

    Raises:
        ConfigError: The numbers of so many plants would not fit.
    """
    try:
        return RoundPlan(
            round=secrets.token_hex(16),
            question=question.text,
            length=question.length,
            value_max=pool.parts_max,
            plants=pool.plants,
            threshold=least_threshold(len(pool.plants)),
        )
    except ValueError as error:
        raise ConfigError(f"the round can't be planned: {error}") from error


def run_round(
    pool: PoolConfig,
    key: PlantKey,
    question: QualityQuestion,
    *,
    step_timeout_s: float = 60.0,
    on_progress: Callable[[str], None] = lambda text: None,
) -> QualityReport:
    """Runs one round as the coordinator.

    Args:
        key: Whose public part is ``pool.coordinator``.
        step_timeout_s: So long each step waits for plants that do not answer.
        on_progress: Called with a line for each step.

    Raises:
        ConfigError: The key is another one.
        BrokerError: The broker cannot be reached.
        AggregationError: Too few plants answered, or one sent what it may not.
    """
    if public_hex(key) != pool.coordinator:
        raise ConfigError("the coordinator's key", expected=pool.coordinator, actual=public_hex(key))
    plan = plan_round(pool, question)
    coordinator = Coordinator(plan)
    answers: queue.Queue[tuple[str, bytes]] = queue.Queue()
    topics = Topics(pool.link.site)
    client = LinkClient(pool.link, f"pool-coordinator-{plan.round[:8]}")
    client.subscribe(
        topics.pool_answer(plan.round, "+"), lambda topic, data: answers.put((topic.rpartition("/")[2], data))
    )
    client.start()
    try:
        _connect(client)
        body = msgspec.json.encode(plan)
        sent = {name: msgspec.json.encode(SignedPlan(body, key.sign(body))) for name in plan.plants}
        for number, step in enumerate(STEPS, start=1):
            to = {
                name: (topics.pool_plan(name) if number == 1 else topics.pool_message(plan.round, name), data)
                for name, data in sent.items()
            }
            _gather(client, coordinator, answers, to, number, step_timeout_s)
            on_progress(f"{step}: {len(to) - len(coordinator.expected)} of {len(plan.plants)} plants")
            messages = coordinator.advance()
            sent = {
                name: msgspec.json.encode(Envelope(number + 1, msgspec.json.encode(message)))
                for name, message in messages.items()
            }
    finally:
        client.close()
    for plant, reason in coordinator.refused.items():
        on_progress(f"{plant}: {reason}")
    return quality_report(question, coordinator.sum, round_name=plan.round, plants=coordinator.survivors)


def _connect(client: LinkClient) -> None:
    if not client.wait_connected(CONNECT_S):
        raise client.last_error or AggregationError("the pool's broker cannot be reached")


def _gather(
    client: LinkClient,
    coordinator: Coordinator,
    answers: queue.Queue[tuple[str, bytes]],
    to: dict[str, tuple[str, bytes]],
    number: int,
    timeout_s: float,
) -> None:
    """Sends the messages of a step until all plants have answered, or the time is over."""
    deadline, again = time.monotonic() + timeout_s, 0.0
    while coordinator.expected and (now := time.monotonic()) < deadline:
        if now >= again:
            for name in coordinator.expected & to.keys():
                client.publish(*to[name])
            again = now + AGAIN_S
        try:
            plant, data = answers.get(timeout=max(0.0, min(again, deadline) - now))
        except queue.Empty:
            continue
        try:
            envelope = _ENVELOPE.decode(data)
            message: FromPlant = from_plant.decode(envelope.body)
        except msgspec.DecodeError as error:
            coordinator.refused[plant] = f"a message that can't be read: {error}"
            continue
        if envelope.step == number:
            coordinator.receive(plant, message)


@dataclasses.dataclass
class _Part:
    """This plant's part of a round.

    Attributes:
        step: Last one that was answered.
        answer: To that step.
        plants: Of which the sum is, once the coordinator has said so.
    """

    participant: Participant
    question: QualityQuestion
    step: int
    answer: bytes
    plants: tuple[str, ...] = ()


class PlantService:
    """Answers the rounds of a pool for one plant.

    Args:
        pool: The pool.
        hub: The plant's hub, whose results are counted.
        plant: Name of the plant.
        key: Whose public part the pool names.
        on_progress: Called with a line for what was asked, answered or refused.
    """

    def __init__(
        self,
        pool: PoolConfig,
        hub: HubConfig,
        plant: str,
        key: PlantKey,
        *,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        if pool.plants.get(plant) != public_hex(key):
            raise ConfigError(f"the pool's key of {plant!r}", expected=public_hex(key), actual=pool.plants.get(plant))
        self._pool, self._hub, self._plant, self._key = pool, hub, plant, key
        self._say = on_progress
        self._answered = AnsweredDays(Path(hub.folder))
        self._topics = Topics(pool.link.site)
        self._part: _Part | None = None
        self._refused = ""
        self._rounds = 0
        self._done = threading.Condition()
        self._client = LinkClient(pool.link, f"pool-{plant}")
        self._client.subscribe(self._topics.pool_plan(plant), self._guarded(self._on_plan))

    def start(self) -> None:
        """Connects in the background.

        Raises:
            ConfigError: A certificate, key or password file cannot be read.
        """
        self._client.start()

    def wait(self, rounds: int, timeout_s: float | None = None) -> bool:
        """Waits until so many rounds were answered to the end; returns whether they were."""
        with self._done:
            return self._done.wait_for(lambda: self._rounds >= rounds, timeout_s)

    def close(self) -> None:
        """Disconnects; a round that is under way goes on without this plant."""
        self._client.close()

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
        signed = _SIGNED_PLAN.decode(data)
        if not is_signed(self._pool.coordinator, signed.signature, signed.plan):
            raise AggregationError("a plan that the pool's coordinator did not sign")
        plan = read_plan(signed.plan)
        if self._part is not None and self._part.participant.plan.round == plan.round:
            if self._part.step == 1:
                self._send(self._part)
            return
        self._refused = ""
        question = self._accepted(plan)
        participant = Participant(plan, self._plant, self._key, self._counted(question))
        if self._part is not None:
            self._client.unsubscribe(self._topics.pool_message(self._part.participant.plan.round, self._plant))
        self._part = _Part(participant, question, 1, _enveloped(1, participant.join()))
        self._client.subscribe(self._topics.pool_message(plan.round, self._plant), self._guarded(self._on_message))
        self._send(self._part)
        self._say(f"round {plan.round}: asked for {question.days} days from {question.since}")

    def _accepted(self, plan: RoundPlan) -> QualityQuestion:
        if plan.plants != self._pool.plants:
            raise AggregationError("a plan with other plants or keys than pool.toml", action="Compare the two files.")
        question = read_question(plan.question)
        if question.types != self._pool.types or plan.length != question.length:
            raise AggregationError("a plan with other types than pool.toml", action="Compare the two files.")
        if question.until > datetime.datetime.now(datetime.timezone.utc).date():
            raise ConfigError("days of a question", expected="days that are over (UTC)", actual=str(question.until))
        return question

    def _counted(self, question: QualityQuestion) -> Ints:
        return np.asarray(count_quality(self._hub, question), np.int64)

    def _on_message(self, data: bytes) -> None:
        envelope, part = _ENVELOPE.decode(data), self._part
        if part is None or envelope.step not in (part.step, part.step + 1):
            return
        if envelope.step == part.step:
            self._send(part)
            return
        message = to_plant.decode(envelope.body)
        if isinstance(message, Survivors):
            self._answered.check(part.question, message.plants)
            part.plants = message.plants
        answer = part.participant.receive(message)
        if isinstance(answer, RevealedShares):
            self._answered.add(part.question, part.participant.plan.round, part.plants)
        part.step, part.answer = envelope.step, _enveloped(envelope.step, answer)
        self._send(part)
        if part.participant.done:
            self._say(f"round {part.participant.plan.round}: answered")
            with self._done:
                self._rounds += 1
                self._done.notify_all()

    def _send(self, part: _Part) -> None:
        self._client.publish(self._topics.pool_answer(part.participant.plan.round, self._plant), part.answer)


def _enveloped(step: int, message: FromPlant) -> bytes:
    return msgspec.json.encode(Envelope(step, msgspec.json.encode(message)))
