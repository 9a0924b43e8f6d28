"""What every engine must do, one check each, named after it."""

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
