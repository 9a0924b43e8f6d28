"""Sums of quality counts: the coordinator asks for some days, plants answer.

A coordinator that asks twice, once with a plant and once without, could subtract. So a plant allows sums of a day with
the same plants only (`AllowedSums`).
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from lineside_hub.config import HubConfig
from lineside_hub.federation.allowed_sums import AllowedSums
from lineside_hub.federation.comparison import messages
from lineside_hub.federation.comparison.rounds import ComparisonParty
from lineside_hub.federation.coordinator_runner import CoordinatorRunner
from lineside_hub.federation.plant_runner import PlantAnswer, PlantRunner
from lineside_hub.federation.pool_config import PoolConfig
from lineside_hub.federation.quality_counts import (
    QualityQuestion,
    QualityReport,
    count_quality,
    quality_report,
    quality_totals,
    read_question,
)
from lineside_link.aggregation.identity import PlantKey
from lineside_link.aggregation.messages import RoundPlan, least_threshold
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import AggregationError, ConfigError

ANSWERED_NAME = "pool-answered.json"
UPLOADS_NAME = "pool-uploads"


class _PlanKind(msgspec.Struct):
    type: str = ""


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
        raise ConfigError(
            f"the round can't be planned: {error}",
            action="Correct plants or parts_max in pool.toml, alike at the coordinator and all plants.",
        ) from error


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

    Raises:
        ConfigError: The key is another one, or a day is not over.
        BrokerError: The broker cannot be reached.
        AggregationError: Too few plants answered, or one sent what it may not.
    """
    question.check_days()
    plan = plan_round(pool, question)
    with CoordinatorRunner(pool, key, f"pool-coordinator-{plan.round[:8]}") as runner:
        coordinator = runner.run(plan, step_timeout_s=step_timeout_s, on_progress=on_progress)
    return quality_report(question, coordinator.sum, round_name=plan.round, plants=coordinator.survivors)


class PlantService(PlantRunner):
    """Answers the rounds of a pool with the counts of one plant's hub.

    Args:
        hub: The plant's hub, whose results are counted.
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
        folder = Path(hub.folder)
        super().__init__(
            pool,
            plant,
            key,
            self._counted,
            sums=AllowedSums(folder / ANSWERED_NAME),
            uploads=folder / UPLOADS_NAME,
            on_progress=on_progress,
        )
        self._types, self._hub = pool.types, hub
        self._comparison = ComparisonParty(pool, plant, key, on_progress)

    def close(self) -> None:
        """Disconnects, and ends a comparison that is under way."""
        super().close()
        self._comparison.close()

    def _takes_other(self, plan: bytes) -> bool:
        """Takes part in a comparison."""
        if decode_json(plan, type=_PlanKind).type != "comparison":
            return False
        try:
            wanted = messages.plan.decode(plan)
        except msgspec.DecodeError as error:
            raise ConfigError(f"plan of a comparison: {error}", action="Update this plant's hub.") from error
        if wanted.plants != self._pool.plants or wanted.value_max != self._pool.parts_max:
            raise AggregationError("a plan with other plants or limits than pool.toml", action="Compare the two files.")
        self._check(wanted.question)
        self._comparison.start(
            wanted, lambda: quality_totals(wanted.question, count_quality(self._hub, wanted.question))
        )
        return True

    def _check(self, question: QualityQuestion) -> None:
        if question.types != self._types:
            raise AggregationError("a plan with other types than pool.toml", action="Compare the two files.")
        question.check_days()

    def _counted(self, plan: RoundPlan) -> PlantAnswer:
        question = read_question(plan.question)
        if plan.length != question.length:
            raise AggregationError("a plan with other types than pool.toml", action="Compare the two files.")
        self._check(question)
        days = tuple((question.since + datetime.timedelta(days=number)).isoformat() for number in range(question.days))
        values = np.asarray(count_quality(self._hub, question), np.int64)
        return PlantAnswer(values, days, f"{question.days} days from {question.since}")
