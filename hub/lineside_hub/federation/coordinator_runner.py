"""Rounds of secure aggregation over MQTT, as their coordinator.

The broker may lose messages when it is killed, so that the coordinator sends what is not answered again, and a plant
answers again with the same message. A killed plant has dropped out of the round. A killed coordinator goes on with the
round if it keeps a journal, and starts another one otherwise.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from lineside_hub.federation import envelopes
from lineside_hub.federation.pool_config import PoolConfig
from lineside_hub.federation.session_journal import SessionJournal
from lineside_hub.federation.vector_transfer import fetch_vector, upload_name
from lineside_link.aggregation.coordinator import STEPS, Coordinator
from lineside_link.aggregation.identity import PlantKey, public_hex
from lineside_link.aggregation.messages import FromPlant, MaskedVector, RoundPlan, ToPlant, from_plant
from lineside_link.client.client import LinkClient
from lineside_link.topics import Topics
from lineside_link.transfer.pull_window import FetchStopped
from lineside_link.transfer.repository_client import RepoClient
from lineside_runtime.errors import AggregationError, ConfigError, LinesideError

AGAIN_S = 2.0
"""Pause before what was not answered is sent again."""

WAIT_SHOWN_S = 5.0
"""From so long a wait on, each answer is reported with the plants that are still to come."""

CONNECT_S = 30.0
FETCHES_MAX = 8
"""Plants whose vectors are fetched at the same time."""


def connect(client: LinkClient) -> None:
    """Connects to the pool's broker.

    Raises:
        BrokerError: It cannot be reached.
    """
    client.start()
    if not client.wait_connected(CONNECT_S):
        raise client.last_error or AggregationError("the pool's broker cannot be reached")


class CoordinatorRunner:
    """Connection of a pool's coordinator to the broker; use it as a context.

    Args:
        key: Whose public part is ``pool.coordinator``.

    Attributes:
        answers: Round, plant and content of each answer that has arrived.

    Raises:
        ConfigError: The key is another one.
    """

    def __init__(self, pool: PoolConfig, key: PlantKey, name: str) -> None:
        if public_hex(key) != pool.coordinator:
            raise ConfigError(
                "the coordinator's key",
                expected=f"the one whose public part is {pool.coordinator}",
                actual=f"that of {public_hex(key)}",
                action="Give the coordinator's key, or name the public part of this one in pool.toml.",
            )
        self.topics = Topics(pool.link.site)
        self.client = LinkClient(pool.link, name)
        self._pool, self._key = pool, key
        self.answers: queue.Queue[tuple[str, str, bytes | MaskedVector]] = queue.Queue()
        self._repos: dict[str, RepoClient] = {}
        self._fetches = ThreadPoolExecutor(FETCHES_MAX, thread_name_prefix="pool-vectors")
        self.client.subscribe(self.topics.pool_answer("+", "+"), self._on_answer)

    def __enter__(self) -> CoordinatorRunner:
        """Connects.

        Raises:
            BrokerError: The broker cannot be reached.
        """
        try:
            connect(self.client)
        except LinesideError:
            self.client.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._fetches.shutdown(wait=True, cancel_futures=True)

    def run(
        self,
        plan: RoundPlan,
        *,
        step_timeout_s: float,
        first_timeout_s: float | None = None,
        journal: Path | None = None,
        on_progress: Callable[[str], None] = lambda text: None,
        on_again: Callable[[], None] = lambda: None,
    ) -> Coordinator:
        """Runs a round, or goes on with the one of the journal.

        Args:
            plan: Of a new round; not looked at where the journal holds one.
            step_timeout_s: So long each step waits for plants that do not answer.
            first_timeout_s: The same of the first step, in which plants may still be at work. When enough have
                answered, the others get as long again, or ``step_timeout_s`` if that is longer.
            journal: File with which a killed coordinator goes on; the caller deletes it when it has the sum.
            on_progress: Called with a line for each step.
            on_again: Called every `AGAIN_S` while the round waits.

        Returns:
            The coordinator with the sum.

        Raises:
            AggregationError: Too few plants answered, or one sent what it may not. The journal is deleted.
        """
        session = _Session(plan, None if journal is None else SessionJournal(journal))
        try:
            while session.coordinator.step != "done":
                step = session.coordinator.step
                timeout_s = first_timeout_s if step == STEPS[0] and first_timeout_s else step_timeout_s
                self._gather(session, timeout_s, step_timeout_s, on_progress, on_again)
                asked = len(session.sent) if session.sent is not None else len(session.plan.plants)
                count = f"{asked - len(session.coordinator.expected)} of {len(session.plan.plants)} plants"
                on_progress(f"{step}: {count}")
                session.advance()
        except AggregationError:
            if session.journal is not None:
                session.journal.remove()
            raise
        finally:
            for plant, reason in session.coordinator.refused.items():
                on_progress(f"{plant}: {reason}")
        return session.coordinator

    def _on_answer(self, topic: str, data: bytes) -> None:
        *_, round_name, _, plant = topic.split("/")
        self.answers.put((round_name, plant, data))

    def _gather(
        self,
        session: _Session,
        timeout_s: float,
        least_s: float,
        on_progress: Callable[[str], None],
        on_again: Callable[[], None],
    ) -> None:
        """Sends the messages of a step until all plants have answered, or the time is over."""
        began, again = time.monotonic(), 0.0
        deadline, enough = began + timeout_s, False
        over = threading.Event()
        fetching: set[str] = set()
        coordinator = session.coordinator
        try:
            while coordinator.expected and (now := time.monotonic()) < deadline:
                if now >= again:
                    on_again()
                    for topic, data in session.messages(self.topics, self._key):
                        self.client.publish(topic, data)
                    again = now + AGAIN_S
                try:
                    round_name, plant, answer = self.answers.get(timeout=max(0.0, min(again, deadline) - now))
                except queue.Empty:
                    continue
                if round_name == session.plan.round and plant in coordinator.expected:
                    self._take(session, plant, answer, fetching, over)
                    missing = coordinator.expected
                    if missing and plant not in missing and time.monotonic() - began >= WAIT_SHOWN_S:
                        on_progress(f"{coordinator.step}: waiting for {', '.join(sorted(missing))}")
                if not enough and coordinator.answered >= session.plan.threshold:
                    enough, now = True, time.monotonic()
                    deadline = min(deadline, now + max(least_s, now - began))
        finally:
            over.set()

    def _take(
        self, session: _Session, plant: str, data: bytes | MaskedVector, fetching: set[str], over: threading.Event
    ) -> None:
        if isinstance(data, MaskedVector):
            fetching.discard(plant)
            session.receive(plant, data)
            return
        try:
            found = envelopes.envelope.decode(data)
            if found.step != session.number:
                return
            if not found.chunks:
                session.receive(plant, from_plant.decode(found.body))
            elif plant not in fetching and session.coordinator.step == "masked":
                fetching.add(plant)
                self._fetches.submit(self._fetch, session, plant, found.chunks, fetching, over)
        except msgspec.DecodeError as error:
            session.coordinator.refused[plant] = f"a message that can't be read: {error}"

    def _fetch(
        self, session: _Session, plant: str, chunks: tuple[str, ...], fetching: set[str], over: threading.Event
    ) -> None:
        if plant not in self._repos:
            self._repos[plant] = RepoClient(self.client, self.topics, upload_name(plant), multicast=False)
        size = session.plan.bits // 8 * session.plan.length
        try:
            data = fetch_vector(self._repos[plant], chunks, size=size, should_stop=over.is_set)
        except FetchStopped:
            return
        except LinesideError as error:
            session.coordinator.refused[plant] = str(error)
            fetching.discard(plant)  # it offers its vector again
            return
        self.answers.put((session.plan.round, plant, MaskedVector(data)))


class _Session:
    """A round at the coordinator: its state, its journal, and the messages of its step."""

    def __init__(self, plan: RoundPlan, journal: SessionJournal | None) -> None:
        self.journal = journal
        before, records = (None, []) if journal is None else journal.read()
        self.plan = before or plan
        self.coordinator = Coordinator(self.plan)
        self.number = 1
        self.sent: dict[str, ToPlant] | None = None
        if journal is not None and before is None:
            journal.begin(plan)
        for record in records:
            if record is None:
                self.sent, self.number = self.coordinator.advance(), self.number + 1
            else:
                self.coordinator.receive(*record)

    def receive(self, plant: str, message: FromPlant) -> None:
        """Takes a message of the current step."""
        if self.coordinator.receive(plant, message) and self.journal is not None:
            self.journal.add(plant, message)

    def advance(self) -> None:
        """Ends the step."""
        self.sent, self.number = self.coordinator.advance(), self.number + 1
        if self.journal is not None:
            self.journal.end_step()

    def messages(self, topics: Topics, key: PlantKey) -> list[tuple[str, bytes]]:
        """Returns the messages to plants that have not answered, with their topics."""
        expected = self.coordinator.expected
        if self.sent is None:
            plan = envelopes.sign_plan(self.plan, key)
            return [(topics.pool_plan(name), plan) for name in expected]
        return [
            (topics.pool_message(self.plan.round, name), envelopes.enveloped(self.number, message))
            for name, message in self.sent.items()
            if name in expected
        ]
