"""Levels and inputs on the lines of a GPIO chip, through libgpiod 2.

All outputs are set by one call, so that PassFail is there when ResultValid rises. An edge carries the kernel's time on
the monotonic clock (``GPIO_V2_LINE_FLAG_EVENT_CLOCK_*`` not set, Linux' ``include/uapi/linux/gpio.h``), so a trigger's
deadline runs from the edge and not from when this thread woke up.

An output that goes away with its process (a released line may float, or keep its level: that is the board's) is no
safe state: let the gate reject without a pass.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lineside_agent.config import Input, Level
from lineside_agent.line_io.base import LinePort, Signal
from lineside_agent.line_io.events import (
    ChallengeRequested,
    Code,
    Event,
    LineState,
    PartAcknowledged,
    ResetPressed,
    Triggered,
)

if TYPE_CHECKING:
    import gpiod

log = logging.getLogger("lineside.line_io")

LOOK_S = 0.2

Line = str | int


class Gpio(LinePort):
    """Lines of one chip.

    Args:
        chip: Such as ``/dev/gpiochip0``.
        outputs: Level to line, by name or by number.
        active_low: Lines whose level is inverted.
        debounce_us: Edges that are closer are one edge to the kernel.
        bias: Of the inputs: ``as-is``, ``disabled``, ``pull-up``, ``pull-down``.
    """

    def __init__(
        self,
        chip: str,
        *,
        outputs: Mapping[Level, Line],
        inputs: Mapping[Input, Line],
        active_low: tuple[Line, ...] = (),
        debounce_us: int = 0,
        bias: str = "as-is",
    ) -> None:
        super().__init__(f"gpio {chip}")
        self._chip = chip
        self._outputs = outputs
        self._inputs = inputs
        self._active_low = active_low
        self._debounce_us = debounce_us
        self._bias = bias
        self._lock = threading.Lock()
        self._state = LineState()
        self._request: gpiod.LineRequest | None = None

    def show(self, state: LineState) -> None:
        """As `LineOutput.show`."""
        with self._lock:
            self._state = state
            self._set()

    def _send(self, signal: Signal) -> None:
        """Does nothing: the levels show the result."""

    def _serve(self) -> None:
        import gpiod

        outputs = tuple(self._outputs.values())
        config: dict[Iterable[Line] | Line, gpiod.LineSettings | None] = {}
        for line in outputs:
            config[line] = gpiod.LineSettings(
                direction=gpiod.line.Direction.OUTPUT, active_low=line in self._active_low
            )
        for line in self._inputs.values():
            config[line] = self._input_settings(line)
        try:
            request = gpiod.request_lines(self._chip, consumer="lineside", config=config)
        except ValueError as error:  # a line's name that the chip doesn't have, or a path that is no chip
            raise OSError(str(error)) from error
        with request:
            with self._lock:
                self._request = request
                self._set()
            self.connected = True
            log.info("%s is open", self.name)
            try:
                self._read(request)
            finally:
                with self._lock:
                    self._request = None
                    with contextlib.suppress(OSError):
                        request.set_values(dict.fromkeys(outputs, gpiod.line.Value.INACTIVE))

    def _input_settings(self, line: Line) -> gpiod.LineSettings:
        import gpiod

        bias = {
            "as-is": gpiod.line.Bias.AS_IS,
            "disabled": gpiod.line.Bias.DISABLED,
            "pull-up": gpiod.line.Bias.PULL_UP,
            "pull-down": gpiod.line.Bias.PULL_DOWN,
        }[self._bias]
        return gpiod.LineSettings(
            direction=gpiod.line.Direction.INPUT,
            edge_detection=gpiod.line.Edge.BOTH,
            active_low=line in self._active_low,
            bias=bias,
            debounce_period=datetime.timedelta(microseconds=self._debounce_us),
        )

    def _read(self, request: gpiod.LineRequest) -> None:
        import gpiod

        names = {_offset(request, line): name for name, line in self._inputs.items()}
        while not self._closing.is_set():
            if not request.wait_edge_events(datetime.timedelta(seconds=LOOK_S)):
                continue
            for edge in request.read_edge_events():
                rising = edge.event_type is gpiod.EdgeEvent.Type.RISING_EDGE
                event = event_of(names[edge.line_offset], rising, self.name)
                if event is not None:
                    self._post_event(event, edge.timestamp_ns / 1e9)

    def _set(self) -> None:
        """Sets all outputs; the caller holds the lock."""
        import gpiod

        if self._request is None or not self._outputs:
            return
        on, off = gpiod.line.Value.ACTIVE, gpiod.line.Value.INACTIVE
        levels = levels_of(self._state)
        try:
            self._request.set_values({line: on if levels[name] else off for name, line in self._outputs.items()})
        except OSError as error:
            log.error("%s: outputs can't be set: %s", self.name, error)
            self.problem, self.connected = f"outputs can't be set: {error}", False
        else:
            self.connected = True


def levels_of(state: LineState) -> dict[Level, bool]:
    """Returns every level that an output can show."""
    result = state.result
    return {
        "ready": state.ready,
        "busy": state.busy,
        "result_valid": state.result_valid,
        "passed": state.passed,
        "rejected": state.result_valid and result is not None and result.code is not Code.PASS,
        "unsure": state.result_valid and result is not None and result.code is Code.UNSURE,
        "fault": bool(state.fault),
        "gate": state.gate,
        "gate_pass": not state.gate,
        "challenge": state.challenge,
    }


def event_of(name: Input, rising: bool, input: str) -> Event | None:
    """Returns the event of an edge; ``None`` for none."""
    if name == "acknowledge":
        return PartAcknowledged(rising)
    if not rising:
        return None
    if name == "trigger":
        return Triggered(input, edge=True)
    return ResetPressed() if name == "reset" else ChallengeRequested()


def _offset(request: gpiod.LineRequest, line: Line) -> int:
    """Returns the number of a line that was requested by name."""
    if isinstance(line, int):
        return line
    numbers = dict(zip(request.lines, request.offsets, strict=True))
    return int(numbers[line])
