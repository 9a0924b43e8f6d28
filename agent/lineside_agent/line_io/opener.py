"""Open the line protocols that ``[[line_io]]`` names."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import entry_points

from lineside_agent import config as settings
from lineside_agent.config import AgentConfig
from lineside_agent.line_io.base import LineOutput
from lineside_agent.line_io.local import NAME as LOCAL_NAME
from lineside_agent.line_io.local import LocalPort
from lineside_link.config import LinkConfig
from lineside_runtime.errors import ConfigError, MissingExtraError

ENTRY_POINTS = "lineside.line_io"
"""Group of the entry points by which another package adds a protocol."""


def open_outputs(config: AgentConfig) -> list[LineOutput]:
    """Makes every line of the configuration, and the local socket where the line triggers or has recipes."""
    outputs = [open_output(line, device=config.device, link=config.link) for line in config.line_io]
    triggers = config.trigger is not None and config.trigger.mode == "inspect"
    if triggers or config.recipe:
        outputs.append(LocalPort(config.folder / LOCAL_NAME, triggers=triggers))
    names = [output.name for output in outputs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"$.line_io: {', '.join(sorted(twice))} is there twice")
    return outputs


def open_output(config: settings.LineConfig, *, device: str = "lineside", link: LinkConfig | None = None) -> LineOutput:
    """Makes the line of a ``[[line_io]]`` table; it connects at the first signal, or when it is listened to.

    Args:
        device: Name of this device, for brokers.
        link: The ``[link]`` table, for a line without a broker of its own.

    Raises:
        ConfigError: A plugin is not there, or is no line.
    """
    match config:
        case settings.SerialLineConfig():
            from lineside_agent.line_io.serial_ import SerialOutput

            return SerialOutput(config.port, baud=config.baud, timeout_s=config.timeout_s, defects=config.defects)
        case settings.ModbusTcpServerConfig():
            from lineside_agent.line_io.modbus.server import ModbusServer, Tcp

            return ModbusServer(Tcp(config.host, config.port))
        case settings.ModbusRtuServerConfig():
            from lineside_agent.line_io.modbus.server import ModbusServer, Rtu

            return ModbusServer(Rtu(config.port, config.baud, config.parity, config.stop_bits, config.unit))
        case settings.ModbusTcpClientConfig() | settings.ModbusRtuClientConfig():
            return _modbus_client(config)
        case settings.GpioLineConfig():
            return _gpio(config)
        case settings.MqttLineConfig():
            return _mqtt(config, device, link)
        case settings.PluginLineConfig():
            return _plugin(config)


def _modbus_client(config: settings.ModbusTcpClientConfig | settings.ModbusRtuClientConfig) -> LineOutput:
    from lineside_agent.line_io.modbus.client import ModbusClient
    from lineside_agent.line_io.modbus.server import Rtu, Tcp

    if isinstance(config, settings.ModbusTcpClientConfig):
        where: Tcp | Rtu = Tcp(config.host, config.port)
    else:
        where = Rtu(config.port, config.baud, config.parity, config.stop_bits)
    return ModbusClient(
        where,
        unit=config.unit,
        write_at=config.write_at,
        read_at=config.read_at,
        poll_s=config.poll_ms / 1000,
        timeout_s=config.timeout_s,
        defects=config.defects,
    )


def _gpio(config: settings.GpioLineConfig) -> LineOutput:
    if importlib.util.find_spec("gpiod") is None:
        raise MissingExtraError("lines of a GPIO chip", action="Install lineside[gpio].")
    from lineside_agent.line_io.gpio import Gpio

    return Gpio(
        config.chip,
        outputs=config.outputs,
        inputs=config.inputs,
        active_low=config.active_low,
        debounce_us=config.debounce_us,
        bias=config.bias,
    )


def _mqtt(config: settings.MqttLineConfig, device: str, link: LinkConfig | None) -> LineOutput:
    from lineside_agent.line_io.mqtt import MqttLine

    broker = config.link or link
    if broker is None:
        raise ConfigError("$.line_io: mqtt has no broker", expected="$.line_io.link or $.link")
    return MqttLine(broker, config.topic.rstrip("/"), client_id=f"{device}-line")


def _plugin(config: settings.PluginLineConfig) -> LineOutput:
    points = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    target = points.get(config.name, config.name)
    module, _, name = target.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)(**config.options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        expected = f"an entry point of {ENTRY_POINTS} or module:Class, one of {sorted(points)}"
        raise ConfigError(f"$.line_io: plugin {config.name!r}: {error}", expected=expected) from error
    if not isinstance(made, LineOutput):
        raise ConfigError(f"$.line_io: plugin {config.name!r}", expected="a LineOutput", actual=type(made).__name__)
    return made
