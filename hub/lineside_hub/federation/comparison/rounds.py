"""Rounds of a comparison: the coordinator asks, each plant's process takes part."""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from lineside_hub.federation.comparison import messages
from lineside_hub.federation.comparison.messages import ComparisonAnswer, ComparisonPlan, ComparisonTask, Measure
from lineside_hub.federation.comparison.party import FAILED, REPEAT_S
from lineside_hub.federation.comparison.program import own_numbers
from lineside_hub.federation.coordinator_runner import AGAIN_S, CoordinatorRunner
from lineside_hub.federation.envelopes import sign_plan
from lineside_hub.federation.pool_config import PoolConfig
from lineside_hub.federation.quality_counts import QualityCounts, QualityQuestion
from lineside_link.aggregation.identity import PlantKey
from lineside_runtime.errors import AggregationError, ConfigError, MissingExtraError
from lineside_runtime.system.packages import child_environment

DISMISS_S = 10.0
PARTY_TIMEOUT_S = 300.0
_MODULE = "lineside_hub.federation.comparison.party"


class ComparisonResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison shows, and all that it shows.

    Attributes:
        worst: A plant, or a defect type.
    """

    round: str
    measure: Measure
    worst: str
    plants: tuple[str, ...]
    question: QualityQuestion


def plan_comparison(pool: PoolConfig, question: QualityQuestion, measure: Measure) -> ComparisonPlan:
    """Returns the plan of a new comparison.

    Raises:
        ConfigError: The pool has too many plants, or its ``parts_max`` is too large.
    """
    plan = {
        "type": "comparison",
        "round": secrets.token_hex(16),
        "measure": measure,
        "question": question,
        "value_max": pool.parts_max,
        "plants": pool.plants,
    }
    try:
        return msgspec.convert(msgspec.to_builtins(plan), ComparisonPlan)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(
            f"the comparison can't be planned: {error}",
            action="Correct plants or parts_max in pool.toml, alike at the coordinator and all plants.",
        ) from error


def run_comparison(
    pool: PoolConfig,
    key: PlantKey,
    question: QualityQuestion,
    measure: Measure,
    *,
    timeout_s: float = 120.0,
    on_progress: Callable[[str], None] = lambda text: None,
) -> ComparisonResult:
    """Asks all plants for a comparison, as the coordinator.

    Raises:
        ConfigError: The key is another one, a day is not over, or the pool can't compare.
        BrokerError: The broker cannot be reached.
        AggregationError: A plant did not answer, gave numbers out of range, or found something else than the others.
    """
    question.check_days()
    plan = plan_comparison(pool, question, measure)
    with CoordinatorRunner(pool, key, f"pool-coordinator-{plan.round[:8]}") as runner:
        found = _gather(runner, plan, sign_plan(plan, key), timeout_s, on_progress)
        _dismiss(runner, plan)
    return ComparisonResult(
        round=plan.round,
        measure=measure,
        worst=plan.choices[_agreed(plan, found)],
        plants=plan.names,
        question=question,
    )


def _gather(
    runner: CoordinatorRunner,
    plan: ComparisonPlan,
    signed: bytes,
    timeout_s: float,
    on_progress: Callable[[str], None],
) -> dict[str, ComparisonAnswer]:
    found: dict[str, ComparisonAnswer] = {}
    until, again = time.monotonic() + timeout_s, 0.0
    while len(found) < len(plan.plants):
        now = time.monotonic()
        if now >= until:
            missing = [name for name in plan.names if name not in found]
            raise AggregationError(
                "plants did not answer",
                expected=f"an answer of all {len(plan.plants)} plants",
                actual=f"none from {', '.join(missing)}",
                action="See that `lineside fleet pool join` runs at each: one that is missing holds up all others.",
            )
        if now >= again:
            for name in plan.names:
                if name not in found:
                    runner.client.publish(runner.topics.pool_plan(name), signed)
            again = now + AGAIN_S
        try:
            round_name, plant, data = runner.answers.get(timeout=max(0.0, min(again, until) - now))
        except queue.Empty:
            continue
        if round_name != plan.round or plant not in plan.plants or plant in found or not isinstance(data, bytes):
            continue
        with contextlib.suppress(msgspec.DecodeError):
            each = messages.answer.decode(data)
            if each.is_of(plan, plant):
                found[plant] = each
                on_progress(f"{len(found)} of {len(plan.plants)} plants have the result")
    return found


def _dismiss(runner: CoordinatorRunner, plan: ComparisonPlan) -> None:
    """Tells the plants' processes to end, until none repeats its answer."""
    until = time.monotonic() + DISMISS_S
    while time.monotonic() < until:
        for name in plan.names:
            runner.client.publish(runner.topics.pool_message(plan.round, name), b"done")
        try:
            runner.answers.get(timeout=2 * REPEAT_S)
        except queue.Empty:
            return


