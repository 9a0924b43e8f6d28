"""Read ``agent.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lineside_agent.config.agent_config import AgentConfig
from lineside_agent.config.cameras import CameraConfig
from lineside_agent.config.checks import check_line, check_recipes
from lineside_agent.config.tables import RecipeConfig
from lineside_agent.config.value_types import decode_path
from lineside_link.config import LinkConfig
from lineside_link.topics import check_name
from lineside_runtime.config_errors import config_error, naming_file
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError, InputNotFoundError


def read_config(path: Path | str) -> AgentConfig:
    """Reads ``agent.toml``; relative paths in it start at its own folder.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: Not TOML, an unknown key, a wrong type or a value out of range; the message names the path.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="Give the path of agent.toml.") from error
    return parse_config(data, Path(path).resolve().parent, name=str(path))


def parse_config(data: bytes, folder: Path, *, name: str = "agent.toml") -> AgentConfig:
    """Reads the bytes of ``agent.toml``.

    Args:
        folder: Start of relative paths.
        name: Name of the file for messages.

    Raises:
        ConfigError: Not TOML, an unknown key, a wrong type or a value out of range; the message names the path.
    """
    with naming_file(name):
        try:
            config = decode_toml(data, type=AgentConfig, dec_hook=decode_path)
        except msgspec.ValidationError as error:
            raise config_error(error, AgentConfig, decode_toml(data), where=name) from error
        except msgspec.DecodeError as error:
            raise ConfigError(f"{name} is not TOML: {error}") from error
        check_name(config.device, "device")
        check_name(config.group, "group")
        if config.link is not None and config.root is None:
            raise ConfigError("$.root is missing", expected="the path of root.json, since $.link is there")
        if config.link is None and config.bundle is None:
            expected = "a bundle to run, or a hub that pushes one"
            raise ConfigError("neither $.bundle nor $.link is there", expected=expected)
        check_line(config)
        check_recipes(config)
        return _resolved(config, folder)


def parse_camera(table: dict[str, Any]) -> CameraConfig:
    """Reads a ``[camera]`` table; relative paths in it start at the working folder.

    Raises:
        ConfigError: An unknown key, a wrong type or a value out of range; the message names the path.
    """
    try:
        camera: CameraConfig = msgspec.convert(table, CameraConfig, dec_hook=decode_path)
    except msgspec.ValidationError as error:
        raise config_error(error, CameraConfig, table, root="$.camera") from error
    return camera


def _resolved(config: AgentConfig, folder: Path) -> AgentConfig:
    changes: dict[str, object] = {
        field: folder / value for field in ("folder", "root", "bundle") if (value := getattr(config, field)) is not None
    }
    cameras = tuple(_resolved_camera(camera, folder) for camera in config.cameras)
    changes["camera"] = cameras if isinstance(config.camera, tuple) else cameras[0]
    if config.bundle is not None:
        changes["bundle"] = _installed_or_shipped(config.bundle, folder)
    if config.link is not None:
        changes["link"] = _resolved_link(config.link, folder)
    if config.degrade is not None and config.degrade.system is not None:
        changes["degrade"] = msgspec.structs.replace(config.degrade, system=folder / config.degrade.system)
    if config.screen is not None:
        tls = {name: folder / path for name in ("tls_certificate", "tls_key") if (path := getattr(config.screen, name))}
        changes["screen"] = msgspec.structs.replace(config.screen, **tls)
    changes["inspect"] = msgspec.convert(
        _resolved_inspect(msgspec.to_builtins(config.inspect), folder), type=type(config.inspect)
    )
    changes["recipe"] = tuple(_resolved_recipe(recipe, folder) for recipe in config.recipe)
    return msgspec.structs.replace(config, **changes)


def _resolved_recipe(recipe: RecipeConfig, folder: Path) -> RecipeConfig:
    bundle = None if recipe.bundle is None else _installed_or_shipped(recipe.bundle, folder)
    return msgspec.structs.replace(recipe, bundle=bundle, inspect=_resolved_inspect(recipe.inspect, folder))


def _resolved_inspect(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns an ``[inspect]`` table with the paths of its files."""
    found = dict(table)
    if found.get("reference"):
        found["reference"] = [str(folder / file) for file in found["reference"]]
    if found.get("expected_values"):
        found["expected_values"] = str(folder / found["expected_values"])
    if (found.get("cache") or {}).get("sqlite"):
        found["cache"] = {**found["cache"], "sqlite": str(folder / found["cache"]["sqlite"])}
    if found.get("operator_libraries"):
        libraries = found["operator_libraries"]
        found["operator_libraries"] = {name: [str(folder / file) for file in libraries[name]] for name in libraries}
    if found.get("models"):
        found["models"] = {name: _resolved_inspect(model, folder) for name, model in found["models"].items()}
    return found


def _resolved_camera(camera: CameraConfig, folder: Path) -> CameraConfig:
    path = getattr(camera, "path", None)
    return camera if path is None else msgspec.structs.replace(camera, path=folder / path)


def _installed_or_shipped(bundle: Path, folder: Path) -> Path:
    """Returns the bundle's folder; a bare name without a folder here may be that of a shipped bundle."""
    if len(bundle.parts) > 1 or bundle.is_absolute() or (folder / bundle).exists():
        return folder / bundle
    from lineside_models import zoo  # an agent may be installed without the shipped bundles

    return zoo.path(str(bundle)) if str(bundle) in zoo.NAMES else folder / bundle


def _resolved_link(link: LinkConfig, folder: Path) -> LinkConfig:
    names = ("ca", "certificate", "key", "password_file")
    paths = {name: str(folder / value) for name in names if (value := getattr(link, name)) is not None}
    return msgspec.structs.replace(link, **paths)
