"""The agent as a Modbus client, over TCP or RTU: it writes to the PLC, and polls it.

Both blocks of `lineside_agent.line_io.modbus.register_map` are holding registers of the PLC. One thread does both, so
that a change is sent as soon as the read under way is answered.

A trigger that the PLC gave while there was no connection belongs to a part that has passed: it is answered, and not
inspected. A pass that could not be written before its deadline is written as late.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from lineside_agent.line_io.base import LinePort, Signal
from lineside_agent.line_io.events import Event, LineState, SelectRecipe
from lineside_agent.line_io.modbus.register_map import FIRST_REGISTERS, IN_REGISTERS, OUT_REGISTERS, InBlock, OutBlock
from lineside_agent.line_io.modbus.server import Rtu, Tcp

if TYPE_CHECKING:
    from pymodbus.client import ModbusSerialClient, ModbusTcpClient

log = logging.getLogger("lineside.line_io")


class ModbusClient(LinePort):
    """Writes to a PLC and polls it.

    Args:
        write_at: First holding register to write.
        read_at: First holding register to read.
        poll_s: Time between two reads.
        timeout_s: Longest wait for an answer.
        defects: Whether the registers for defects are written too.
    """

    def __init__(
        self,
        address: Tcp | Rtu,
        *,
        unit: int,
        write_at: int,
        read_at: int,
        poll_s: float,
        timeout_s: float,
        defects: bool = False,
    ) -> None:
        place = (
            f"modbus-rtu to {address.port}"
            if isinstance(address, Rtu)
            else f"modbus-tcp to {address.host}:{address.port}"
        )
        super().__init__(place)
        self._address = address
        self._unit = unit
        self._write_at = write_at
        self._read_at = read_at
        self._poll_s = poll_s
        self._timeout_s = timeout_s
        self._written = OUT_REGISTERS if defects else FIRST_REGISTERS
        self._in = InBlock(self.name)
        self._out = OutBlock(self._in)
        self._answers_written = 0
        self._was_connected = False
        self._is_changed = False
        self._changed = threading.Condition()

    def show(self, state: LineState) -> None:
        """As `LineOutput.show`."""
        with self._changed:
            self._out.show(state)
            self._mark_changed()

    def beat(self) -> None:
        """As `LineOutput.beat`."""
        with self._changed:
            self._out.beat()
            self._mark_changed()

    def _send(self, signal: Signal) -> None:
        with self._changed:
            self._out.add_result(signal)
            self._mark_changed()

    def _close(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _mark_changed(self) -> None:
        self._is_changed = True
        self._changed.notify_all()

    def _serve(self) -> None:
        from pymodbus.exceptions import ModbusException

        logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)  # failures are raised, and logged here
        client = self._client()
        try:
            if not client.connect():
                raise OSError("no connection")
            self._read_first(client)
            while not self._closing.is_set():
                self._write(client)
                for event in self._poll(client):
                    self._post_event(event)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_changed or self._closing.is_set(), self._poll_s)
            self._write(client)  # that it is not ready any more
        except ModbusException as error:
            raise OSError(str(error)) from error
        finally:
            client.close()  # type: ignore[no-untyped-call]

    def _read_first(self, client: ModbusTcpClient | ModbusSerialClient) -> None:
        """Reads for the first time: the registers are where the PLC's counter begins, or what was missed."""
        registers = self._read(client)
        for event in self._in.adopt_again(registers) if self._was_connected else self._in.adopt(registers):
            self._post_event(event)
        self._was_connected = self.connected = True
        log.info("%s is open", self.name)
        with self._changed:
            self._is_changed = True

    def _write(self, client: ModbusTcpClient | ModbusSerialClient) -> None:
        with self._changed:
            if not self._is_changed:
                return
            expired, answered = self._out.expire(self._answers_written, time.monotonic()), self._out.answered
            registers, self._is_changed = self._out.registers()[: self._written], False
        for signal in expired:
            log.error("%s: the pass of part %r was not written in time and is now a fault", self.name, signal.part_id)
        answer = client.write_registers(self._write_at, registers, device_id=self._unit)
        if answer.isError():
            raise OSError(f"registers from {self._write_at} can't be written: {answer}")
        self._answers_written = answered

    def _poll(self, client: ModbusTcpClient | ModbusSerialClient) -> list[Event | SelectRecipe]:
        registers = self._read(client)
        return [] if registers == self._in.registers else self._in.write_registers(0, registers)

    def _read(self, client: ModbusTcpClient | ModbusSerialClient) -> list[int]:
        answer = client.read_holding_registers(self._read_at, count=IN_REGISTERS, device_id=self._unit)
        if answer.isError() or len(answer.registers) != IN_REGISTERS:
            raise OSError(f"{IN_REGISTERS} registers from {self._read_at} can't be read: {answer}")
        return list(answer.registers)

    def _client(self) -> ModbusTcpClient | ModbusSerialClient:
        from pymodbus.client import ModbusSerialClient, ModbusTcpClient

        address = self._address
        if isinstance(address, Tcp):
            return ModbusTcpClient(address.host, port=address.port, timeout=self._timeout_s, retries=0)
        return ModbusSerialClient(
            address.port,
            baudrate=address.baud,
            parity=address.parity,
            stopbits=address.stop_bits,
            timeout=self._timeout_s,
            retries=0,
        )
