"""Federated training at one plant: fetches each round, trains, and adds its change to the sum."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from lineside_hub.federation.allowed_sums import AllowedSums
from lineside_hub.federation.differential_privacy import (
    ReleasedSums,
    check_privacy,
    private_values,
    step_exponent,
)
from lineside_hub.federation.plant_runner import PlantAnswer, PlantRunner
from lineside_hub.federation.pool_config import PoolConfig
from lineside_hub.federation.training_round import (
    GROUP,
    SCORE_UNIT,
    WEIGHTS_NAME,
    Ints,
    TrainingEnd,
    TrainingQuestion,
    TrainingRound,
    Weights,
    exponents_length,
    exponents_vector,
    needed_exponents,
    quantized_update,
    read_announcement,
    read_question,
    read_round,
    read_weights,
    word_bits,
    write_weights,
)
from lineside_link.aggregation.identity import PlantKey
from lineside_link.aggregation.messages import RoundPlan, largest_value
from lineside_link.clock import ClockFloor
from lineside_link.messages import BundleRef
from lineside_link.transfer.pull_window import FetchStopped
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.transfer.transfer import fetch_files
from lineside_link.trust import TrustStore
from lineside_runtime.errors import AggregationError, BrokerError, FetchError, SignatureError, TrainingError
from lineside_runtime.files import write_atomic
from lineside_runtime.serving.backoff import Backoff

SUMS_NAME, RELEASED_NAME = "allowed-sums.json", "released-sums.json"
HAS_RESULT_NAME = "has-result"
"""Holds the sha256 of the root of the training whose result this plant has."""

WAITING = Backoff(30.0, 1800.0)
"""How often a plant without a round says what it waits for."""

_SAME_RELEASE = "Nothing was sent. Bring coordinator and plants to the same release of lineside."

RETRY_S = 5.0
OVER_S = 10.0
_SCORE, _PRIVATE = "/score", "/private"


@dataclass(frozen=True)
class LocalUpdate:
    """What a plant's training of a round gave.

    Attributes:
        change: Of each shared tensor.
        score: Accuracy, 0 to 1, of the round's weights on the plant's held-out share.
    """

    change: Weights
    score: float | None


class LocalTraining(Protocol):
    """Training on one plant's frames."""

    def train(
        self, content: TrainingRound, weights: Weights, should_stop: Callable[[], bool]
    ) -> LocalUpdate | None:  # pragma: no cover - an interface
        """Trains from the round's weights; returns ``None`` if ``should_stop`` returned true."""
        ...

    def finish(self, content: TrainingRound, weights: Weights) -> float | None:  # pragma: no cover - an interface
        """Writes the result of the federated training at this plant; returns its accuracy on the held-out share."""
        ...


@dataclass(frozen=True)
class _Ready:
    """A round that this plant can answer for.

    Attributes:
        digest: Of the signed round.
        private: In a private training the numbers that may be summed: bounded, and with this round's noise.
    """

    digest: str
    content: TrainingRound
    update: LocalUpdate
    private: Ints | None = None


