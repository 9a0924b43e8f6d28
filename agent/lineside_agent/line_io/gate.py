"""The shift register of parts on their way to the reject gate. Pure: times and counts in, levels out.

- A part is entered at its trigger and is rejected at the gate unless a pass removed it: no pass in time means reject.
- A part reaches the gate a time or a number of encoder counts after its trigger, never earlier.
- Counts are those of a 32-bit encoder that may wrap around. One that begins anew, jumps or stands still says nothing
  of where the parts are: those on their way are lost to the gate, and a fault of the line.
- Pulses that overlap become one longer pulse: each part has its whole pulse.
- A new place of the gate applies from the next part on; parts on their way keep the old one, whichever comes first.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Container, Iterable

COUNTS = 1 << 32
"""Range of the encoder, which then begins at 0 again."""

BACK_SHARE = 10
"""The belt may run back by this part of the way to the gate."""

STILL_MAX = 3
"""Parts in a row that may be triggered at one count."""


@dataclasses.dataclass(frozen=True, slots=True)
class GateSettings:
    """Place of the gate.

    Attributes:
        delay_s: Time from trigger to gate; ``None`` if it is given in counts.
        counts: Encoder counts from trigger to gate; ``None`` if it is given in time.
        pulse_s: Length of the pulse for one part.
    """

    delay_s: float | None = None
    counts: int | None = None
    pulse_s: float = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class GateEntry:
    """A part on its way to the gate, to be rejected there.

    Attributes:
        due_s: Time at the gate, on the clock of the triggers.
        due_count: Encoder count at the gate.
    """

    number: int
    due_s: float
    due_count: int


class RejectGate:
    """Parts between the camera and the gate.

    Attributes:
        is_open: Level of the gate now.
        count: The encoder's last count; ``None`` before the first.
    """

    def __init__(self, settings: GateSettings) -> None:
        self.is_open = False
        self.count: int | None = None
        self._triggers_at_count = 0
        self._settings = settings
        self._entries: collections.deque[GateEntry] = collections.deque()
        self._open_until_s = 0.0

    @property
    def needs_count(self) -> bool:
        """Whether a trigger cannot be placed, since there is no encoder count yet."""
        return self._settings.counts is not None and self.count is None

    @property
    def stands_still(self) -> bool:
        """Whether the encoder has not moved over `STILL_MAX` triggers."""
        return self._settings.counts is not None and self._triggers_at_count >= STILL_MAX

    @property
    def queue(self) -> tuple[GateEntry, ...]:
        """Parts on their way, for a restart."""
        return tuple(self._entries)

    @property
    def is_idle(self) -> bool:
        """Whether no part is on its way and the gate is closed."""
        return not self._entries and not self.is_open

    def restore(self, entries: Iterable[GateEntry], now_s: float) -> list[int]:
        """Takes the `queue` of the process before this one, at ``now_s`` on the clock of the triggers.

        Returns:
            Parts that have reached the gate already: a pulse now would meet another part.
        """
        in_time = self._settings.delay_s is not None
        late = [entry.number for entry in entries if in_time and entry.due_s <= now_s]
        self._entries.extendleft(reversed([entry for entry in entries if entry.number not in late]))
        return late

    def use(self, settings: GateSettings) -> None:
        """Applies another place of the gate, in time or counts as before, for the parts that follow."""
        self._settings = settings

    def take_count(self, count: int) -> list[int]:
        """Takes the encoder's count, modulo `COUNTS`.

        Returns:
            Parts on their way whose place is not known any more, since the encoder has jumped; they are removed.
        """
        before, self.count = self.count, count
        if count == before:
            return []
        self._triggers_at_count = 0
        way = self._settings.counts
        if way is None:
            return []
        way = max([way, *(self._ahead(entry.due_count, before) for entry in self._entries if before is not None)])
        if before is None:  # after a restart: what was on its way is between here and the gate
            lost = [entry.number for entry in self._entries if not 0 <= self._ahead(entry.due_count, count) <= way]
        else:
            is_jump = not -way // BACK_SHARE <= self._ahead(count, before) <= way
            lost = [entry.number for entry in self._entries] if is_jump else []
        self._remove(lost)
        return lost

    @staticmethod
    def _ahead(count: int, origin: int) -> int:
        """How far ``count`` is ahead of ``origin``; less than 0 behind it."""
        return (count - origin + COUNTS // 2) % COUNTS - COUNTS // 2

    def _remove(self, numbers: Container[int]) -> None:
        self._entries = collections.deque(entry for entry in self._entries if entry.number not in numbers)

    def enter(self, number: int, at_s: float) -> None:
        """Enters the part of a trigger."""
        self._triggers_at_count += 1
        due_count = ((self.count or 0) + (self._settings.counts or 0)) % COUNTS
        self._entries.append(GateEntry(number, at_s + (self._settings.delay_s or 0.0), due_count))

    def let_pass(self, number: int) -> None:
        """Removes a part that passed in time."""
        self._remove((number,))

    def overdue(self, now_s: float) -> list[int]:
        """Returns the parts for which `move` would open the gate when their pulse should be over already."""
        if self._settings.delay_s is None:
            return []  # the encoder's counts have no time
        return [entry.number for entry in self._entries if entry.due_s < now_s - self._settings.pulse_s]

    def move(self, now_s: float) -> list[int]:
        """Opens and closes the gate by time and count; returns the parts for which it was opened now."""
        reached = [entry.number for entry in self._entries if self._is_due(entry, now_s)]
        if reached:
            self._remove(reached)
            self._open_until_s = now_s + self._settings.pulse_s
        self.is_open = now_s < self._open_until_s
        return reached

    def next_s(self) -> float | None:
        """Time of the next `move` that changes something, as far as it depends on time."""
        times = [self._open_until_s] if self.is_open else []
        if self._entries and self._settings.delay_s is not None:
            times.append(min(entry.due_s for entry in self._entries))
        return min(times, default=None)

    def _is_due(self, entry: GateEntry, now_s: float) -> bool:
        if self._settings.delay_s is not None:
            return now_s >= entry.due_s
        return self.count is not None and self._ahead(entry.due_count, self.count) <= 0
