"""From a ``[[line_io]]`` table to its line."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from lineside_agent import config as settings
from lineside_agent.line_io.base import LineOutput
from lineside_runtime.errors import ConfigError

ENTRY_POINTS = "lineside.line_io"
"""Group of the entry points by which a package of somebody else's adds a protocol."""


def open_output(config: settings.LineConfig) -> LineOutput:
    """Makes the line that the configuration describes; it is opened at the first signal, or when it is listened to.

    Args:
        config: One ``[[line_io]]`` table.

    Raises:
        ConfigError: A plugin is not there, or is no line.
    """
    match config:
        case settings.SerialOutput():
            from lineside_agent.line_io.serial_ import SerialOutput

            return SerialOutput(config.port, baud=config.baud, timeout_s=config.timeout_s)
        case settings.ModbusTcpServer():
            from lineside_agent.line_io.modbus_server import ModbusServer, Tcp

            return ModbusServer(Tcp(config.host, config.port))
        case settings.ModbusRtuServer():
            from lineside_agent.line_io.modbus_server import ModbusServer, Rtu

            return ModbusServer(Rtu(config.port, config.baud, config.parity, config.stop_bits, config.unit))
        case settings.PluginLine():
            return _plugin(config)
    raise ConfigError(f"{config} has no protocol")


def _plugin(config: settings.PluginLine) -> LineOutput:
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
