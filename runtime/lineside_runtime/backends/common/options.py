"""Refuse options that an engine can't follow, so that none is ignored silently."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lineside_runtime.backend import LoadOptions
from lineside_runtime.errors import ConfigError

_ACTIONS = {
    "threads": "Leave threads to the engine.",
    "cores": "Ask for one thread, start the process with `taskset`, or use an engine with threads of its own (ort).",
    "operator_libraries": "Use an engine that takes operator libraries (ort, openvino, litert, torch).",
}


def refuse(options: LoadOptions, engine: str, *names: str, why: str = "") -> None:
    """Refuses options that are set although the engine can't follow them.

    Raises:
        ConfigError: One of them is set.
    """
    for name in names:
        value = getattr(options, name)
        if value not in (None, ()):
            raise ConfigError(
                f"{engine} cannot follow {name!r}{f': {why}' if why else ''}", actual=value, action=_ACTIONS.get(name)
            )


@contextlib.contextmanager
def operator_library(path: Path, engine: str, *errors: type[Exception]) -> Iterator[None]:
    """Names the operator library in the error when an engine can't load it.

    Raises:
        ConfigError: It can't be loaded.
    """
    try:
        yield
    except errors as error:
        raise unloadable_library(path, engine, str(error).strip()) from error


def unloadable_library(path: Path, engine: str, why: str) -> ConfigError:
    """Returns the error for an operator library that an engine can't load."""
    return ConfigError(
        f"{engine} can't load the operator library {path}: {why}",
        action="Give a library of operators for this engine and its version, made for this machine.",
    )


def threads_of(options: LoadOptions) -> int | None:
    """Returns the number of threads of an engine with its own threads: one for each core by default."""
    return options.threads or (len(options.cores) if options.cores else None)


def threads_on_cores(options: LoadOptions, engine: str) -> int | None:
    """Returns the threads to use where an engine's workers are shared by all of the process.

    Such workers stay where they were first started, so that only the caller's own thread can be kept on cores.

    Raises:
        ConfigError: Cores are chosen for more than one thread.
    """
    if options.cores is None:
        return options.threads
    if options.threads not in (None, 1):
        refuse(options, engine, "cores", why="its threads but the caller's are shared by all models")
    return 1
