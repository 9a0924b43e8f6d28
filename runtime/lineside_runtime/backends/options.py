"""Options that an engine can't follow are refused, so that none is ignored in silence."""

from __future__ import annotations

from lineside_runtime.backend import LoadOptions
from lineside_runtime.errors import ConfigError

_WAYS_ON = {
    "threads": "Leave threads to the engine.",
    "cores": "Start the process with `taskset`, or use an engine that pins its threads (ort, openvino).",
    "operator_libraries": "Use an engine that takes operator libraries (ort, openvino, litert).",
}


def refuse(options: LoadOptions, engine: str, *names: str, why: str = "") -> None:
    """Refuses options that are set although the engine can't follow them.

    Args:
        options: What the model is loaded with.
        engine: Name for the message.
        names: Those of the fields that the engine can't follow.
        why: What the engine lacks.

    Raises:
        ConfigError: One of them is set.
    """
    for name in names:
        value = getattr(options, name)
        if value not in (None, ()):
            raise ConfigError(
                f"{engine} cannot follow {name!r}{f': {why}' if why else ''}", actual=value, action=_WAYS_ON.get(name)
            )
