"""`Restarts`: whether an engine's process that ended is started again at once, for the call that it was at."""

from __future__ import annotations

import dataclasses

from lineside_runtime.serving.backoff import Backoff

PAUSES = Backoff(1.0, 300.0)

FORGOTTEN_AFTER_S = 600.0
"""So long without a crash, and the next one counts as the first: twice the longest pause."""


@dataclasses.dataclass(slots=True)
class Restarts:
    """Of one engine on one device. Not locked: the caller's lock holds.

    A process that was killed, or that crashes now and then, is started again at once, and one call waits for it.
    One that crashes within the pause after its last crash isn't: then the next device answers until that is over. It
    doubles with each crash, so an engine that only ever crashes is soon left alone for minutes.

    Attributes:
        crashes: In a row, none of them `FORGOTTEN_AFTER_S` after the one before.
        next_at_s: Before that it isn't started again, on the placement's clock.
        last_at_s: When it crashed last.
    """

    crashes: int = 0
    next_at_s: float = 0.0
    last_at_s: float = 0.0

    def crashed(self, now_s: float) -> bool:
        """Notes a crash.

        Args:
            now_s: On the placement's clock.

        Returns:
            Whether the process may be started again at once.
        """
        at_once = now_s >= self.next_at_s
        forgotten = now_s - self.last_at_s > FORGOTTEN_AFTER_S
        self.crashes = 1 if forgotten else self.crashes + 1
        self.last_at_s = now_s
        self.next_at_s = now_s + PAUSES.after(self.crashes)
        return at_once
