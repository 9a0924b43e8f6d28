"""Checks between the tables."""

from __future__ import annotations

from collections.abc import Sequence

from lineside_agent.config.agent_config import AgentConfig
from lineside_agent.config.cameras import CameraConfig
from lineside_agent.config.line_io import (
    GpioLineConfig,
    ModbusRtuClientConfig,
    ModbusTcpClientConfig,
    MqttLineConfig,
)
from lineside_agent.config.overrides import RECIPE_CAMERA, camera_of, check_model_tables, inspect_of, rules_of
from lineside_agent.config.placement import engine_settings
from lineside_agent.config.tables import InspectConfig, RecipeCamera, RecipeConfig, RecipeGate
from lineside_models.identification.rules import check_lookup
from lineside_models.metrology.rules import needs_mm
from lineside_runtime.errors import ConfigError


def check_recipes(config: AgentConfig) -> None:
    """Checks the recipes against each other and against ``[inspect]``, ``[camera]`` and ``[gate]``.

    Raises:
        ConfigError: Two recipes have one name or number, or one doesn't fit ``[inspect]``, ``[camera]`` or ``[gate]``.
    """
    names = [recipe.name for recipe in config.recipe]
    numbers = [str(recipe.number or index) for index, recipe in enumerate(config.recipe, 1)]
    for what, values in (("name", names), ("number", numbers)):
        if twice := {value for value in values if values.count(value) > 1}:
            raise ConfigError(f"$.recipe: two have one {what}", actual=", ".join(sorted(twice)))
    for inspect in (config.inspect, *(inspect_of(config.inspect, recipe) for recipe in config.recipe)):
        engine_settings(inspect)
        check_model_tables(inspect)
        for rules in (inspect, *(rules_of(inspect, camera) for camera in config.cameras)):
            check_lookup(rules.read, has_values=bool(inspect.expected_values))
        for camera in config.cameras:
            _check_calibration(rules_of(inspect, camera), camera)
    for recipe in config.recipe:
        _check_recipe_cameras(config, recipe)
        _check_recipe_line(config, recipe)
    for camera in config.cameras:
        _check_exposures([camera_of(camera, recipe) for recipe in config.recipe])


def _check_calibration(inspect: InspectConfig, camera: CameraConfig) -> None:
    if inspect.scale is None and (bare := [rule.name for rule in inspect.measure if needs_mm(rule)]):
        raise ConfigError(
            f"the rule {bare[0]} is in mm, and the camera {camera.name or camera.type_name()} is not calibrated",
            expected="$.inspect.calibration or $.inspect.px_per_mm",
            action='Make one with `lineside gauge calibrate`, or set unit = "px" in the rule.',
        )


def _check_recipe_cameras(config: AgentConfig, recipe: RecipeConfig) -> None:
    names, path = [camera.name for camera in config.cameras], f"$.recipe[{recipe.name}]"
    if len(names) > 1 and recipe.camera != RecipeCamera():
        raise ConfigError(f"{path}.camera: there are several", expected=f"cameras.{names[0]}")
    if strange := recipe.cameras.keys() - set(names):
        raise ConfigError(f"{path}.cameras.{min(strange)}: no such camera", expected=", ".join(filter(None, names)))
    for camera in config.cameras:
        camera_of(camera, recipe)


def _check_exposures(tables: Sequence[CameraConfig]) -> None:
    """A camera keeps its last setting, so the next product would be seen with the exposure of this one."""
    for name in RECIPE_CAMERA:
        is_set = [getattr(table, name, None) is not None for table in tables]
        if any(is_set) and not all(is_set):
            expected = f"{name} in [camera], or in the camera table of every recipe"
            raise ConfigError(f"$.recipe: some set {name} and others don't", expected=expected)


def _check_recipe_line(config: AgentConfig, recipe: RecipeConfig) -> None:
    trigger, path = config.trigger, f"$.recipe[{recipe.name}]"
    deadline_ms = recipe.trigger.deadline_ms
    if deadline_ms is not None and (trigger is None or trigger.mode != "inspect"):
        raise ConfigError(f"{path}.trigger needs a trigger", expected='$.trigger with mode = "inspect"')
    if recipe.gate is not None:
        _check_recipe_gate(config, recipe.gate, f"{path}.gate")
    if config.gate is None or trigger is None:
        return
    delay_ms = config.gate.delay_ms if recipe.gate is None else recipe.gate.delay_ms
    if deadline_ms is not None:
        _check_delay(delay_ms, deadline_ms, "$.gate" if recipe.gate is None else f"{path}.gate", f"{path}.trigger")
    elif recipe.gate is not None:
        _check_delay(delay_ms, trigger.deadline_ms, f"{path}.gate")


