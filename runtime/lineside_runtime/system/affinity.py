"""Which processor cores a thread may use.

Linux gives a new thread the cores of the thread that starts it, so that an engine's worker threads stay on those that
the loading thread is kept on meanwhile, whatever the engine itself offers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator

from lineside_runtime.errors import ConfigError


def on_cores(cores: Collection[int] | None) -> contextlib.AbstractContextManager[None]:
    """Keeps the calling thread, and those that it starts meanwhile, on these cores.

    Args:
        cores: Their numbers; ``None`` leaves everything as it is.

    Raises:
        ConfigError: There are no such cores, this process may not use them, or the system can't do it.
    """
    return contextlib.nullcontext() if cores is None else _restricted_to(cores)


@contextlib.contextmanager
def _restricted_to(cores: Collection[int]) -> Iterator[None]:
    before = allowed()
    if before == set(cores):
        yield
        return
    _keep_on(cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def allowed() -> set[int]:
    """Returns the cores that the calling thread may use.

    Raises:
        ConfigError: The system doesn't tell: only Linux does.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise ConfigError("cores", expected="None on this system", action="Cores can be chosen on Linux only.")
    return set(os.sched_getaffinity(0))


def _keep_on(cores: Collection[int]) -> None:
    try:
        os.sched_setaffinity(0, set(cores))  # ignores numbers beyond those that exist if one of them exists
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            "cores",
            expected=f"some of {os.cpu_count()} cores, from 0",
            actual=sorted(cores),
            action="Name other cores.",
        ) from error
