"""`ProvisionStep`: one thing that should be so on the board. Looked at, done if it isn't so, and looked at again.

Nothing is remembered between runs: what was done stands on the board. A command that was killed, or whose cable was
pulled, is simply given again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from lineside_boards.provision.shell import Shell
from lineside_runtime.errors import ProvisionError

Say = Callable[[str], None]

LOOK_EVERY_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionStep:
    """What should be so.

    Attributes:
        name: For people, as a fact: ``the host name is cam-07``.
        look: Returns what isn't so yet, in words; empty if it is so. Changes nothing.
        do: Makes it so; may be done twice.
        wait_s: How long its effect may take.
        hint: What to check if it doesn't take.
    """

    name: str
    look: Callable[[Shell], str]
    do: Callable[[Shell], None]
    wait_s: float = 0.0
    hint: str | None = None


def carry_out(steps: Sequence[ProvisionStep], shell: Shell, say: Say) -> int:
    """Makes every step so, in order.

    Args:
        steps: What should be so.
        shell: On the board.
        say: Told of each step.

    Returns:
        How many of them had to be done.

    Raises:
        ProvisionError: One was done, and the board still says otherwise.
        DiskFullError: There is no room on the board.
        BoardLinkError: The line broke.
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
