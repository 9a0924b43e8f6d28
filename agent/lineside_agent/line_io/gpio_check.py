"""Check that GPIO works on this board: one output wired to one input, through the agent's own code.

::

    python -m lineside_agent.line_io.gpio_check /dev/gpiochip0 --out 17 --in 27

It pulses the output as the handshake would set ``ready``, and counts the triggers of the input, with the time from
setting to edge. ``gpio-sim`` or two pins and a wire suffice. Not run on a board yet; please report results.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence

from lineside_agent.line_io.events import Event, LineState, SelectRecipe, Triggered
from lineside_agent.line_io.gpio import Gpio

PULSES = 100
OPEN_S = 5.0
EDGE_S = 1.0


def check(chip: str, output: str | int, input: str | int) -> dict[str, object]:
    """Pulses the output and returns what the input received."""
    edges: list[float] = []
    seen = threading.Condition()

    def post(event: Event | SelectRecipe, at_s: float) -> None:
        if isinstance(event, Triggered):
            with seen:
                edges.append(at_s)
                seen.notify_all()

    line = Gpio(chip, outputs={"ready": output}, inputs={"trigger": input})
    line.listen(post)
    until_s = time.monotonic() + OPEN_S
    while not (line.connected or line.problem) and time.monotonic() < until_s:
        time.sleep(0.01)
    took_ms, opened = [], line.connected
    for number in range(PULSES if opened else 0):
        began_s = time.monotonic()
        line.show(LineState(ready=True))
        with seen:
            if seen.wait_for(lambda number=number: len(edges) > number, EDGE_S):  # type: ignore[misc]
                took_ms.append(1000 * (edges[number] - began_s))
        line.show(LineState())
    line.close()
    middle = sorted(took_ms)[len(took_ms) // 2] if took_ms else None
    return {"opened": opened, "problem": line.problem, "pulses": PULSES, "edges": len(edges), "p50_ms": middle}


def advice(found: dict[str, object], chip: str) -> str:
    """Returns what to do about a check that failed; empty if it did not."""
    if not found["opened"]:
        return (
            f"{chip} or its lines can't be opened: {found['problem']}. gpiodetect and gpioinfo list chips and lines;"
            " the user needs the group gpio, and nobody else, such as an agent, may have the lines."
        )
    if found["edges"] != PULSES:
        return f"{found['edges']} of {PULSES} pulses came back: look at the wire, and at both lines' names (gpioinfo)."
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check; returns 0 if each pulse was one edge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chip")
    parser.add_argument("--out", required=True, help="name or number of the output")
    parser.add_argument("--in", dest="into", required=True, help="name or number of the input that it is wired to")
    options = parser.parse_args(arguments)
    output, into = (int(text) if text.isdecimal() else text for text in (options.out, options.into))
    found = check(options.chip, output, into)
    sys.stdout.write(json.dumps(found) + "\n")
    wrong = advice(found, options.chip)
    if wrong:
        sys.stderr.write(f"gpio_check: {wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
