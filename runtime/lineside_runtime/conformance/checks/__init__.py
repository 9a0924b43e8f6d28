"""The checks: what every engine must do, each named after it.

A check is a function that takes an `EngineSubject`, returns a line of what it saw, and raises `CheckFailed`, or
`NotApplicable` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable

from lineside_runtime.conformance.checks import answers, identity, loading, options, refusals
from lineside_runtime.conformance.subject import EngineSubject

Check = Callable[[EngineSubject], str]

CHECKS: tuple[Check, ...] = (
    *identity.CHECKS,
    *answers.CHECKS,
    *refusals.CHECKS,
    *loading.CHECKS,
    *options.CHECKS,
)
"""All of them, in the order in which they run: what fails first explains the rest."""


def title(check: Check) -> str:
    """Returns what a check is called: its function's name as words."""
    return check.__name__.replace("_", " ")
