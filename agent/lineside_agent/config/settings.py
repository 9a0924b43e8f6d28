"""The tables that a hub may set by a signed configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from lineside_agent.config.agent_config import AgentConfig
from lineside_agent.config.checks import check_recipes
from lineside_agent.config.overrides import refuse_files
from lineside_agent.config.tables import InspectConfig
from lineside_agent.config.value_types import decode_path
from lineside_models.verdict.rules import Rules
from lineside_runtime.config_errors import config_error, naming_file
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError, InputNotFoundError

SETTABLE = ("inspect", "store")
"""The tables that a signed configuration from the hub may set. Identity, trust, cameras and outputs are set only on the
device."""


SETTINGS_MAX_BYTES = 64 * 1024


_FIELDS = {field.name: field for field in msgspec.structs.fields(AgentConfig)}


Settings = msgspec.defstruct(
    "Settings",
    [(name, _FIELDS[name].type, _FIELDS[name].default) for name in SETTABLE],
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
)
"""The part of `AgentConfig` that a hub may set."""


def read_settings(data: bytes, *, by: str = "a hub") -> dict[str, Any]:
    """Reads a configuration from the hub and checks it against the agent's own schema.

    Args:
        by: What sets it, for a message.

    Returns:
        The tables that it sets, as they stand in it.

    Raises:
        ConfigError: Not TOML, too large, a table that only the device may set, an unknown key, a wrong type or a value
            out of range; the message names the path, such as ``$.inspect.threads``.
    """
    if len(data) > SETTINGS_MAX_BYTES:
        action = "Leave out what is as it was; a mask may have fewer pixels, or be a polygon."
        raise ConfigError(
            "configuration", expected=f"at most {SETTINGS_MAX_BYTES} bytes", actual=len(data), action=action
        )
    try:
        given: dict[str, Any] = decode_toml(data)
        foreign = [name for name in given if name not in SETTABLE]
        if foreign:
            action = "Leave it out: the rest of agent.toml is set on the device."
            raise ConfigError(f"$.{foreign[0]} can't be set by {by}", expected=", ".join(SETTABLE), action=action)
        msgspec.convert(given, Settings, dec_hook=decode_path)
        inspect = given.get("inspect", {})
        refuse_files(inspect, "$.inspect", by)
        for name, table in inspect.get("models", {}).items():
            refuse_files(table, f"$.inspect.models.{name}", by)
    except msgspec.ValidationError as error:
        raise config_error(error, Settings, given) from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"the configuration is not TOML: {error}") from error
    return given


def with_settings(config: AgentConfig, data: bytes) -> AgentConfig:
    """Returns ``agent.toml`` with the keys of the hub's configuration.

    Raises:
        ConfigError: As `read_settings`, or what it sets and what ``agent.toml`` says contradict each other.
    """
    changes: dict[str, Any] = {}
    for name, value in read_settings(data).items():
        if isinstance(value, dict):
            value = {**msgspec.to_builtins(getattr(config, name), enc_hook=str), **value}
        try:
            changes[name] = msgspec.convert(value, _FIELDS[name].type, dec_hook=decode_path)
        except msgspec.ValidationError as error:
            raise config_error(error, _FIELDS[name].type, value, root=f"$.{name}", where="over agent.toml") from error
    merged = msgspec.structs.replace(config, **changes)
    check_recipes(merged)
    return merged


def load_rules(path: Path) -> Rules:
    """Reads the rules of the ``[inspect]`` table of a TOML file as for ``lineside push --config``.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: A hub could not set it, or it has no such table; the message names the path.
    """
    table = load_inspect(path)
    return Rules(**{name: getattr(table, name) for name in Rules.__struct_fields__})


def load_inspect(path: Path) -> InspectConfig:
    """Reads the ``[inspect]`` table of a TOML file as for ``lineside push --config``.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: A hub could not set it, or it has no such table; the message names the path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="Give a TOML file with [inspect].") from error
    with naming_file(str(path)):
        settings = read_settings(data, by="a rules file")
    if "inspect" not in settings:
        raise ConfigError(f"{path} has no rules", expected="a table [inspect]", actual=", ".join(settings) or "nothing")
    return msgspec.convert(settings["inspect"], InspectConfig)
