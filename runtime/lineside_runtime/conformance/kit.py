"""Run checks that anything of a kind must pass: an engine, a camera, a line protocol.

A check is a function of the subject that is tried. It returns a line of what it saw, and raises `CheckFailed`, or
`NotApplicable` with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import msgspec

from lineside_runtime.errors import LinesideError

S = TypeVar("S")
Verdict = Literal["passed", "failed", "not applicable"]


class CheckFailed(Exception):  # noqa: N818  a verdict on the subject, no error of the program
    """The subject does not do what everything of its kind must do."""


class NotApplicable(Exception):  # noqa: N818  no error: the check asks for something that isn't there to be asked
    """The check doesn't apply to this subject; the text says why."""


class CheckOutcome(msgspec.Struct, frozen=True):
    """How one check went.

    Attributes:
        check: What the subject must do.
        detail: What was seen, or what went wrong.
        seconds: How long it took.
    """

    check: str
    verdict: Verdict
    detail: str
    seconds: float


def title(check: Callable[[S], str]) -> str:
    """Returns the name of a check: its function's name as words."""
    return check.__name__.replace("_", " ")


def run_checks(
    subject: S, checks: Iterable[Callable[[S], str]], name: Callable[[Callable[[S], str]], str] = title
) -> Iterator[CheckOutcome]:
    """Puts a subject through checks, one after the other, in this process.

    Args:
        checks: In the order in which they run.
        name: Returns what a check is called.
    """
    for check in checks:
        started_s = time.perf_counter()
        verdict, detail = _judge(subject, check)
        yield CheckOutcome(name(check), verdict, detail, round(time.perf_counter() - started_s, 3))


def _judge(subject: S, check: Callable[[S], str]) -> tuple[Verdict, str]:
    try:
        return "passed", check(subject)
    except NotApplicable as reason:
        return "not applicable", str(reason)
    except CheckFailed as failure:
        return "failed", str(failure)
    except LinesideError as error:
        return "failed", f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001  what lets a foreign exception through has failed the check
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        return "failed", f"it let {kind} through, which is no error of ours: {error}"
