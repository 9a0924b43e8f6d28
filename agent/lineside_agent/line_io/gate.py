"""The shift register of parts on their way to the reject gate. Pure: times and counts in, levels out.

- A part is entered at its trigger and is rejected there unless a pass took it out: no pass in time means reject.
- A part reaches the gate a time or a number of encoder counts after its trigger, never earlier.
- Counts are those of a 32-bit encoder that may wrap around and never steps back by half its range.
- Pulses that overlap become one longer pulse: each part has its whole pulse.
- Another place of the gate counts from the next part on; those on their way keep theirs, whichever comes first.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

COUNTS = 1 << 32
"""An encoder counts up to here and begins at 0 again."""


@dataclasses.dataclass(frozen=True, slots=True)
class GateSettings:
    """Where the gate is.

    Attributes:
        delay_s: Behind the trigger in time; ``None`` if it is told in counts.
        counts: Behind the trigger in encoder counts; ``None`` if it is told in time.
        pulse_s: How long it stays open for one part.
    """

    delay_s: float | None = None
    counts: int | None = None
    pulse_s: float = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class GateEntry:
    """A part on its way to the gate, which is to be rejected there.

    Attributes:
        number: Of its trigger.
        due_s: When it reaches the gate, on the clock of the triggers.
        due_count: At which count of the encoder it does.
    """

    number: int
    due_s: float
    due_count: int


class RejectGate:
    """Parts between the camera and the gate.

    Attributes:
        is_open: What the gate should be now.
        count: The encoder's last count; ``None`` before the first.

    Args:
        settings: Where the gate is.
    """

    def __init__(self, settings: GateSettings) -> None:
        self.is_open = False
        self.count: int | None = None
        self._settings = settings
        self._entries: collections.deque[GateEntry] = collections.deque()
        self._open_until_s = 0.0

    @property
    def needs_count(self) -> bool:
        """Whether a trigger can't be timed, because the encoder has not been heard of."""
        return self._settings.counts is not None and self.count is None

    @property
    def queue(self) -> tuple[GateEntry, ...]:
        """The parts on their way, which a restart must know of."""
        return tuple(self._entries)

    @property
    def is_idle(self) -> bool:
        """Whether no part is on its way and the gate is closed."""
        return not self._entries and not self.is_open

    def restore(self, entries: Iterable[GateEntry], now_s: float) -> list[int]:
        """Takes the parts that were on their way when the process before this one ended.

        Returns:
            The parts that have reached the gate already: a pulse now would meet another part.
        """
        in_time = self._settings.delay_s is not None
        late = [entry.number for entry in entries if in_time and entry.due_s <= now_s]
        self._entries.extendleft(reversed([entry for entry in entries if entry.number not in late]))
        return late

    def use(self, settings: GateSettings) -> None:
        """Takes another place of the gate, of the same kind, for the parts that follow."""
        self._settings = settings

    def enter(self, number: int, at_s: float) -> None:
        """A part passes the camera."""
        due_count = ((self.count or 0) + (self._settings.counts or 0)) % COUNTS
        self._entries.append(GateEntry(number, at_s + (self._settings.delay_s or 0.0), due_count))

    def let_pass(self, number: int) -> None:
        """Takes a part out: it was passed in time."""
        self._entries = collections.deque(entry for entry in self._entries if entry.number != number)

    def move(self, now_s: float) -> list[int]:
        """Opens and closes the gate as the time and the count say.

        Returns:
            The parts for which it was opened now.
        """
        reached = [entry.number for entry in self._entries if self._is_due(entry, now_s)]
        if reached:
            self._entries = collections.deque(entry for entry in self._entries if entry.number not in reached)
            self._open_until_s = now_s + self._settings.pulse_s
        self.is_open = now_s < self._open_until_s
        return reached

    def next_s(self) -> float | None:
        """When `move` has something to do next, as far as time decides it."""
        times = [self._open_until_s] if self.is_open else []
        if self._entries and self._settings.delay_s is not None:
            times.append(min(entry.due_s for entry in self._entries))
        return min(times, default=None)

    def _is_due(self, entry: GateEntry, now_s: float) -> bool:
        if self._settings.delay_s is not None:
            return now_s >= entry.due_s
        return self.count is not None and (self.count - entry.due_count) % COUNTS < COUNTS // 2
