"""What every line protocol must do, as checks for the tests of a package that adds one.

::

    outcomes = list(run(LineSubject(lambda: MyLine("COM3"))))
    assert not [one for one in outcomes if one.verdict == "failed"]
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator

from lineside_agent.line_io.base import LineOutput, Signal
from lineside_agent.line_io.events import Code, LineState
from lineside_runtime.conformance.kit import CheckFailed, CheckOutcome, NotApplicable, run_checks

OPEN_S = 10.0
"""How long a line may take until its other end is reached."""

ANSWER_MAX_S = 5.0
"""How long one call may take where the other end is not there: the longest time-out that a protocol has."""

SIGNALS = tuple(
    Signal(number, f"A-{number}", code.verdict, code)
    for number, code in enumerate((Code.PASS, Code.REJECT, Code.NO_FRAME))
)


@dataclasses.dataclass(frozen=True, slots=True)
class LineSubject:
    """A line protocol that is tried.

    Attributes:
        make: Returns a new line whose other end is there.
        make_unreachable: Returns a new line whose other end is not there; ``None`` where that can't be.
    """

    make: Callable[[], LineOutput]
    make_unreachable: Callable[[], LineOutput] | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[LineOutput]:
        """Makes a line, waits until it reaches its other end, and closes it.

        Raises:
            CheckFailed: It doesn't within `OPEN_S`.
        """
        with contextlib.closing(self.make()) as line:
            line.listen(lambda event, at_s: None)
            until_s = time.monotonic() + OPEN_S
            while not line.signal(SIGNALS[0]):
                if time.monotonic() > until_s:
                    raise CheckFailed(f"it was not open after {OPEN_S:g} s: {line.problem}")
                time.sleep(0.05)
            yield line


def it_tells_every_verdict(subject: LineSubject) -> str:
    """A pass, a reject and a fault go out and are counted."""
    with subject.opened() as line:
        before, missed = line.sent, line.missed
        for signal in SIGNALS:
            if not line.signal(signal):
                raise CheckFailed(f"a {signal.verdict} did not go out: {line.problem}")
        if (line.sent - before, line.missed - missed) != (len(SIGNALS), 0):
            raise CheckFailed(f"of {len(SIGNALS)} signals it counts {line.sent - before} as sent")
    return ", ".join(signal.verdict for signal in SIGNALS)


def it_takes_levels_and_beats(subject: LineSubject) -> str:
    """The handshake's levels and its heartbeat, whether or not the protocol has such."""
    with subject.opened() as line:
        for state in (LineState(ready=True), LineState(busy=True), LineState(gate=True)):
            line.show(state)
            line.beat()
        if not line.signal(SIGNALS[0]):
            raise CheckFailed(f"no signal went out after the levels: {line.problem}")
    return "ready, busy, gate"


def its_status_says_that_it_is_open(subject: LineSubject) -> str:
    """``status.json`` holds its name, its counts, and no problem."""
    with subject.opened() as line:
        status = line.status()
        text = json.dumps(status)
        if status["name"] != line.name or not status["open"] or status["problem"]:
            raise CheckFailed(text)
    return text


def it_opens_again_after_it_was_closed(subject: LineSubject) -> str:
    """Closing gives the port back; done twice it changes nothing."""
    for _ in range(2):
        with subject.opened() as line:
            pass
        line.close()
    return "twice"


def unreachable_it_counts_and_does_not_raise(subject: LineSubject) -> str:
    """A signal that can't go out is missed, in the protocol's time-out, and the reason is kept."""
    if subject.make_unreachable is None:
        raise NotApplicable("its other end is always there")
    with contextlib.closing(subject.make_unreachable()) as line:
        began_s = time.monotonic()
        sent = [line.signal(signal) for signal in SIGNALS]
        took_s = time.monotonic() - began_s
        if any(sent) or line.missed != len(SIGNALS) or line.is_open:
            raise CheckFailed(f"signals without another end: sent {sent}, {line.missed} missed")
        if took_s > ANSWER_MAX_S:
            raise CheckFailed(f"{len(SIGNALS)} signals took {took_s:.1f} s")
        until_s = time.monotonic() + OPEN_S  # a line with a thread of its own finds out a little later
        while not line.problem and time.monotonic() < until_s:
            time.sleep(0.05)
        if not line.problem:
            raise CheckFailed("it doesn't say why it can't be reached")
    return line.problem


CHECKS: tuple[Callable[[LineSubject], str], ...] = (
    it_tells_every_verdict,
    it_takes_levels_and_beats,
    its_status_says_that_it_is_open,
    it_opens_again_after_it_was_closed,
    unreachable_it_counts_and_does_not_raise,
)


def run(subject: LineSubject) -> Iterator[CheckOutcome]:
    """Puts a line protocol through the checks, one after the other."""
    return run_checks(subject, CHECKS)
