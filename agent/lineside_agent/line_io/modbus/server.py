"""The agent as a Modbus server, over TCP or RTU: the PLC polls it. The map is in
`lineside_agent.line_io.modbus.register_map`.

pymodbus answers the requests, in an event loop in a thread of its own, from the levels at that moment. A request is
answered before the next one of the same connection is read, as Modbus requires of a master.

Over TCP every unit id is answered: "the Modbus unit identifier is not significant" where the device is addressed by IP
(Modbus Messaging on TCP/IP 1.0b, section 4.4.2.1). On a serial line only the own one is: other devices answer for
themselves.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

from lineside_agent.line_io.base import LinePort, Signal
from lineside_agent.line_io.events import Event, LineState, SelectRecipe
from lineside_agent.line_io.modbus.register_map import (
    COILS,
    IN_REGISTERS,
    OUT_REGISTERS,
    STATUS_BITS,
    InBlock,
    OutBlock,
)

if TYPE_CHECKING:
    from pymodbus.constants import ExcCodes
    from pymodbus.server import ModbusSerialServer, ModbusTcpServer
    from pymodbus.simulator import SimDevice
    from pymodbus.simulator.simdevice import SimAction

log = logging.getLogger("lineside.line_io")


EVERY_UNIT = 0
"""pymodbus' number for all device ids without a device of their own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tcp:
    """Address of a TCP server.

    Attributes:
        host: Of the network interface.
        port: 502 needs the right to it.
    """

    host: str
    port: int


@dataclasses.dataclass(frozen=True, slots=True)
class Rtu:
    """A serial line.

    Attributes:
        port: Such as ``/dev/ttyUSB0``.
        baud: Bits a second.
        parity: ``N``, ``E`` or ``O``.
        stop_bits: 1 or 2.
        unit: The own device id.
    """

    port: str
    baud: int = 19200
    parity: str = "E"
    stop_bits: int = 1
    unit: int = 1


class ModbusServer(LinePort):
    """Answers a PLC."""

    is_polled = True

    def __init__(self, address: Tcp | Rtu) -> None:
        place = (
            f"modbus-rtu {address.port}" if isinstance(address, Rtu) else f"modbus-tcp {address.host}:{address.port}"
        )
        super().__init__(place)
        self._address = address
        self._lock = threading.Lock()
        self._in = InBlock(self.name)
        self._out = OutBlock(self._in)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Event | None = None

    def show(self, state: LineState) -> None:
        """As `LineOutput.show`: what the next request reads."""
        with self._lock:
            self._out.show(state)

    def beat(self) -> None:
        """As `LineOutput.beat`."""
        with self._lock:
            self._out.beat()

    def _send(self, signal: Signal) -> None:
        with self._lock:
            self._out.add_result(signal)

    def _close(self) -> None:
        loop, done = self._loop, self._done
        if loop is not None and done is not None and loop.is_running():
            loop.call_soon_threadsafe(done.set)

    def _serve(self) -> None:
        # A PLC that goes amid a request is an error to pymodbus, with a dump of the last traffic; to a line it is none.
        logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)
        asyncio.run(self._run())

    async def _run(self) -> None:
        from lineside_agent.line_io.modbus.request_decoder import RequestDecoder

        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        server = self._server()
        server.decoder = RequestDecoder()
        try:
            await server.serve_forever(background=True)
        except RuntimeError as error:  # what pymodbus raises when it can't listen, whatever the reason
            raise OSError(_listen_problem(self._address) or str(error)) from error
        self.connected = True
        log.info("%s is open", self.name)
        try:
            if not self._closing.is_set():
                await self._done.wait()
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call]

    def _server(self) -> ModbusTcpServer | ModbusSerialServer:
        from pymodbus.server import ModbusSerialServer, ModbusTcpServer

        address = self._address
        if isinstance(address, Tcp):
            return ModbusTcpServer(_device(EVERY_UNIT, self._accessed), address=(address.host, address.port))
        return ModbusSerialServer(
            [_device(address.unit, self._accessed), _device(EVERY_UNIT, _other_unit)],
            port=address.port,
            baudrate=address.baud,
            parity=address.parity,
            stopbits=address.stop_bits,
            trace_packet=lambda sending, data: b"" if sending and data[:1] != bytes((address.unit,)) else data,
        )

    async def _accessed(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        current: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        """pymodbus asks before it reads or writes ``current``, the registers of one kind from ``start`` on."""
        now_s = self.polled_at_s = time.monotonic()
        with self._lock:
            events: list[Event | SelectRecipe] = []
            if values is not None and function in (5, 15):
                events += self._in.write_coils(address, [bool(value) for value in values])
            elif values is not None:
                events += self._in.write_registers(address, [int(value) for value in values])
            elif function == 4:
                current[:] = self._out.registers()
            elif function == 2:
                current[0] = sum(bit << place for place, bit in enumerate(self._out.bits()))
        for event in events:
            self._post_event(event, now_s)
        return None


def _listen_problem(address: Tcp | Rtu) -> str:
    """Why an address cannot be listened on; empty if it can, or if that is not known."""
    if isinstance(address, Rtu):
        return ""
    try:
        socket.create_server((address.host, address.port)).close()
    except OSError as error:
        return f"port {address.port} of {address.host or 'all addresses'} can't be opened: {error.strerror or error}"
    return ""


async def _other_unit(*_: object) -> ExcCodes:
    """Takes a request to another unit on a serial line; pymodbus makes an answer of it, which is not sent."""
    from pymodbus.constants import ExcCodes

    return ExcCodes.GATEWAY_NO_RESPONSE


def _device(unit: int, action: SimAction) -> SimDevice:
    from pymodbus.simulator import DataType, SimData, SimDevice

    def bits(names: tuple[str, ...]) -> list[SimData]:
        return [SimData(0, values=[False] * len(names), datatype=DataType.BITS)]

    def registers(count: int) -> list[SimData]:
        return [SimData(0, count=count, values=0, datatype=DataType.REGISTERS)]

    blocks = (bits(COILS), bits(STATUS_BITS), registers(IN_REGISTERS), registers(OUT_REGISTERS))
    return SimDevice(id=unit, simdata=blocks, action=action)