class TrainingPlant:
    """Takes part in a federated training.

    Args:
        key: Whose public part the pool names.
        root: First root of the coordinator's repository, which signs the rounds.
        folder: For what this plant keeps: metadata, updates, sums that it allowed.
        epsilon_max: Largest epsilon of a training that this plant takes part in; ``None`` to take part without
            differential privacy as well.
    """

    def __init__(
        self,
        pool: PoolConfig,
        plant: str,
        key: PlantKey,
        *,
        root: bytes,
        folder: Path,
        training: LocalTraining,
        epsilon_max: float | None = None,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._pool, self._folder, self._training, self._say = pool, folder, training, on_progress
        self._epsilon_max, self._released = epsilon_max, ReleasedSums(folder / RELEASED_NAME)
        self._runner = PlantRunner(
            pool,
            plant,
            key,
            self._answer,
            sums=AllowedSums(folder / SUMS_NAME),
            uploads=folder / "uploads",
            on_progress=on_progress,
        )
        self._changed = threading.Condition()
        self._wanted: BundleRef | None = None
        self._root_sha256 = hashlib.sha256(root).hexdigest()
        self._end: TrainingEnd | None = None
        self._closing = False
        self._ready: _Ready | None = None
        self._result_answered, self._over = threading.Event(), threading.Event()
        client, topics = self._runner.client, self._runner.topics
        self._repo = RepoClient(client, topics, plant, multicast=False)
        self._trust = TrustStore(folder / "trust", root, self._repo, ClockFloor(folder / "clock"))
        client.subscribe(topics.pool_training, self._on_announcement)

    def run(self) -> bool:
        """Takes part until the training is over; returns false if it was closed before.

        Raises:
            ConfigError: A certificate, key or password file cannot be read.
            TrainingError: The training failed, or is over and this plant does not have its result.
        """
        self._runner.start()
        done = ""
        while (reference := self._next(done)) is not None:
            if isinstance(reference, TrainingEnd):
                return self._leave(reference)
            try:
                content, weights = self._fetch(reference)
            except FetchStopped:  # closed, or there is a newer round
                continue
            except (FetchError, BrokerError, SignatureError) as error:
                self._say(f"{reference.target}: {error}")
                self._pause()
                continue
            if content.is_result:
                score = self._training.finish(content, weights)
                shown = None if content.federation.privacy else score
                write_atomic(self._folder / HAS_RESULT_NAME, self._root_sha256.encode())
                self._ready = _Ready(reference.sha256, content, LocalUpdate({}, shown))
                self._say("the training is over")
                return self._wait_answered()
            self._train(reference, content, weights)
            done = reference.sha256
        return False

    def close(self) -> None:
        """Disconnects; the training goes on without this plant."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._runner.close()

    def _on_announcement(self, _topic: str, data: bytes) -> None:
        try:
            found = read_announcement(data)
        except msgspec.DecodeError as error:
            self._say(f"an announcement that can't be read: {error}")
            return
        with self._changed:
            if isinstance(found, BundleRef):
                self._wanted = found
            elif found.ended_root == self._root_sha256:
                self._end = found
                self._over.set()
            self._changed.notify_all()

    def _next(self, done: str) -> BundleRef | TrainingEnd | None:
        """Waits for a round other than the last one, and says so now and then."""

        def has_changed() -> bool:
            new = self._wanted is not None and self._wanted.sha256 != done
            return self._closing or self._end is not None or new

        waits = 0
        while True:
            with self._changed:
                if self._changed.wait_for(has_changed, WAITING.after(waits + 1)):
                    return None if self._closing else self._end or self._wanted
            waits += 1
            problem = self._runner.client.last_error
            self._say(f"waiting: {problem or 'no round is announced. The coordinator must run: lineside federate run'}")

    def _leave(self, end: TrainingEnd) -> bool:
        """Ends the part of this plant in a training that is over."""
        has = self._folder / HAS_RESULT_NAME
        if has.is_file() and has.read_text() == self._root_sha256:
            self._say("the training is over, and this plant has its result")
            return True
        raise TrainingError(
            f"the federated training was over after {end.rounds} rounds, and this plant does not have its result",
            action="Take the folder result of another plant, or begin a new training from it: lineside federate init "
            "--start RESULT.",
        )

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, RETRY_S)

    def _wait_answered(self) -> bool:
        while not self._closing:
            if self._result_answered.wait(0.2):
                self._over.wait(OVER_S)  # until then the coordinator may ask for the last answer again
                return True
        return False

    def _is_old(self, reference: BundleRef) -> bool:
        wanted = self._wanted
        return self._closing or self._end is not None or wanted is None or wanted.sha256 != reference.sha256

    def _fetch(self, reference: BundleRef) -> tuple[TrainingRound, Weights]:
        if not reference.target.startswith(f"{GROUP}/"):
            raise SignatureError(
                "a round of another group",
                expected=GROUP,
                actual=reference.target,
                action="Nothing was trained or sent. Ask who runs the coordinator: another program writes its topic.",
            )
        data = self._trust.fetch_target(reference.target, reference.sha256, should_stop=lambda: self._is_old(reference))
        content = read_round(data)
        check_privacy(content.federation.privacy, self._epsilon_max)
        if content.plants != self._pool.plants:
            raise SignatureError("a round with other plants or keys than pool.toml", action="Compare the two files.")
        folder = self._folder / "round"
        if (old := folder / "digest").exists() and old.read_text() != reference.sha256:
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        write_atomic(folder / "digest", reference.sha256.encode())
        fetch_files(self._repo, content, folder, should_stop=lambda: self._is_old(reference))
        return content, read_weights(folder / WEIGHTS_NAME)

    def _train(self, reference: BundleRef, content: TrainingRound, weights: Weights) -> None:
        """Trains, unless this round was trained before a kill; the update is on the disk before it is used."""
        path = self._folder / "updates" / f"{content.number}-{reference.sha256[:16]}.npz"
        if path.exists():
            saved: dict[str, Any] = read_weights(path)
            score = float(saved.pop(_SCORE))
            private = saved.pop(_PRIVATE, None)
            update = LocalUpdate(saved, None if np.isnan(score) else score)
        else:
            self._say(f"training round {content.number} of {content.federation.rounds}")
            found = self._training.train(content, weights, lambda: self._is_old(reference))
            if found is None:
                return
            update, private = self._made_private(found, content)
            path.parent.mkdir(exist_ok=True)
            for old in path.parent.glob("*.npz"):
                old.unlink()
            score_array = np.float32(np.nan if update.score is None else update.score)
            kept = {**update.change, _SCORE: np.asarray(score_array)}
            if private is not None:
                kept[_PRIVATE] = private
            write_atomic(path, write_weights(kept), mode=0o600)
        self._ready = _Ready(reference.sha256, content, update, private)

    def _made_private(self, found: LocalUpdate, content: TrainingRound) -> tuple[LocalUpdate, Ints | None]:
        """Returns what is kept of an update; in a private training the numbers with their noise alone.

        They are drawn once, and kept before they are used: the same change with new noise would tell more.
        """
        privacy = content.federation.privacy
        if privacy is None:
            return found, None
        shared, seed = content.federation.shared, secrets.token_bytes(32)
        return LocalUpdate({}, None), private_values(found.change, shared, privacy, len(content.plants), seed)

    def _answer(self, plan: RoundPlan) -> PlantAnswer | None:
        """Returns this plant's numbers for a sum; none while it trains, or for another round."""
        question, ready = read_question(plan.question), self._ready
        if ready is None or ready.digest != question.round:
            return None
        count, content = len(plan.plants), ready.content
        privacy, shared = content.federation.privacy, () if content.is_result else content.federation.shared
        bits = word_bits(count, privacy)
        change = ready.update.change
        value_max = largest_value(count, bits)
        subject = f"{question.kind} of round {content.number}.{content.attempt} ({question.round[:16]})"
        if privacy is not None and (question.kind == "exponents") != content.is_result:
            raise AggregationError(
                "a private training sums nothing but updates",
                expected="update",
                actual=question.kind,
                action=_SAME_RELEASE,
            )
        if question.kind == "exponents":
            values = exponents_vector(needed_exponents(change, shared, value_max), ready.update.score)
            expected = (exponents_length(len(shared)), SCORE_UNIT, bits)
            if content.is_result:
                self._watch_result()
        else:
            if len(question.exponents) != len(shared):
                raise AggregationError(
                    "step sizes of an update",
                    expected=len(shared),
                    actual=len(question.exponents),
                    action=_SAME_RELEASE,
                )
            values = self._numbers(ready, question, count)
            expected = (len(values), value_max, bits)
        if (plan.length, plan.value_max, plan.bits) != expected:
            raise AggregationError(
                "a sum of another form than this round's",
                expected=expected,
                actual=(plan.length, plan.value_max, plan.bits),
                action=_SAME_RELEASE,
            )
        return PlantAnswer(values, (subject,), subject)

    def _numbers(self, ready: _Ready, question: TrainingQuestion, plants: int) -> Ints:
        """Returns this plant's numbers for the sum of updates; of a private training those that are on the disk."""
        federation = ready.content.federation
        if federation.privacy is None or ready.private is None:
            return quantized_update(ready.update.change, federation.shared, question.exponents)
        if set(question.exponents) != {step_exponent(federation.privacy, plants)}:
            raise AggregationError(
                "step sizes of a private update", expected="those that follow from its settings", action=_SAME_RELEASE
            )
        self._released.add(ready.digest, federation.privacy.sums)
        return ready.private

    def _watch_result(self) -> None:
        """Lets `run` return once the sum of the result's accuracy is answered, which is the last one."""
        rounds = self._runner.rounds

        def wait() -> None:
            if self._runner.wait(rounds + 1):
                self._result_answered.set()

        threading.Thread(target=wait, name="federation-result", daemon=True).start()
