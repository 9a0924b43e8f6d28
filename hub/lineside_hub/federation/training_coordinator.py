"""Federated training at its coordinator: publishes rounds, asks for the sums, and makes the next weights of them.

::

    folder/
    ├── federation.json      settings and finished rounds; names the weights that are valid
    ├── weights-<n>.npz      after round n; momentum-<n>.npz beside it
    ├── journal/             of the sum that is under way
    └── metadata, keys, …    a repository, as of a hub, that signs each round

A kill at any moment costs nothing but time: a sum under way goes on from its journal.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from lineside_hub.federation.coordinator_runner import CoordinatorRunner
from lineside_hub.federation.differential_privacy import step_exponent
from lineside_hub.federation.pool_config import PoolConfig
from lineside_hub.federation.training_round import (
    GROUP,
    SCORE_UNIT,
    WEIGHTS_NAME,
    FederationSettings,
    Ints,
    TrainingEnd,
    TrainingQuestion,
    TrainingRound,
    Weights,
    common_exponents,
    exponents_length,
    mean_update,
    outer_step,
    read_round,
    read_weights,
    word_bits,
    write_weights,
)
from lineside_hub.repository.repository import Repository
from lineside_hub.repository.responder import Responder
from lineside_link.aggregation.coordinator import Coordinator
from lineside_link.aggregation.identity import PlantKey
from lineside_link.aggregation.messages import RoundPlan, largest_value, least_threshold
from lineside_link.messages import BundleRef
from lineside_runtime.bundle import describe_bytes
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import AggregationError, ConfigError, InputError, InputNotFoundError, RolloutError
from lineside_runtime.files import write_atomic

STATE_NAME = "federation.json"
ROOT_NAME = "root.json"
"""Goes to the plants."""
ANNOUNCE_EVERY_S = 30.0
RENEW_EVERY_S = 3600.0
SUM_TRIES = 2
"""How often a sum is asked for before its round is given up."""


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A finished round.

    Attributes:
        plants: Whose changes are in the sum.
        score: Mean accuracy, 0 to 1, of the weights before the round on the plants' held-out shares.
        seconds: From its publication to its sum.
        sent_bytes: By the coordinator to all plants, without MQTT's own headers.
        received_bytes: By the coordinator from all plants.
        exponents: Step sizes of the sum.
        sum_sha256: Of the sum, as little-endian numbers of 64 bits.
    """

    number: int
    attempt: int
    target: str
    plants: tuple[str, ...]
    score: float | None
    seconds: float
    sent_bytes: int
    received_bytes: int
    exponents: tuple[int, ...] = ()
    sum_sha256: str = ""


class FederationState(msgspec.Struct, frozen=True, kw_only=True):
    """Content of ``federation.json``.

    Attributes:
        weights_bytes: Size of the weights as they are sent.
        attempt: Of the round that is under way.
        result_score: Mean accuracy of the result on the plants' held-out shares; ``None`` before it is known, and of a
            private training.
        given_out: Whether the plants have the result.
    """

    settings: FederationSettings
    weights_bytes: int
    attempt: int = 1
    rounds: tuple[RoundRecord, ...] = ()
    result_score: float | None = None
    given_out: bool = False

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return len(self.rounds) >= self.settings.rounds


_STATE = JsonDecoder(FederationState)


def create_federation(folder: Path, settings: FederationSettings, weights: Weights) -> Repository:
    """Makes the coordinator's folder: keys, first weights, `ROOT_NAME`. The next call finishes a killed one.

    Raises:
        InputError: There is a federation already.
        RolloutError: There is another repository.
    """
    if (folder / STATE_NAME).exists():
        raise InputError(f"{folder} holds a federated training", expected="a new folder", action="Give another --out.")
    try:
        repository = Repository.create(folder, groups=[GROUP])
    except RolloutError:
        repository = Repository.open(folder)
        if list(repository.groups()) != [GROUP]:
            raise
    data = write_weights(weights)
    write_atomic(folder / "weights-0.npz", data)
    write_atomic(folder / ROOT_NAME, repository.root_bytes())
    _write(folder, FederationState(settings=settings, weights_bytes=len(data)))
    return repository


