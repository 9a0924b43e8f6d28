"""Settings of a recipe or a camera that override a table."""

from __future__ import annotations

from typing import Any

import msgspec

from lineside_agent.config.cameras import CameraConfig
from lineside_agent.config.tables import InspectConfig, RecipeCamera, RecipeConfig
from lineside_models.verdict.rules import Rules
from lineside_runtime.config_errors import config_error
from lineside_runtime.errors import ConfigError


def inspect_of(inspect: InspectConfig, recipe: RecipeConfig) -> InspectConfig:
    """Returns the ``[inspect]`` table with the keys of a recipe.

    Raises:
        ConfigError: An unknown key, a wrong type or a value out of range, or both contradict each other; the message
            names the path.
    """
    return _merged_with(inspect, recipe.inspect, f"$.recipe[{recipe.name}].inspect")


def rules_of(inspect: InspectConfig, camera: CameraConfig) -> InspectConfig:
    """Returns the ``[inspect]`` table with the keys of one of several cameras.

    Raises:
        ConfigError: As `inspect_of`, or the key says how a bundle is run, which is the same for all cameras.
    """
    path = f"$.camera[{camera.name}].inspect"
    if strange := camera.inspect.keys() & _ENGINE_KEYS:
        raise ConfigError(f"{path}.{min(strange)} is the same for all cameras", expected=f"$.inspect.{min(strange)}")
    return _merged_with(inspect, camera.inspect, path)


_ENGINE_KEYS = frozenset(InspectConfig.__struct_fields__) - frozenset(Rules.__struct_fields__)


def _merged_with(inspect: InspectConfig, given: dict[str, Any], path: str) -> InspectConfig:
    merged = {**msgspec.to_builtins(inspect, enc_hook=str), **given}
    try:
        return msgspec.convert(merged, InspectConfig)
    except msgspec.ValidationError as error:
        raise config_error(error, InspectConfig, merged, root=path) from error


def camera_of(camera: CameraConfig, recipe: RecipeConfig) -> CameraConfig:
    """Returns a camera's table with the settings of a recipe.

    Raises:
        ConfigError: This kind of camera has no such setting.
    """
    settings = recipe.cameras.get(camera.name, recipe.camera)
    changes = {name: value for name in RECIPE_CAMERA if (value := getattr(settings, name)) is not None}
    if strange := [name for name in changes if not hasattr(camera, name)]:
        kind = str(getattr(camera, "kind", camera.type_name()))
        path = f"$.recipe[{recipe.name}].camera.{strange[0]}"
        raise ConfigError(f"{path}: this camera has no such setting", expected="a camera that has", actual=kind)
    return msgspec.structs.replace(camera, **changes)


RECIPE_CAMERA = tuple(field.name for field in msgspec.structs.fields(RecipeCamera))
