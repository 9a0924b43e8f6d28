"""What the line is told of a record."""

from __future__ import annotations

from lineside_agent.line_io.events import Code
from lineside_link.messages import ResultRow


def code_of(row: ResultRow, *, has_frame: bool) -> Code:
    """Returns the result code of a judged part.

    Args:
        row: Its record.
        has_frame: Whether there was a picture of it.
    """
    if row.verdict == "fault":
        return Code.NOT_JUDGED if has_frame else Code.NO_FRAME
    if row.verdict == "pass":
        return Code.PASS
    return Code.UNSURE if row.unsure else Code.REJECT
