"""Register map of Modbus, pure: what a PLC reads from the agent and what it writes (``docs/reference/modbus.md``).

Two blocks of 16-bit registers. As a server, the agent gives the first as input registers from 0 and takes the second as
holding registers from 0; as a client, it writes the first to holding registers of the PLC and reads the second there.
32-bit numbers take two registers, the high word first. Text has two characters a register, the first in the high byte.

The single bits are there as well as discrete inputs and coils; a test holds this file against the page.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from lineside_agent.line_io.base import Signal
from lineside_agent.line_io.events import (
    REFUSALS,
    ChallengeRequested,
    Code,
    Encoder,
    Event,
    LineState,
    PartAcknowledged,
    ResetPressed,
    SelectRecipe,
    TriggerAnswer,
    Triggered,
)

VERSION = 1
"""Version of the map, in the first register."""

STATUS_BITS = ("ready", "busy", "result_valid", "passed", "fault", "gate", "challenge", "heartbeat")
"""Discrete inputs from 0, and bits of the status register from the lowest."""

COILS = ("trigger", "acknowledge", "reset", "challenge")
"""Coils from 0."""

CONTROL_BITS = ("acknowledge", "reset", "challenge")
"""Bits of the control register from the lowest."""

TEXT_REGISTERS = 16
RING = 16
"""Answers that are kept for a PLC that polls slowly."""

OUT_FIELDS = {
    "version": 0,
    "heartbeat": 1,
    "status": 2,
    "fault": 3,
    "result_number": 4,
    "result_tag": 6,
    "result_code": 7,
    "result_took": 8,
    "recipe": 9,
    "answered": 10,
    "passed": 12,
    "rejected": 14,
    "faults": 16,
    "late": 18,
    "refused": 20,
    "unsure": 22,
    "result_part_id": 24,
    "ring_count": 40,
    "ring": 42,
    "result_defect": 106,
    "result_defects": 107,
    "result_score": 108,
    "result_camera": 109,
    "ring_defect": 110,
}
"""First register of the agent's fields."""

FIRST_REGISTERS = OUT_FIELDS["result_defect"]
"""Registers of the map before it had defects: a client writes no more unless it is configured to."""

OUT_REGISTERS = OUT_FIELDS["ring_defect"] + RING // 2
"""At most 123, the limit of one write request."""

IN_FIELDS = {"trigger_counter": 0, "control": 1, "encoder": 2, "part_id": 4, "recipe": 20}
"""First register of the PLC's fields."""

IN_REGISTERS = IN_FIELDS["recipe"] + 1

COUNTS = 1 << 16
"""Range of the trigger counter, which then begins at 0 again."""

JUMP_MAX = 1000
"""A trigger counter that moves on by more has begun anew."""


def high_low(number: int) -> tuple[int, int]:
    """Returns a 32-bit number as two registers."""
    return (number >> 16) & 0xFFFF, number & 0xFFFF


def text_registers(text: str) -> list[int]:
    """Returns text as `TEXT_REGISTERS` registers; what is not ASCII becomes ``?``, what is too long is cut."""
    data = text.encode("ascii", "replace")[: 2 * TEXT_REGISTERS].ljust(2 * TEXT_REGISTERS, b"\0")
    return [data[at] << 8 | data[at + 1] for at in range(0, len(data), 2)]


def text_of(registers: Sequence[int]) -> str:
    """Returns the text in registers, up to its first NUL."""
    data = b"".join(bytes((register >> 8 & 0xFF, register & 0xFF)) for register in registers)
    return data.split(b"\0", 1)[0].decode("ascii", "replace").strip()