def read_federation(folder: Path) -> FederationState:
    """Reads the state of a coordinator's folder.

    Raises:
        InputNotFoundError: There is none.
        ConfigError: It is damaged, or of another release.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise InputNotFoundError(f"no federated training at {folder}", action="Make one: lineside federate init.")
    try:
        return _STATE.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        action = "Restore it from a backup, or run the release that wrote it."
        raise ConfigError(f"{path} can't be read: {error}", action=action) from error


def _write(folder: Path, state: FederationState) -> None:
    write_atomic(folder / STATE_NAME, msgspec.json.format(msgspec.json.encode(state), indent=1))


class TrainingCoordinator:
    """Runs the rounds of a federated training.

    Args:
        key: Whose public part is ``pool.coordinator``.
        training_timeout_s: So long the plants may train in a round.
        step_timeout_s: So long each further step of a sum waits for plants.

    Raises:
        InputNotFoundError: There is no federation in the folder.
    """

    def __init__(
        self,
        folder: Path,
        pool: PoolConfig,
        key: PlantKey,
        *,
        training_timeout_s: float = 3600.0,
        step_timeout_s: float = 60.0,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.state = read_federation(folder)
        self._folder, self._pool, self._key = folder, pool, key
        self._training_timeout_s, self._step_timeout_s = training_timeout_s, step_timeout_s
        self._say = on_progress
        self._repository = Repository.open(folder)
        self._announced: BundleRef | TrainingEnd | None = None
        self._announced_at = self._renewed_at = 0.0

    def run(self, rounds: int | None = None) -> FederationState:
        """Runs rounds until the training is over.

        Args:
            rounds: Return after so many; ``None`` for all.

        Raises:
            BrokerError: The broker cannot be reached.
            AggregationError: Too few plants answered; the next call begins the round anew.
        """
        with CoordinatorRunner(self._pool, self._key, "federation-coordinator") as runner:
            responder = self._serve(runner)
            try:
                done = 0
                while not self.state.finished and (rounds is None or done < rounds):
                    self._run_round(runner)
                    done += 1
                if self.state.finished:
                    if not (self.state.given_out or self.state.result_score is not None):
                        self._publish_result(runner)
                    self._publish_end(runner)
            finally:
                responder.close()
        return self.state

    def _serve(self, runner: CoordinatorRunner) -> Responder:
        """Answers the plants' requests to the repository."""
        client, topics = runner.client, runner.topics
        responder = Responder(
            self._repository, lambda device, head, body: client.send(topics.repo_response(device), head, body)
        )
        for plant in self._pool.plants:
            client.subscribe(
                topics.repo_get(plant), lambda topic, data: responder.offer(topic.rpartition("/")[2], data), qos=0
            )
        client.on_connect(lambda: self._announce(runner))
        responder.start()
        return responder

    def _run_round(self, runner: CoordinatorRunner) -> None:
        began, before = time.monotonic(), runner.client.counters
        number, settings = len(self.state.rounds) + 1, self.state.settings
        reference, weights = self._publish(runner, number)
        exponents, score = self._step_sizes(runner, reference)
        length = sum(weights[name].size for name in settings.shared)
        question = TrainingQuestion(kind="update", round=reference.sha256, exponents=exponents)
        first_timeout_s = self._training_timeout_s if settings.privacy else self._step_timeout_s
        found = self._sum(runner, question, length, self._value_max, first_timeout_s)
        mean = mean_update(found.sum, weights, settings.shared, exponents, len(found.survivors))
        momentum = self._folder / f"momentum-{number - 1}.npz"
        after, moved = outer_step(weights, mean, read_weights(momentum) if momentum.exists() else {}, settings)
        write_atomic(self._folder / f"weights-{number}.npz", write_weights(after))
        if moved:
            write_atomic(self._folder / f"momentum-{number}.npz", write_weights(moved))
        now = runner.client.counters
        record = RoundRecord(
            number=number,
            attempt=self.state.attempt,
            target=reference.target,
            plants=found.survivors,
            score=score,
            seconds=round(time.monotonic() - began, 2),
            sent_bytes=now["published_bytes"] - before.get("published_bytes", 0),
            received_bytes=now.get("received_bytes", 0) - before.get("received_bytes", 0),
            exponents=exponents,
            sum_sha256=_digest(found.sum),
        )
        self._keep(msgspec.structs.replace(self.state, attempt=1, rounds=(*self.state.rounds, record)))
        for name in ("weights", "momentum"):
            (self._folder / f"{name}-{number - 1}.npz").unlink(missing_ok=True)
        scored = "" if score is None else f", accuracy before it {score:.3f}"
        self._say(f"round {number} of {settings.rounds}: {len(found.survivors)} plants{scored}")

    def _step_sizes(self, runner: CoordinatorRunner, reference: BundleRef) -> tuple[tuple[int, ...], float | None]:
        """Returns the step size of each tensor and the mean accuracy; those of a private training tell nothing."""
        settings = self.state.settings
        if settings.privacy is None:
            return self._exponents(runner, reference, len(settings.shared))
        return (step_exponent(settings.privacy, len(self._pool.plants)),) * len(settings.shared), None

    def _publish_result(self, runner: CoordinatorRunner) -> None:
        """Publishes the result, and waits until the plants have it and have measured its accuracy."""
        reference, _ = self._publish(runner, self.state.settings.rounds + 1)
        _, score = self._exponents(runner, reference, 0)
        if score is None and self.state.settings.privacy is None:
            score = 0.0
        self._keep(msgspec.structs.replace(self.state, result_score=score, given_out=True))
        told = "" if score is None else f": mean accuracy on the held-out shares {score:.3f}"
        self._say(f"the plants have the result{told}")

    def _publish_end(self, runner: CoordinatorRunner) -> None:
        """Tells plants that join or wait that the training is over."""
        root = (self._folder / ROOT_NAME).read_bytes()
        self._announced = TrainingEnd(ended_root=hashlib.sha256(root).hexdigest(), rounds=self.state.settings.rounds)
        self._announce(runner)

    def _exponents(
        self, runner: CoordinatorRunner, reference: BundleRef, tensors: int
    ) -> tuple[tuple[int, ...], float | None]:
        question = TrainingQuestion(kind="exponents", round=reference.sha256)
        length = exponents_length(tensors)
        found = self._sum(runner, question, length, SCORE_UNIT, self._training_timeout_s)
        return common_exponents(found.sum)

    @property
    def _value_max(self) -> int:
        return largest_value(len(self._pool.plants), self._bits)

    @property
    def _bits(self) -> Literal[16, 32]:
        return word_bits(len(self._pool.plants), self.state.settings.privacy)

    def _sum(
        self, runner: CoordinatorRunner, question: TrainingQuestion, length: int, value_max: int, first_timeout_s: float
    ) -> Coordinator:
        """Returns the coordinator of a finished sum. After a kill the sum goes on, or its outcome is read again."""
        plants = self._pool.plants
        journal = self._folder / "journal" / f"{question.round[:16]}-{question.kind}"
        for rest in range(SUM_TRIES - 1, -1, -1):
            plan = RoundPlan(
                round=secrets.token_hex(16),
                question=question.text,
                length=length,
                value_max=value_max,
                plants=plants,
                threshold=least_threshold(len(plants)),
                bits=self._bits,
            )
            try:
                return runner.run(
                    plan,
                    step_timeout_s=self._step_timeout_s,
                    first_timeout_s=first_timeout_s,
                    journal=journal,
                    on_progress=lambda line: self._say(f"{question.kind}, {line}"),
                    on_again=lambda: self._on_again(runner),
                )
            except AggregationError as error:
                if not rest:
                    self._keep(msgspec.structs.replace(self.state, attempt=self.state.attempt + 1))
                    raise
                self._say(f"asking once more: {error}")
        raise AssertionError("unreachable")

    def _keep(self, state: FederationState) -> None:
        """Writes the state, and deletes the journals, which are of the state before."""
        _write(self._folder, state)
        self.state = state
        for path in (self._folder / "journal").glob("*"):
            path.unlink()

    def _publish(self, runner: CoordinatorRunner, number: int) -> tuple[BundleRef, Weights]:
        """Signs a round and announces it; returns it with its weights."""
        path = self._folder / f"weights-{number - 1}.npz"
        weights = read_weights(path)
        content = TrainingRound(
            number=number,
            attempt=self.state.attempt,
            federation=self.state.settings,
            plants=self._pool.plants,
            files={WEIGHTS_NAME: describe_bytes(path.read_bytes())},
        )
        manifest = msgspec.json.encode(content)
        version = f"{number}.{self.state.attempt}"
        reference = BundleRef(
            name="round",
            version=version,
            target=f"{GROUP}/round-{version}.json",
            sha256=hashlib.sha256(manifest).hexdigest(),
        )
        staged = self._folder / "staged"
        staged.mkdir(exist_ok=True)
        (staged / WEIGHTS_NAME).unlink(missing_ok=True)
        (staged / WEIGHTS_NAME).hardlink_to(path)
        self._repository.publish_files(reference, manifest, staged, content)
        self._withdraw_others(reference, content)
        self._announced = reference
        self._announce(runner)
        return reference, weights

    def _withdraw_others(self, reference: BundleRef, content: TrainingRound) -> None:
        """Removes earlier rounds and their chunks."""
        kept = {digest for entry in content.files.values() for digest in entry.chunks}
        for target, sha256 in self._repository.hashes_of(GROUP).items():
            if target != reference.target:
                old = read_round(self._repository.target_bytes(target, sha256))
                self._repository.withdraw(target)
                for entry in old.files.values():
                    for digest in set(entry.chunks) - kept:
                        self._repository.chunks.blobs.remove(digest)

    def _announce(self, runner: CoordinatorRunner) -> None:
        if self._announced is not None:
            runner.client.publish(runner.topics.pool_training, msgspec.json.encode(self._announced), retain=True)

    def _on_again(self, runner: CoordinatorRunner) -> None:
        now = time.monotonic()
        if now - self._announced_at >= ANNOUNCE_EVERY_S:
            self._announced_at = now
            self._announce(runner)
        if now - self._renewed_at >= RENEW_EVERY_S:
            self._renewed_at = now
            self._repository.roles.renew()


def _digest(total: Ints) -> str:
    return hashlib.sha256(total.astype("<i8").tobytes()).hexdigest()
