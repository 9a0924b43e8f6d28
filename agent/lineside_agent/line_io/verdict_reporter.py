"""Tell the line the verdict of a part, and record it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lineside_agent.health.result_statistics import ResultStatistics
from lineside_agent.inspection.views import Capture
from lineside_agent.line_io.base import LineOutput, Signal
from lineside_agent.line_io.events import NO_DEFECTS, DefectSummary
from lineside_link.messages import ResultRow


class VerdictReporter:
    """Tells the line, counts and records.

    The signal does not wait for the disk: the record is noted in memory before it, and committed after it.

    Attributes:
        record: Takes each record after the line was told, with its images.
        summarize: Returns what a record tells the line of defects.

    Args:
        note: Takes each record before the line is told.
    """

    def __init__(
        self,
        outputs: Sequence[LineOutput],
        record: Callable[[ResultRow, Capture | None], object],
        *,
        note: Callable[[ResultRow], None] = lambda _: None,
        summarize: Callable[[ResultRow], DefectSummary] = lambda _: NO_DEFECTS,
        statistics: ResultStatistics | None = None,
    ) -> None:
        self.outputs = outputs
        self.record = record
        self.summarize = summarize
        self._note = note
        self._statistics = statistics or ResultStatistics()

    def report(
        self,
        signal: Signal,
        row: ResultRow,
        capture: Capture | None,
        *,
        took_s: float,
        tell: Callable[[Signal], None] | None = None,
    ) -> None:
        """Tells the line a verdict and records it.

        Args:
            took_s: As for `ResultStatistics.add`.
            tell: Sends the signal; by default every output does at once.
        """
        self._note(row)
        if tell is not None:
            tell(signal)
        else:
            for output in self.outputs:
                output.signal(signal)
        self._statistics.add(signal.code, row, took_s)
        self.record(row, capture)
