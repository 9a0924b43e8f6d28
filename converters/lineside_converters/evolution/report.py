"""``evolution.json``: a candidate beside the deployed bundle, and whether it is offered."""

from __future__ import annotations

from lineside_converters.evolution.latency_comparison import LatencyComparison
from lineside_converters.evolution.verdict_comparison import VerdictComparison
from lineside_converters.reports.report_parts import ReportStruct

SAME_SPEED = 0.03
"""A candidate that is faster by less counts as equally fast, as in the optimizer's choice of variants."""


class EvolutionReport(ReportStruct, frozen=True, kw_only=True):
    """Result of `evolve`.

    Attributes:
        deployed: ``name@version``.
        candidate: ``name@version``.
        data: Names of the data sets.
        verdicts: On fold ``val`` of the data, which nothing was chosen on.
        latency: Times of both.
        target: What the candidate was made for.
        size_bytes: Of the deployed bundle and of the candidate.
        network: Which network of the search the candidate is.
        offered: Whether the candidate is better.
        why: Reason, for people.
        refused: Who refused it although it was offered, and why; empty if nobody did.
        publish: Command that gives it to the canary group; empty if it is not offered.
        notes: Limits of these figures.
    """

    schema: int = 1
    made_at: str
    deployed: str
    deployed_sha256: str
    candidate: str
    candidate_sha256: str
    data: tuple[str, ...]
    verdicts: VerdictComparison
    latency: LatencyComparison
    target: str
    size_bytes: tuple[int, int]
    network: str
    offered: bool
    why: str
    refused: str = ""
    publish: str = ""
    notes: tuple[str, ...] = ()


def judge_candidate(verdicts: VerdictComparison, latency: LatencyComparison, *, max_drop: float) -> tuple[bool, str]:
    """Returns whether a candidate is better than the deployed bundle, and why.

    It is better if its verdict error is shown to be lower, or if it is shown to be faster and its verdict error is at
    most ``max_drop`` higher; never if its verdict error or its escapes are shown to be higher. Shown is what the 95 %
    interval of the paired difference says.
    """
    error, faster = verdicts.error, latency.high < 1 - SAME_SPEED
    words = f"verdict error {points(error.value)} points ({points(error.low)} to {points(error.high)})"
    speed = f"{latency.ratio:.2f} of the time ({latency.low:.2f} to {latency.high:.2f})"
    if verdicts.escapes.difference.low > 0:
        low, high = verdicts.escapes.difference.low, verdicts.escapes.difference.high
        return False, f"more bad parts pass: {points(low)} to {points(high)} points"
    if error.low > 0:
        return False, f"more verdicts are wrong: {words}"
    if error.high < 0:
        slower = "; it is slower" if latency.low > 1 + SAME_SPEED else ""
        return True, f"fewer verdicts are wrong: {words}; {speed}{slower}"
    if not faster:
        return False, f"neither verdicts nor speed are shown to be better: {words}; {speed}"
    if error.value > max_drop:
        return False, f"it is faster, {speed}, but {words}, where at most {points(max_drop)} points are allowed"
    return True, f"it is faster: {speed}; {words}, which is not shown to differ"


def points(share: float) -> str:
    """Returns a share as percentage points with their sign, such as ``−1.2``."""
    return f"{100 * share + 0.0:+.1f}".replace("-", "−")
