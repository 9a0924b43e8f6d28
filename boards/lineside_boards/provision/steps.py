"""`ProvisionStep`: a state that the board should have. It is checked, established if needed, and checked again.

Nothing is stored between runs: the state is on the board. After a kill or a pulled cable the command is repeated.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from lineside_boards.errors import ProvisionError
from lineside_boards.provision.shell import Shell

Say = Callable[[str], None]

LOOK_EVERY_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionStep:
    """A state of the board.

    Attributes:
        name: The state as a fact: ``the host name is cam-07``.
        look: Returns the difference from the state; empty if there is none. Changes nothing.
        do: Establishes the state; may run twice.
        wait_s: Time that the effect may take.
        hint: Advice if there is no effect.
    """

    name: str
    look: Callable[[Shell], str]
    do: Callable[[Shell], None]
    wait_s: float = 0.0
    hint: str | None = None


def carry_out(steps: Sequence[ProvisionStep], shell: Shell, say: Say) -> int:
    """Establishes the states in order.

    Returns:
        Number of steps that had to be done.

    Raises:
        ProvisionError: A step had no effect.
        DiskFullError: There is no space on the board.
        BoardLinkError: The connection broke.
    """
    done = 0
    for step in steps:
        if not step.look(shell):
            say(f"already so: {step.name}")
            continue
        step.do(shell)
        done += 1
        left = _wait(step, shell)
        if left:
            raise ProvisionError(f"{step.name}: it was set, and read back it isn't so", actual=left, action=step.hint)
        say(f"      done: {step.name}")
    return done


def _wait(step: ProvisionStep, shell: Shell) -> str:
    deadline = time.monotonic() + step.wait_s
    while (left := step.look(shell)) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    return left
