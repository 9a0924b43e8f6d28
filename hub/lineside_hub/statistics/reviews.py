"""False rejects and escapes, from what people decided on results.

A person decides on a result by marking its verdict as wrong or by corrected boxes; what was said last counts. Boxes
say that the part is bad, no boxes that it is good. A withdrawn mark and "not sure" decide nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lineside_hub.results.sql import SqlRunner
from lineside_hub.statistics.counts import CountFilter
from lineside_models.metrics import wilson


class ReviewRates(msgspec.Struct, frozen=True, kw_only=True):
    """What people decided on reviewed results.

    People look at chosen results, so the rates are those of the reviewed ones and not of the production.

    Attributes:
        rejects: Reviewed rejects, unsure ones included.
        false_rejects: Those of them that are good parts (overkill).
        escapes: Those of them that are bad parts (misses).
    """

    rejects: int = 0
    false_rejects: int = 0
    passes: int = 0
    escapes: int = 0

    @property
    def false_reject_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of false rejects among the reviewed rejects."""
        return wilson(self.false_rejects, self.rejects)

    @property
    def escape_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of escapes among the reviewed passes."""
        return wilson(self.escapes, self.passes)


_BY_BOXES = "(v.boxes <> '' AND v.corrected_at_ns >= v.marked_at_ns)"
_IS_WRONG = f"CASE WHEN {_BY_BOXES} AND (v.boxes = '[]') = (r.verdict = 'pass') THEN 0 ELSE 1 END"
_DECIDED = f"({_BY_BOXES} OR (v.wrong = 1 AND v.note NOT LIKE 'not sure%'))"


def review_rates(run: SqlRunner, choice: CountFilter) -> ReviewRates:
    """Counts the reviewed results of a selection; their time is exact, not that of the hour."""
    exact = msgspec.structs.replace(choice, since_ns=None, until_ns=None)
    where, given = exact.sql()
    conditions = [where.replace("device", "r.device", 1) if choice.devices else where]
    for name, text in (("since_ns", "r.captured_at_ns >= :since_ns"), ("until_ns", "r.captured_at_ns < :until_ns")):
        if (value := getattr(choice, name)) is not None:
            conditions.append(text)
            given[name] = value
    text = (
        f"SELECT CASE WHEN r.verdict = 'pass' THEN 'pass' ELSE 'reject' END, {_IS_WRONG}, count(*) FROM reviews v "
        "JOIN results r ON r.device = v.device AND r.epoch = v.epoch AND r.seq = v.seq "
        f"WHERE {' AND '.join(conditions)} AND {_DECIDED} "
        "AND r.verdict IN ('pass', 'reject', 'unsure') AND substr(r.part_id, 1, 10) <> 'challenge:' GROUP BY 1, 2"
    )
    found: dict[tuple[str, bool], int] = {}
    for verdict, wrong, count in run(text, given):
        found[verdict, bool(wrong)] = int(count)
    return _rates(found)


def _rates(found: dict[tuple[str, bool], Any]) -> ReviewRates:
    rejects, passes = (
        (found.get((verdict, False), 0) + found.get((verdict, True), 0)) for verdict in ("reject", "pass")
    )
    return ReviewRates(
        rejects=rejects,
        false_rejects=found.get(("reject", True), 0),
        passes=passes,
        escapes=found.get(("pass", True), 0),
    )
