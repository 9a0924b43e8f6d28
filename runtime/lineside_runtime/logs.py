"""The runtime's logger, ``lineside.runtime``.

`logging` is imported when there is a warning to give for the first time: that takes 4 ms, a fortieth of the time from a
process's start to its first inference, and most sessions give none. What is less than a warning nobody hears before
somebody has imported `logging` and asked for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging


def _unheard(*_: object) -> None:
    """Takes a message that no handler could be there for."""


class _WhenSaid:
    """Stands for the logger and gives its methods."""

    def __getattr__(self, name: str) -> Any:
        if name in ("debug", "info") and "logging" not in sys.modules:
            return _unheard
        import logging

        return getattr(logging.getLogger("lineside.runtime"), name)


log: logging.Logger = _WhenSaid()  # type: ignore[assignment]  # all that it is asked for is the logger's own
