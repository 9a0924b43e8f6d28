"""Settings of a recipe or a camera that override a table."""

from __future__ import annotations

from typing import Any

import msgspec

from lineside_agent.config.cameras import CameraConfig
from lineside_agent.config.placement import PlacementConfig, engine_settings
from lineside_agent.config.tables import InspectConfig, RecipeCamera, RecipeConfig
from lineside_models.verdict.rules import Rules
from lineside_runtime.bundle import Manifest, ModelEntry
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


def model_rule_path(key: str, inspect: InspectConfig, model: ModelEntry, *, recipe: RecipeConfig | None = None) -> str:
    """Returns the path of a key of one of several models, as `model_inspect` has merged it.

    Args:
        inspect: With the settings of the recipe.
        recipe: As for `rule_path`.
    """
    if key in model.inspect and key not in inspect.models.get(model.name, {}):
        return f"$.models[{model.name}].inspect.{key}"
    return f"{rule_path('models', recipe=recipe)}.{model.name}.{key}"


def rule_path(key: str, *, recipe: RecipeConfig | None = None, camera: CameraConfig | None = None) -> str:
    """Returns the path of a key of ``[inspect]``, such as ``$.inspect.thresholds``.

    Args:
        recipe: Whose settings `inspect_of` has merged.
        camera: Whose settings `rules_of` has merged.
    """
    if camera is not None and key in camera.inspect:
        return f"$.camera[{camera.name}].inspect.{key}"
    if recipe is not None and key in recipe.inspect:
        return f"$.recipe[{recipe.name}].inspect.{key}"
    return f"$.inspect.{key}"


_ENGINE_KEYS = frozenset(InspectConfig.__struct_fields__) - frozenset(Rules.__struct_fields__)


MODEL_KEYS = frozenset((*PlacementConfig.__struct_fields__, "variant", "max_ms", "reference"))
"""Keys of ``[inspect]`` that one of several models may have of its own."""


_WHOLE_FRAME_KEYS = frozenset(("brightness", "frame_size", "min_contrast"))
"""Keys that say which frames can be judged: what is cut out of one is not asked."""


def model_inspect(inspect: InspectConfig, model: ModelEntry) -> InspectConfig:
    """Returns the ``[inspect]`` table of one of several models of a bundle.

    Where it runs follows ``[inspect]``, then the bundle, then ``[inspect.models]``; what counts as a defect the bundle
    and ``[inspect.models]`` alone, because one model's rules fit no other.

    Raises:
        ConfigError: As `inspect_of`, a key that is the same for all models, one of whole frames for a model that takes
            boxes, or a file or server in the bundle.
    """
    refuse_files(model.inspect, f"$.models[{model.name}].inspect", "a bundle")
    shared = {name: getattr(inspect, name) for name in InspectConfig.__struct_fields__ if name not in _OF_ONE_MODEL}
    merged = InspectConfig(**shared)
    for given, path in (
        (model.inspect, f"$.models[{model.name}].inspect"),
        (inspect.models.get(model.name, {}), f"$.inspect.models.{model.name}"),
    ):
        if model.of and (unused := _WHOLE_FRAME_KEYS & given.keys()):
            raise ConfigError(
                f"{path}.{min(unused)}: {model.name} takes boxes of {model.of}",
                expected="a model that takes whole frames",
                action="Give it for the model that finds the boxes.",
            )
        merged = _merged_with(merged, _checked(given, path), path)
    engine_settings(merged)
    return merged


def check_model_tables(inspect: InspectConfig) -> None:
    """Checks the tables of ``[inspect.models]``, whatever bundle will run.

    Raises:
        ConfigError: As `model_inspect`.
    """
    for name in inspect.models:
        model_inspect(inspect, ModelEntry(name=name, path=name))


def check_several(inspect: InspectConfig, manifest: Manifest, *, recipe: RecipeConfig | None = None) -> None:
    """Checks that ``[inspect]`` fits a bundle of several models.

    Args:
        recipe: As for `rule_path`.

    Raises:
        ConfigError: It has rules or names a variant, which fit one model only, or ``models`` names another one.
    """
    names = [model.name for model in manifest.several]
    set_ = [key for key in _OF_ONE_MODEL - {"models"} if getattr(inspect, key) != getattr(_DEFAULTS, key)]
    if set_:
        key = min(set_)
        raise ConfigError(
            f"{rule_path(key, recipe=recipe)} is for one model, and {manifest.identity} has several",
            expected=f"{rule_path('models', recipe=recipe)}.{names[-1]}.{key}",
            action="Give it for the model that it is for, there or in the bundle (`lineside bundle combine`).",
        )
    if strange := inspect.models.keys() - set(names):
        path = f"{rule_path('models', recipe=recipe)}.{min(strange)}"
        raise ConfigError(f"{path}: {manifest.identity} has no such model", expected=names)


def refuse_files(inspect: dict[str, Any], path: str, who: str) -> None:
    """Refuses files, programs and servers of the device: they decide over verdicts, and nothing would sign them.

    Raises:
        ConfigError: The table names one.
    """
    cache = inspect.get("cache")
    if isinstance(cache, dict) and (outside := cache.keys() & {"sqlite", "redis"}):
        raise ConfigError(
            f"{path}.cache.{min(outside)} can't be set by {who}",
            expected="memory_bytes, device_bytes and ttl_s",
            action="Name the file or the server in agent.toml on the device.",
        )
    if "operator_libraries" in inspect:
        raise ConfigError(
            f"{path}.operator_libraries can't be set by {who}",
            expected="the files in agent.toml on the device",
            action="Install the library on the device, and name it there.",
        )
    isolate = inspect.get("isolate")
    if isinstance(isolate, (list, tuple)) and (programs := [one for one in isolate if "=" in str(one)]):
        raise ConfigError(
            f"{path}.isolate can't name a program by {who}",
            expected="names of engines",
            actual=programs[0],
            action="Name the other Python in agent.toml on the device.",
        )
    if "expected_values" in inspect:
        raise ConfigError(
            f"{path}.expected_values can't be set by {who}",
            expected="the file's path in agent.toml on the device",
            action="Push the rules in read; the device has the values.",
        )
    if "reference" in inspect:
        raise ConfigError(
            f"{path}.reference can't be set by {who}",
            expected="a reference inside a signed bundle",
            action="Make a bundle with it by `lineside learn-reference` and push that.",
        )


_OF_ONE_MODEL = frozenset((*Rules.__struct_fields__, "variant", "reference", "models"))
_DEFAULTS = InspectConfig()


def _checked(given: dict[str, Any], path: str) -> dict[str, Any]:
    if strange := given.keys() - MODEL_KEYS:
        raise ConfigError(f"{path}.{min(strange)} is no key of one model", expected=", ".join(sorted(MODEL_KEYS)))
    return given


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