class OutBlock:
    """The registers that a PLC reads. Not locked.

    Args:
        requests: What the PLC writes: the tags of its triggers are returned, unless its counter has begun anew since.
    """

    def __init__(self, requests: InBlock) -> None:
        self._requests = requests
        self._state = LineState()
        self._heartbeat = 0
        self._tallies: collections.Counter[str] = collections.Counter()
        self._ring: list[Signal] = []

    def show(self, state: LineState) -> None:
        """Takes the levels."""
        self._state = state

    def beat(self) -> None:
        """Increments the heartbeat."""
        self._heartbeat = (self._heartbeat + 1) & 0xFFFF

    def add_result(self, signal: Signal) -> None:
        """Takes an answer."""
        tallies, code = self._tallies, signal.code
        tallies["answered"] += 1
        tallies["passed"] += signal.verdict == "pass"
        tallies["rejected"] += signal.verdict == "reject"
        tallies["unsure"] += code is Code.UNSURE
        tallies["faults"] += signal.verdict == "fault"
        tallies["late"] += code is Code.LATE
        tallies["refused"] += code in REFUSALS
        self._ring.append(signal)
        del self._ring[:-RING]

    @property
    def answered(self) -> int:
        """Number of answers so far."""
        return self._tallies["answered"]

    def expire(self, after: int, now_s: float) -> list[Signal]:
        """Turns passes that the PLC was not told in time into late ones.

        Args:
            after: Number of answers that the PLC has.
            now_s: On the monotonic clock.

        Returns:
            The passes.
        """
        first = self.answered - len(self._ring)
        expired: list[Signal] = []
        for at, signal in enumerate(self._ring):
            is_late = signal.deadline_s is not None and signal.deadline_s <= now_s
            if first + at >= after and is_late and signal.verdict == "pass":
                expired.append(signal)
                self._ring[at] = dataclasses.replace(signal, verdict="fault", code=Code.LATE)
                self._tallies["passed"] -= 1
                self._tallies["faults"] += 1
                self._tallies["late"] += 1
        return expired

    def _code(self, result: TriggerAnswer) -> Code:
        """The code of a result as the ring has it, where a pass may have expired."""
        return next((signal.code for signal in self._ring if signal.sequence == result.number), result.code)

    def bits(self) -> list[bool]:
        """Returns `STATUS_BITS`."""
        state = self._state
        passed = state.passed and state.result is not None and self._code(state.result) is Code.PASS
        levels = (state.ready, state.busy, state.result_valid, passed, bool(state.fault), state.gate)
        return [*levels, state.challenge, bool(self._heartbeat & 1)]

    def registers(self) -> list[int]:
        """Returns all `OUT_REGISTERS` registers."""
        found = [0] * OUT_REGISTERS
        found[0], found[1] = VERSION, self._heartbeat
        found[2] = sum(bit << index for index, bit in enumerate(self.bits()))
        found[3] = int(self._state.fault)
        found[OUT_FIELDS["recipe"]] = self._state.recipe_number
        self._put_result(found)
        for name in ("answered", "passed", "rejected", "faults", "late", "refused", "unsure"):
            at = OUT_FIELDS[name]
            found[at : at + 2] = high_low(self._tallies[name])
        found[40:42] = high_low(self._tallies["answered"])
        first = self._tallies["answered"] - len(self._ring)
        for index, signal in enumerate(self._ring, first):
            at = OUT_FIELDS["ring"] + 4 * (index % RING)
            found[at : at + 4] = (*high_low(signal.sequence), self._tag(signal), signal.code)
            found[OUT_FIELDS["ring_defect"] + index % RING // 2] |= signal.defects.number << (0 if index % 2 else 8)
        return found

    def _put_result(self, found: list[int]) -> None:
        result = self._state.result
        if result is None:
            return
        found[4:6] = high_low(result.number)
        found[6] = self._tag(result)
        found[7] = int(self._code(result))
        found[8] = min(0xFFFF, round(10_000 * result.took_s))
        at = OUT_FIELDS["result_part_id"]
        found[at : at + TEXT_REGISTERS] = text_registers(result.part_id)
        defects, at = result.defects, OUT_FIELDS["result_defect"]
        found[at : at + 4] = (
            defects.number,
            min(0xFFFF, defects.count),
            min(0xFFFF, round(10_000 * defects.score)),
            defects.camera_number,
        )

    def _tag(self, answer: Signal | TriggerAnswer) -> int:
        """The PLC's count of the trigger, or `InBlock.foreign_tag`."""
        generation, count = divmod(answer.tag, 1 << 16)
        is_own = answer.input == self._requests.input and generation == self._requests.generation
        return count if is_own else self._requests.foreign_tag


class InBlock:
    """The registers that a PLC writes; turns writes into events.

    Attributes:
        input: Name of the line.
        generation: How often the trigger counter has begun anew. A tag is ``generation << 16 | count``, so that the
            answer to an earlier part is never taken for that to one with the same count.
    """

    def __init__(self, input: str) -> None:
        self.input = input
        self.generation = 0
        self._registers = [0] * IN_REGISTERS
        self._coils = [False] * len(COILS)
        self._started = False

    @property
    def registers(self) -> list[int]:
        """The registers as written last."""
        return list(self._registers)

    @property
    def foreign_tag(self) -> int:
        """Tag where another line triggered, or the counter has begun anew since: 0, unless that is a count of now."""
        is_near = self._registers[0] == 0 or self._registers[0] > COUNTS - JUMP_MAX
        return COUNTS // 2 if self._started and is_near else 0

    def adopt(self, registers: Sequence[int]) -> list[Event | SelectRecipe]:
        """Takes the registers at the start: levels, counters and the recipe count, but there is no trigger."""
        self._registers = list(registers)
        self._started = True
        return [*self._recipe()]

    def adopt_again(self, registers: Sequence[int]) -> list[Event | SelectRecipe]:
        """Takes the registers after a lost connection: its triggers belong to parts that have passed.

        A level that has changed meanwhile counts: a PLC that has acknowledged waits for the result to fall.
        """
        steps = (registers[0] - self._registers[0]) & 0xFFFF
        levels = self._levels(CONTROL_BITS, self._registers[1], registers[1])
        self._registers = list(registers)
        if steps > JUMP_MAX:
            self.generation += 1
            return [*levels, *self._recipe()]
        return [*levels, *self._missed(registers[0], steps), *self._recipe()]

    def write_registers(self, address: int, values: Sequence[int]) -> list[Event | SelectRecipe]:
        """Takes the registers of one write request.

        Returns:
            The events: recipe, part id and encoder first, triggers last. A recipe that is written alone is an event
                also if it does not change; in a longer write only if it changes.
        """
        before = list(self._registers)
        self._registers[address : address + len(values)] = values
        del self._registers[IN_REGISTERS:]
        now = self._registers
        recipe_at = IN_FIELDS["recipe"]
        events: list[Event | SelectRecipe] = []
        if address == recipe_at or now[recipe_at] != before[recipe_at]:
            events += self._recipe()
        if now[2:4] != before[2:4] or address <= IN_FIELDS["encoder"] < address + len(values):
            events.append(Encoder(now[2] << 16 | now[3]))
        events += self._levels(CONTROL_BITS, before[1], now[1])
        return events + self._counted(before[0], now[0])

    def write_coils(self, address: int, values: Sequence[bool]) -> list[Event]:
        """Takes the coils of one write request."""
        before = sum(bit << index for index, bit in enumerate(self._coils))
        self._coils[address : address + len(values)] = [bool(value) for value in values]
        del self._coils[len(COILS) :]
        return self._levels(COILS, before, sum(bit << index for index, bit in enumerate(self._coils)))

    def _levels(self, names: Sequence[str], before: int, now: int) -> list[Event]:
        events: list[Event] = []
        for index, name in enumerate(names):
            was_on, is_on = bool(before >> index & 1), bool(now >> index & 1)
            if name == "acknowledge" and was_on != is_on:
                events.append(PartAcknowledged(is_on))
            elif is_on and not was_on:
                events += self._risen(name)
        return events

    def _recipe(self) -> list[SelectRecipe]:
        """Returns the request of the recipe register, where it is not 0."""
        number = self._registers[IN_FIELDS["recipe"]]
        return [SelectRecipe(number, self.input)] if number else []

    def _risen(self, name: str) -> list[Event]:
        if name == "trigger":
            return [Triggered(self.input, self._part_id(), edge=True)]
        return [ResetPressed()] if name == "reset" else [ChallengeRequested()]

    def _counted(self, before: int, now: int) -> list[Event]:
        steps = (now - before) & 0xFFFF
        if not steps:
            return []
        if not self._started or steps > JUMP_MAX:
            self.generation += self._started
            steps = 1  # the first since the agent or the PLC began: whatever it counted before, this is one trigger
        self._started = True
        last = Triggered(self.input, self._part_id(), self._tag(now))
        return [*self._missed((now - 1) & 0xFFFF, steps - 1), last]

    def _missed(self, last: int, steps: int) -> list[Event]:
        counts = ((last - step) & 0xFFFF for step in range(steps - 1, -1, -1))
        return [Triggered(self.input, "", self._tag(count), missed=True) for count in counts]

    def _tag(self, count: int) -> int:
        return self.generation << 16 | count

    def _part_id(self) -> str:
        at = IN_FIELDS["part_id"]
        return text_of(self._registers[at : at + TEXT_REGISTERS])
