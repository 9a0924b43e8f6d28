"""Read inspection rules from a file, checked by the agent's own schema."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lineside_agent.config import InspectConfig, read_settings
from lineside_models.verdict.rules import Rules
from lineside_runtime.config_errors import naming_file
from lineside_runtime.errors import ConfigError, InputNotFoundError


def load_rules(path: Path) -> Rules:
    """Reads what the ``[inspect]`` table of a TOML file says counts as a defect.

    Args:
        path: A file as for ``lineside push --config``.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: A hub could not set it, or it has no such table; the message names the path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="Give a TOML file with [inspect].") from error
    with naming_file(str(path)):
        settings = read_settings(data)
    if "inspect" not in settings:
        raise ConfigError(f"{path} has no rules", expected="a table [inspect]", actual=", ".join(settings) or "nothing")
    table = msgspec.convert(settings["inspect"], InspectConfig)
    return Rules(**{name: getattr(table, name) for name in Rules.__struct_fields__})
