"""``[[line_io]]``: the protocols of the line, one struct each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from lineside_agent.config.value_types import ConfigTable, Count, PortNumber, Positive, Register, Unit
from lineside_link.config import LinkConfig


class SerialLineConfig(ConfigTable, frozen=True, kw_only=True, tag="serial", tag_field="type"):
    """A serial line to the gate or PLC.

    Attributes:
        port: Serial port, such as ``/dev/ttyUSB0``.
        baud: Speed in bits a second.
        timeout_s: Longest time that sending one line may take.
        defects: Whether a verdict's line ends with what was found: ``<code> <defect> <count> <score> <camera>``. Off
            unless the program of the PLC expects it: the line is longer.
    """

    port: str
    baud: Count = 115200
    timeout_s: Positive = 0.2
    defects: bool = False


class ModbusTcpServerConfig(ConfigTable, frozen=True, kw_only=True, tag="modbus-tcp-server", tag_field="type"):
    """The PLC polls the agent over TCP; the registers are in ``docs/reference/modbus.md``.

    Attributes:
        host: Address of the network interface to listen on. Modbus has no password: not one that others reach.
        port: TCP port to listen on; 502 is Modbus' own and needs the right to it.
    """

    host: str = "127.0.0.1"
    port: PortNumber = 502


class _SerialLine(ConfigTable, frozen=True, kw_only=True):
    """A serial line of Modbus RTU.

    Attributes:
        port: Serial port, such as ``/dev/ttyUSB0``.
        baud: Speed in bits a second.
        parity: Parity: none (``N``), even (``E``) or odd (``O``).
        stop_bits: Number of stop bits, 1 or 2.
        unit: Device id on the line: the agent's own as a server, the PLC's as a client.
    """

    port: str
    baud: Count = 19200
    parity: Literal["N", "E", "O"] = "E"
    stop_bits: Literal[1, 2] = 1
    unit: Unit = 1


class ModbusRtuServerConfig(_SerialLine, frozen=True, kw_only=True, tag="modbus-rtu-server", tag_field="type"):
    """The PLC polls the agent over a serial line."""


REGISTERS_WRITTEN, REGISTERS_OF_DEFECTS, REGISTERS_READ = 106, 12, 21
"""Sizes of the blocks in the PLC; a test compares them with the register map."""


class _Client(ConfigTable, frozen=True, kw_only=True):
    """Where the two blocks lie in the PLC.

    Attributes:
        write_at: First of the PLC's holding registers that the agent writes.
        read_at: First of the PLC's holding registers that the agent reads.
        poll_ms: Time between two reads.
        timeout_s: Longest time that an answer of the PLC may take.
        defects: Whether the registers from 106 on, which tell of defects, are written too. Off unless the PLC has room
            for them: 118 registers instead of 106.
    """

    write_at: Register = 0
    read_at: Register = 200
    poll_ms: Positive = 5.0
    timeout_s: Positive = 0.5
    defects: bool = False

    @property
    def written(self) -> range:
        """The registers that the agent writes."""
        return range(self.write_at, self.write_at + REGISTERS_WRITTEN + (REGISTERS_OF_DEFECTS if self.defects else 0))

    @property
    def read(self) -> range:
        """The registers that the agent reads."""
        return range(self.read_at, self.read_at + REGISTERS_READ)


class ModbusTcpClientConfig(_Client, frozen=True, kw_only=True, tag="modbus-tcp-client", tag_field="type"):
    """The agent writes to a PLC over TCP, and polls it.

    Attributes:
        host: Name or address of the PLC.
        port: TCP port of the PLC; 502 is Modbus' own.
        unit: Device id of the PLC.
    """

    host: str
    port: PortNumber = 502
    unit: Unit = 1


class ModbusRtuClientConfig(_Client, frozen=True, kw_only=True, tag="modbus-rtu-client", tag_field="type"):
    """The agent is the master of a serial line, writes to a PLC on it, and polls it.

    Attributes:
        port: Serial port, such as ``/dev/ttyUSB0``.
        baud: Speed in bits a second.
        parity: Parity: none (``N``), even (``E``) or odd (``O``).
        stop_bits: Number of stop bits, 1 or 2.
        unit: Device id of the PLC.
    """

    port: str
    baud: Count = 19200
    parity: Literal["N", "E", "O"] = "E"
    stop_bits: Literal[1, 2] = 1
    unit: Unit = 1


Level = Literal[
    "ready", "busy", "result_valid", "passed", "rejected", "unsure", "fault", "gate", "gate_pass", "challenge"
]
"""``gate`` is on while a part must be rejected (energise to reject), ``gate_pass`` while parts may pass and an agent
runs (energise to pass): it is off with a broken wire or a dead agent, so that the gate rejects then."""


Input = Literal["trigger", "reset", "acknowledge", "challenge"]


class GpioLineConfig(ConfigTable, frozen=True, kw_only=True, tag="gpio", tag_field="type"):
    """Lines of a GPIO chip, through libgpiod.

    Attributes:
        chip: Path of the GPIO chip, such as ``/dev/gpiochip0``.
        outputs: Line of the chip for each level that is shown, by its name or its number.
        inputs: Line of the chip for each input, by its name or its number.
        active_low: Lines, as written in ``outputs`` and ``inputs``, whose level is inverted.
        debounce_us: Edges that are closer than this many microseconds are one edge to the kernel.
        bias: Bias of the inputs.
    """

    chip: str
    outputs: dict[Level, str | int] = msgspec.field(default_factory=dict)
    inputs: dict[Input, str | int] = msgspec.field(default_factory=dict)
    active_low: tuple[str | int, ...] = ()
    debounce_us: Annotated[int, msgspec.Meta(ge=0)] = 0
    bias: Literal["as-is", "disabled", "pull-up", "pull-down"] = "as-is"


class MqttLineConfig(ConfigTable, frozen=True, kw_only=True, tag="mqtt", tag_field="type"):
    """A topic of a broker, the hub's or another one: results out, triggers in.

    Attributes:
        topic: Begin of the topics, without ``+`` and ``#``; below it lie
            ``result``, ``state``, ``trigger``, ``reset``, ``challenge`` and ``recipe``.
        link: The broker; unset: that of ``[link]``.
    """

    topic: Annotated[str, msgspec.Meta(pattern="^[^+#]+$")]
    link: LinkConfig | None = None


class PluginLineConfig(ConfigTable, frozen=True, kw_only=True, tag="plugin", tag_field="type"):
    """Another package's protocol: a subclass of `lineside_agent.line_io.LineOutput`.

    Attributes:
        name: Name of an entry point in the group ``lineside.line_io``, or ``module:Class``.
        options: Options that are given to the class by name.
    """

    name: str
    options: dict[str, Any] = msgspec.field(default_factory=dict)


LineConfig = (
    SerialLineConfig
    | ModbusTcpServerConfig
    | ModbusRtuServerConfig
    | ModbusTcpClientConfig
    | ModbusRtuClientConfig
    | GpioLineConfig
    | MqttLineConfig
    | PluginLineConfig
)