def _check_recipe_gate(config: AgentConfig, gate: RecipeGate, path: str) -> None:
    if config.gate is None or config.trigger is None:
        raise ConfigError(f"{path} needs $.gate")
    key = "delay_ms" if config.gate.delay_ms is not None else "counts"
    if getattr(gate, key) is None or (gate.delay_ms is None) == (gate.counts is None):
        raise ConfigError(path, expected=f"{key} alone, as in $.gate")


def _check_delay(delay_ms: float | None, deadline_ms: float, path: str, trigger: str = "$.trigger") -> None:
    if delay_ms is not None and delay_ms < deadline_ms:
        expected = f"at least {trigger}.deadline_ms, {deadline_ms:g}"
        raise ConfigError(f"{path}.delay_ms", expected=expected, actual=f"{delay_ms:g}")


def check_line(config: AgentConfig) -> None:
    """Checks the tables of the line."""
    trigger, gate = config.trigger, config.gate
    if len(config.cameras) != 1:
        _check_cameras(config)
    elif config.cameras[0].inspect:
        raise ConfigError("$.camera.inspect is for several cameras", expected="$.inspect")
    elif trigger is not None and trigger.frame_timeout_ms is not None:
        raise ConfigError("$.trigger.frame_timeout_ms is for several cameras", expected="deadline_ms alone")
    if gate is not None:
        if trigger is None or trigger.mode != "inspect":
            raise ConfigError("$.gate needs a trigger", expected='$.trigger with mode = "inspect"')
        if (gate.delay_ms is None) == (gate.counts is None):
            raise ConfigError("$.gate", expected="one of delay_ms and counts")
        _check_delay(gate.delay_ms, trigger.deadline_ms, "$.gate")
    if config.drift is not None and config.drift.stops_line and (trigger is None or trigger.mode != "inspect"):
        raise ConfigError("$.drift.stops_line needs a trigger", expected='$.trigger with mode = "inspect"')
    for line in config.line_io:
        if isinstance(line, MqttLineConfig) and line.link is None and config.link is None:
            raise ConfigError("$.line_io: mqtt has no broker", expected="$.line_io.link or $.link")
        if isinstance(line, ModbusTcpClientConfig | ModbusRtuClientConfig):
            _check_registers(line.written, line.read)
        if isinstance(line, GpioLineConfig):
            _check_gpio(line)


def _check_gpio(line: GpioLineConfig) -> None:
    used = [*line.outputs.values(), *line.inputs.values()]
    if twice := sorted({str(one) for one in used if used.count(one) > 1}):
        raise ConfigError("$.line_io: a line of the chip has two meanings", expected="one", actual=", ".join(twice))
    if strange := [str(one) for one in line.active_low if one not in used]:
        raise ConfigError(
            "$.line_io.active_low: no such output or input, so that nothing would be inverted",
            expected=", ".join(map(str, used)),
            actual=", ".join(strange),
            action="Write each line as in outputs and inputs: by its number or by its name.",
        )


def _check_registers(written: range, read: range) -> None:
    for key, block in (("write_at", written), ("read_at", read)):
        if block.stop > 1 << 16:
            expected = f"at most {(1 << 16) - len(block)}, for {len(block)} registers"
            raise ConfigError(f"$.line_io.{key}", expected=expected, actual=str(block.start))
    if written.start < read.stop and read.start < written.stop:
        raise ConfigError(
            "$.line_io: the agent would write over the PLC's registers",
            expected=f"read_at at least {written.stop}, or at most {written.start - len(read)}",
            actual=f"written {written.start} to {written.stop - 1}, read {read.start} to {read.stop - 1}",
        )


def _check_cameras(config: AgentConfig) -> None:
    names = [camera.name for camera in config.cameras]
    if not names:
        raise ConfigError("$.camera is empty", expected="a camera")
    if config.trigger is None or config.trigger.mode != "inspect":
        expected = '$.trigger with mode = "inspect", which says when a part is in front of all of them'
        raise ConfigError("several $.camera need a trigger", expected=expected)
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError("$.camera: each of several needs a name of its own", actual=names)
