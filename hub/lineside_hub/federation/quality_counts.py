"""Counts of a plant's results as one vector, and what the sum of several plants' vectors says."""

from __future__ import annotations

import datetime
import math
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_hub.config import HubConfig
from lineside_hub.results.queries import Query, results
from lineside_hub.results.sql import runner
from lineside_hub.statistics.counts import CountFilter
from lineside_hub.statistics.reviews import review_rates
from lineside_link.result_table import COLUMNS
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import AggregationError, ConfigError

Ints = npt.NDArray[np.int64]

DAYS_MAX = 92
FIRST_DAY = datetime.date(1970, 1, 1)
SCORE_BINS = 20
DAY_NS = 86_400 * 10**9
SIGMAS = 3.0
"""Width of a p-chart's limits to either side, in standard deviations."""

_VERDICTS = {"pass": 0, "reject": 1, "unsure": 1, "fault": 2}  # of a day: passed, rejected, faults
_PER_DAY = 3
_REVIEWS = ("rejects reviewed", "false rejects", "passes reviewed", "escapes")
_VERDICT, _DETECTIONS, _CAPTURED = (COLUMNS.index(name) for name in ("verdict", "detections", "captured_at_ns"))


class QualityQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Asks for counts of some days.

    Attributes:
        since: First day, in UTC.
        types: Defect types that are counted one by one.
    """

    kind: str = "quality"
    since: datetime.date
    days: Annotated[int, msgspec.Meta(ge=1, le=DAYS_MAX)]
    types: tuple[str, ...]

    @property
    def until(self) -> datetime.date:
        """The day after the last one."""
        return self.since + datetime.timedelta(days=self.days)

    def check_days(self) -> None:
        """Checks that results can be of all days.

        Raises:
            ConfigError: A day is not over, or before 1970.
        """
        over = (datetime.datetime.now(datetime.timezone.utc).date() - self.since).days
        if self.days > over or self.since < FIRST_DAY:
            early = self.since < FIRST_DAY
            raise ConfigError(
                "days of a question",
                expected=f"days from {FIRST_DAY} on" if early else "days that are over (UTC)",
                actual=f"{self.days} from {self.since}",
                action=f"Ask for {'later' if early else 'earlier'} days.",
            )

    @property
    def length(self) -> int:
        """Numbers of a vector: days by verdict, types and other types, reviews, scores."""
        return _PER_DAY * self.days + len(self.types) + 1 + len(_REVIEWS) + SCORE_BINS

    @property
    def text(self) -> str:
        """As it stands in the plan of a round."""
        return msgspec.json.encode(self).decode()


def read_question(text: str) -> QualityQuestion:
    """Reads a question.

    Raises:
        ConfigError: It is none that this release answers.
    """
    try:
        question = decode_json(text, type=QualityQuestion)
    except msgspec.DecodeError as error:
        raise ConfigError(f"a question of another release: {error}", action="Update this plant's hub.") from error
    if question.kind != "quality":
        action = "Update this plant's hub, or ask from a coordinator of the same release."
        raise ConfigError("kind of a question", expected="quality", actual=question.kind, action=action)
    return question


def count_quality(config: HubConfig, question: QualityQuestion) -> Ints:
    """Counts a hub's results: ``(question.length,) int64``, all from 0."""
    begin = _midnight_ns(question.since)
    end = _midnight_ns(question.until)
    verdicts = np.zeros((question.days, _PER_DAY), np.int64)
    types = np.zeros(len(question.types) + 1, np.int64)
    scores = np.zeros(SCORE_BINS, np.int64)
    places = {name: number for number, name in enumerate(question.types)}
    for row in results(config, Query(since_ns=begin, until_ns=end)):
        verdict = _VERDICTS.get(row[_VERDICT])
        if verdict is None:
            continue
        verdicts[(int(row[_CAPTURED]) - begin) // DAY_NS, verdict] += 1
        found = decode_json(row[_DETECTIONS] or "[]", type=list[list[object]])
        for place in {places.get(str(one[0]), len(question.types)) for one in found}:
            types[place] += 1
        if found:
            best = max(float(one[1]) for one in found)  # type: ignore[arg-type]
            scores[min(int(best * SCORE_BINS), SCORE_BINS - 1)] += 1
    return np.concatenate([verdicts.reshape(-1), types, _reviews(config, begin, end), scores])


def _midnight_ns(day: datetime.date) -> int:
    return int(datetime.datetime.combine(day, datetime.time(), datetime.timezone.utc).timestamp()) * 10**9


def _reviews(config: HubConfig, begin: int, end: int) -> Ints:
    with runner(config) as run:
        rates = review_rates(run, CountFilter(since_ns=begin, until_ns=end))
    return np.array([rates.rejects, rates.false_rejects, rates.passes, rates.escapes], np.int64)


class QualityCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a vector of counts.

    Attributes:
        parts: With a verdict.
        faults: Frames without a verdict.
        types: Parts by type, in the order of the question; all others last.
        rejects_reviewed: Rejects that a person looked at.
        false_rejects: Of these, good ones.
    """

    parts: int
    rejected: int
    faults: int
    types: tuple[int, ...]
    rejects_reviewed: int
    false_rejects: int


def quality_totals(question: QualityQuestion, vector: Ints) -> QualityCounts:
    """Returns the totals of a vector of `count_quality` or of a sum of such."""
    cut = _PER_DAY * question.days
    verdicts = vector[:cut].reshape(question.days, _PER_DAY).sum(axis=0)
    types, reviews, _ = _split(question, vector)
    return QualityCounts(
        parts=int(verdicts[:2].sum()),
        rejected=int(verdicts[1]),
        faults=int(verdicts[2]),
        types=tuple(types.tolist()),
        rejects_reviewed=int(reviews[0]),
        false_rejects=int(reviews[1]),
    )


def _split(question: QualityQuestion, vector: Ints) -> tuple[Ints, Ints, Ints]:
    """Returns types, reviews and scores."""
    types, rest = np.split(vector[_PER_DAY * question.days :], [len(question.types) + 1])
    reviews, scores = np.split(rest, [len(_REVIEWS)])
    return types, reviews, scores


class DayCounts(msgspec.Struct, frozen=True, kw_only=True):
    """A day of all plants together, as a point of a p-chart.

    Attributes:
        parts: With a verdict.
        rate: Share of rejected parts; ``None`` without parts.
        in_control: Whether the rate lies within the limits.
    """

    day: datetime.date
    parts: int
    rejected: int
    faults: int
    rate: float | None
    low: float | None
    high: float | None
    in_control: bool


class TypeCount(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a Pareto chart.

    Attributes:
        cumulative: Share of all counted, up to this row.
    """

    type: str
    parts: int
    cumulative: float


class QualityReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the sum says.

    Attributes:
        plants: Whose counts are in it.
        types: Most frequent first.
        false_reject_share: Of the reviewed rejects; ``None`` where none was reviewed.
        escape_share: Of the reviewed passes; ``None`` where none was reviewed.
        score_counts: Frames by the best score of their detections, `SCORE_BINS` equal bins from 0 to 1.
    """

    round: str
    plants: tuple[str, ...]
    since: datetime.date
    parts: int
    rejected: int
    faults: int
    reject_rate: float | None
    days: tuple[DayCounts, ...]
    types: tuple[TypeCount, ...]
    reviews: dict[str, int]
    false_reject_share: float | None
    escape_share: float | None
    score_counts: tuple[int, ...]


def quality_report(
    question: QualityQuestion, total: Ints, *, round_name: str, plants: tuple[str, ...]
) -> QualityReport:
    """Reads the sum of several plants' vectors.

    Raises:
        AggregationError: It is of no counts.
    """
    cut = _PER_DAY * question.days
    verdicts = total[:cut].reshape(question.days, _PER_DAY)
    types, reviews, scores = _split(question, total)
    if total.min() < 0 or reviews[1] > reviews[0] or reviews[3] > reviews[2]:
        found = ", ".join(f"{number} {name}" for name, number in zip(_REVIEWS, reviews.tolist(), strict=True))
        raise AggregationError(
            f"round {round_name}: the sums are of no counts: a plant sent what it may not",
            expected="numbers from 0, a part at most its whole",
            actual=f"{int(total.min())} as the smallest; {found}",
            action=f"A sum does not show which plant. Ask {', '.join(plants)} to check their numbers and their "
            "releases of lineside, and start a new round.",
        )
    counts = quality_totals(question, total)
    mean = counts.rejected / counts.parts if counts.parts else None
    counted = sorted(zip((*question.types, "other"), counts.types, strict=True), key=lambda row: (-row[1], row[0]))
    reached, everything, rows = 0, max(1, int(types.sum())), []
    for name, count in counted:
        reached += count
        rows.append(TypeCount(type=name, parts=count, cumulative=reached / everything))
    return QualityReport(
        round=round_name,
        plants=plants,
        since=question.since,
        parts=counts.parts,
        rejected=counts.rejected,
        faults=counts.faults,
        reject_rate=mean,
        days=tuple(_day(question.since, number, row.tolist(), mean) for number, row in enumerate(verdicts)),
        types=tuple(rows),
        reviews=dict(zip(_REVIEWS, reviews.tolist(), strict=True)),
        false_reject_share=_share(reviews[1], reviews[0]),
        escape_share=_share(reviews[3], reviews[2]),
        score_counts=tuple(scores.tolist()),
    )


def _share(part: np.int64, whole: np.int64) -> float | None:
    return int(part) / int(whole) if whole else None


def _day(since: datetime.date, number: int, counts: list[int], mean: float | None) -> DayCounts:
    passed, rejected, faults = counts
    parts = passed + rejected
    rate = low = high = None
    if parts and mean is not None:
        rate = rejected / parts
        width = SIGMAS * math.sqrt(mean * (1 - mean) / parts)
        low, high = max(0.0, mean - width), min(1.0, mean + width)
    return DayCounts(
        day=since + datetime.timedelta(days=number),
        parts=parts,
        rejected=rejected,
        faults=faults,
        rate=rate,
        low=low,
        high=high,
        in_control=rate is None or low is None or high is None or low <= rate <= high,
    )
