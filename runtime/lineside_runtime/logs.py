"""The runtime's logger, ``lineside.runtime``.

`logging` is imported with the first warning: that takes 4 ms, a fortieth of the time from a process's start to its
first inference, and most sessions log none. Messages below a warning are dropped until the program imports `logging`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging


def _drop(*_: object) -> None:
    """Drops a message: there can be no handler yet."""


class _LazyLogger:
    """Gives the logger's methods, and imports `logging` when needed."""

    def __getattr__(self, name: str) -> Any:
        if name in ("debug", "info") and "logging" not in sys.modules:
            return _drop
        import logging

        return getattr(logging.getLogger("lineside.runtime"), name)


log: logging.Logger = _LazyLogger()  # type: ignore[assignment]  # all that it is asked for is the logger's own