def _agreed(plan: ComparisonPlan, found: dict[str, ComparisonAnswer]) -> int:
    wrong = sorted({name for each in found.values() for name in each.out_of_range})
    if wrong:
        raise AggregationError(
            "numbers of plants are not in range",
            expected=f"0 to {plan.value_max}, a part at most its whole",
            actual=", ".join(wrong),
            action="Nothing was compared. Look at these plants' hubs.",
        )
    places = {each.worst for each in found.values()}
    if len(places) != 1 or not 0 <= min(places) < len(plan.choices):
        actual = {name: each.worst for name, each in found.items()}
        raise AggregationError(
            "plants found different results",
            expected="one",
            actual=actual,
            action="No number was shown. Bring all plants to the same release of lineside, and ask again.",
        )
    return places.pop()


class ComparisonParty:
    """A plant's side: starts a process for each new round and reports how it ended.

    Args:
        on_progress: Called with a line for what was asked, answered or refused.
    """

    def __init__(self, pool: PoolConfig, plant: str, key: PlantKey, on_progress: Callable[[str], None]) -> None:
        self._pool, self._plant, self._key, self._say = pool, plant, key, on_progress
        self._round = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def start(self, plan: ComparisonPlan, counts: Callable[[], QualityCounts]) -> None:
        """Takes part in a round, once however often it is asked; an older round ends.

        Args:
            plan: That the coordinator signed, of this pool and days that may be asked for.

        Raises:
            MissingExtraError: `mpyc` is not installed.
        """
        if plan.round == self._round:
            return
        if importlib.util.find_spec("mpyc") is None:
            raise MissingExtraError("comparisons need mpyc", action="Run: pip install 'lineside[compare]'")
        self.close()
        self._round = plan.round
        task = ComparisonTask(
            plan=msgspec.json.encode(plan),
            link=self._pool.link,
            plant=self._plant,
            key=self._key.private_bytes_raw(),
            numbers=own_numbers(plan, _counted(plan, counts())),
            timeout_s=PARTY_TIMEOUT_S,
        )
        self._say(f"round {plan.round}: asked to compare {plan.measure} of {plan.question.days} days")
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
        )
        self._thread = threading.Thread(
            target=self._wait, args=(self._process, plan.round, msgspec.json.encode(task)), name="pool-comparison"
        )
        self._thread.start()

    def _wait(self, process: subprocess.Popen[bytes], round_name: str, task: bytes) -> None:
        output, errors = process.communicate(task)
        if process.returncode == 0:
            found = messages.answer.decode(output)
            self._say(f"round {round_name}: " + ("refused by range checks" if found.out_of_range else "compared"))
            return
        last = (errors.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        if process.returncode == FAILED:
            self._say(f"round {round_name}: {last}")
        elif process.returncode != -signal.SIGTERM:
            self._say(f"round {round_name}: the process ended with {process.returncode}: {last}")

    def close(self) -> None:
        """Ends the process of a round that is under way."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self._thread is not None:
            self._thread.join()
        self._process = self._thread = None


def _counted(plan: ComparisonPlan, counts: QualityCounts) -> Sequence[int]:
    if plan.measure == "type":
        return counts.types
    if plan.measure == "reject-rate":
        return counts.rejected, counts.parts
    return counts.false_rejects, counts.rejects_reviewed
