"""The runtime's logger, ``lineside.runtime``.

`logging` is imported when there is something to say for the first time: that takes 4 ms, a fortieth of the time from a
process's start to its first inference, and most sessions say nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging


class _WhenSaid:
    """Stands for the logger and gives its methods."""

    def __getattr__(self, name: str) -> Any:
        import logging

        return getattr(logging.getLogger("lineside.runtime"), name)


log: logging.Logger = _WhenSaid()  # type: ignore[assignment]  # all that it is asked for is the logger's own
