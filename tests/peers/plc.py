"""A PLC as a process of its own: libmodbus by ctypes, the standard library, and nothing of ours.

It triggers parts over Modbus TCP by the agent's trigger counter, polls the register block, and counts what it is told::

    python plc.py HOST PORT PARTS [--rush SHARE] [--rate HZ] [--cycle-ms MS] [--seed N] [--mortal] [--answers FILE]

Each part is triggered when the agent is ready, or when it has not been for 50 ms: what stands on a line comes. With
``--rush``, that share of the parts comes right behind the one before, ready or not. A fault is reset as an operator
would. It polls as fast as it is answered, or once in a cycle of so many milliseconds. SIGTERM ends the triggering: the
parts that are under way are waited for, and summed up are those that were triggered.
With ``--mortal`` the agent may be killed at any moment: a part that was under way then is given up, as it would be on a
line, and is never triggered twice; the summary names every answer. ``--answers`` writes each to a file, one JSON array
a line: the part, the code, when it was triggered (seconds of the monotonic clock) and the milliseconds that it took.
Progress goes to stderr, one object at the end to stdout.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import ctypes.util
import json
import random
import signal
import sys
import time
from types import FrameType
from typing import TextIO

BLOCK, RING_AT, RING = 106, 42, 16
READY, FAULT = 1 << 0, 1 << 4
RESET = 1 << 1
PASS, LATE = 1, 4
REPLY_S = 2.0
GIVE_UP_S = 120.0


class Modbus:
    """One connection; made anew when it fails."""

    def __init__(self, host: str, port: int) -> None:
        self.lib = ctypes.CDLL(ctypes.util.find_library("modbus") or "libmodbus.so.5", use_errno=True)
        self.lib.modbus_new_tcp.restype = ctypes.c_void_p
        self.lib.modbus_strerror.restype = ctypes.c_char_p
        self.context = ctypes.c_void_p(self.lib.modbus_new_tcp(host.encode(), port))
        self.lib.modbus_set_response_timeout(self.context, int(REPLY_S), 0)
        self.connected = False
        self.errors = 0
        self.breaks = 0

    def connect(self) -> None:
        """Again and again, since an agent may be busy; not for ever, since it may have ended."""
        until_s = time.monotonic() + GIVE_UP_S
        while not self.connected:
            if time.monotonic() > until_s:
                raise SystemExit("nobody answers")
            self.connected = self.lib.modbus_connect(self.context) == 0
            if not self.connected:
                self.failed()
                time.sleep(0.05)

    def failed(self) -> None:
        self.errors += 1
        self.breaks += self.connected
        self.connected = False
        self.lib.modbus_close(self.context)

    def read(self) -> list[int]:
        registers = (ctypes.c_uint16 * BLOCK)()
        while True:
            self.connect()
            if self.lib.modbus_read_input_registers(self.context, 0, BLOCK, registers) == BLOCK:
                return list(registers)
            self.failed()

    def write(self, address: int, values: list[int]) -> None:
        """Until it is confirmed: saying the same counter again is no second trigger."""
        while not self.write_once(address, values):
            pass

    def write_once(self, address: int, values: list[int]) -> bool:
        """Whether it was confirmed."""
        registers = (ctypes.c_uint16 * len(values))(*values)
        self.connect()
        if self.lib.modbus_write_registers(self.context, address, len(values), registers) == len(values):
            return True
        self.failed()
        return False


class Plc:
    def __init__(self, bus: Modbus, *, cycle_s: float = 0.0, mortal: bool = False) -> None:
        self.bus = bus
        self.cycle_s = cycle_s
        self.mortal = mortal
        self.breaks = 0
        self.answers: TextIO | None = None
        self.told: list[tuple[int, int, int]] = []
        self.given_up: set[int] = set()
        self.unconfirmed: set[int] = set()
        self.ends = False
        self.triggers = 0
        self.started_s: dict[int, float] = {}
        self.codes: collections.Counter[int] = collections.Counter()
        self.verdicts: collections.Counter[int] = collections.Counter()
        self.numbers: list[int] = []
        self.took_ms: list[float] = []
        self.pass_ms: list[float] = []
        self.overrun = 0
        self.resets = 0
        self.beats: set[int] = set()
        block = bus.read()
        self.seen = block[40] << 16 | block[41]

    def look(self) -> list[int]:
        """One poll: takes every answer that is new in the ring."""
        if self.cycle_s:
            time.sleep(self.cycle_s)
        block = self.bus.read()
        now_s = time.monotonic()
        self.beats.add(block[1])
        count = block[40] << 16 | block[41]
        if self.mortal and self.breaks != self.bus.breaks:
            self.breaks = self.bus.breaks
            if not self.is_same_agent(block, count):
                self.seen = 0
                self.give_up()
        if count - self.seen > RING:
            self.overrun += count - self.seen - RING
            self.seen = count - RING
        for place in range(self.seen, count):
            at = RING_AT + 4 * (place % RING)
            number, tag, code = block[at] << 16 | block[at + 1], block[at + 2], block[at + 3]
            part = self.part_of(tag)
            self.verdicts[part] += 1
            self.codes[code] += 1
            self.numbers.append(number)
            self.told.append((part, number, code))
            self.given_up.discard(part)
            took_ms = 1000 * (now_s - self.started_s[part])
            self.took_ms.append(took_ms)
            if self.answers is not None:
                print(json.dumps([part, code, self.started_s[part], took_ms]), file=self.answers)
            if code == PASS:
                self.pass_ms.append(took_ms)
        self.seen = count
        return block

    def is_same_agent(self, block: list[int], count: int) -> bool:
        """Whether it still knows what it said last; one that was started anew counts from nothing."""
        if not self.told or count < self.seen:
            return False
        at = RING_AT + 4 * ((self.seen - 1) % RING)
        return self.seen > 0 and (block[at] << 16 | block[at + 1]) == self.told[-1][1]

    def give_up(self) -> None:
        """Whoever had the parts that are under way is dead."""
        self.given_up |= {part for part in self.started_s if not self.verdicts[part]}

    def is_answered(self) -> bool:
        return sum(self.verdicts.values()) + len(self.given_up) >= self.triggers

    def part_of(self, tag: int) -> int:
        """The counter has 16 bits and parts go on: the latest part with this counter."""
        return self.triggers - ((self.triggers - tag) & 0xFFFF)

    def trigger(self) -> None:
        self.triggers += 1
        name = f"part-{self.triggers}".encode().ljust(32, b"\0")
        text = [name[at] << 8 | name[at + 1] for at in range(0, 32, 2)]
        self.started_s[self.triggers] = time.monotonic()
        self.started_s.pop(self.triggers - 1000, None)
        values = [self.triggers & 0xFFFF, 0, 0, 0, *text]
        if not self.mortal:
            self.bus.write(0, values)
        elif not self.bus.write_once(0, values):
            self.unconfirmed.add(self.triggers)
            self.give_up()

    def end(self, _number: int, _frame: FrameType | None) -> None:
        """A signal's handler: no further part is triggered."""
        self.ends = True

    def await_ready(self) -> None:
        """A part comes when the agent is ready, or 50 ms later all the same; a fault is reset."""
        since_s = time.monotonic()
        while True:
            status = self.look()[2]
            if status & FAULT:
                self.bus.write(1, [RESET])
                self.bus.write(1, [0])
                self.resets += 1
            if status & READY or time.monotonic() - since_s > 0.05:
                return

    def await_answers(self, limit_s: float) -> bool:
        """Until each part has its verdict, or too long."""
        until_s = time.monotonic() + limit_s
        while not self.is_answered():
            if time.monotonic() > until_s:
                return False
            self.look()
        return True

    def summary(self) -> dict[str, object]:
        took = sorted(self.took_ms)
        at = lambda share: round(took[min(len(took) - 1, int(share * len(took)))], 3)  # noqa: E731
        return {
            "triggers": self.triggers,
            "verdicts": sum(self.verdicts.values()),
            "lost": sum(self.verdicts[part] == 0 for part in range(1, self.triggers + 1)),
            "twice": sum(count > 1 for count in self.verdicts.values()),
            "numbers_contiguous": self.numbers == list(range(self.numbers[0], self.numbers[0] + len(self.numbers))),
            "codes": {str(code): count for code, count in sorted(self.codes.items())},
            "overrun": self.overrun,
            "resets": self.resets,
            "errors": self.bus.errors,
            "heartbeats": len(self.beats),
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "max_ms": took[-1],
            "slowest_pass_ms": max(self.pass_ms, default=0.0),
            **({"told": self.told, "unconfirmed": sorted(self.unconfirmed)} if self.mortal else {}),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("parts", type=int)
    parser.add_argument("--rush", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--cycle-ms", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mortal", action="store_true")
    parser.add_argument("--answers", type=argparse.FileType("w"))
    options = parser.parse_args()
    chance = random.Random(options.seed)
    plc = Plc(Modbus(options.host, options.port), cycle_s=options.cycle_ms / 1000, mortal=options.mortal)
    plc.answers = options.answers
    signal.signal(signal.SIGTERM, plc.end)
    due_s = time.monotonic()
    while plc.triggers < options.parts and not plc.ends:
        if options.rate:
            due_s = max(due_s + 1 / options.rate, time.monotonic() - 1.0)
            while time.monotonic() < due_s:
                plc.look()
        rushes = chance.random() < options.rush and plc.triggers - sum(plc.verdicts.values()) < RING // 2
        if not rushes:
            plc.await_answers(10.0)
            plc.await_ready()
        plc.trigger()
        if plc.triggers % 100 == 0:
            print(json.dumps({"triggers": plc.triggers, "codes": plc.codes}), file=sys.stderr, flush=True)
    plc.await_answers(30.0)
    print(json.dumps(plc.summary()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
