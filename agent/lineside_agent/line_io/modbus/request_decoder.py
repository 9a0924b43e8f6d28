"""Modbus requests as a server decodes them: one that can't be read is refused as the specification says.

pymodbus answers each of them with the function 80 and the exception 01. Modbus Application Protocol 1.1b3, section 7,
wants the request's function with 80 added, and the exception 03 where the function is known and its data is not valid.
A value of function 05 that is neither on nor off is not valid (section 6.5); pymodbus takes it as on.
"""

from __future__ import annotations

from pymodbus.constants import ExcCodes
from pymodbus.datastore import ModbusServerContext
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU

WRITE_SINGLE_COIL = 5
COIL_VALUES = (b"\xff\x00", b"\x00\x00")
"""On and off."""


class RequestDecoder(DecodePDU):
    """Decodes requests, and makes of one that can't be read one that is answered with its exception."""

    def __init__(self) -> None:
        super().__init__(is_server=True)

    def decode(self, frame: bytes) -> ModbusPDU | None:
        """Returns the request; `None` only of an empty frame."""
        request = super().decode(frame)
        is_bad_coil = frame[:1] == bytes((WRITE_SINGLE_COIL,)) and frame[3:5] not in COIL_VALUES
        if not frame or (request is not None and not is_bad_coil):
            return request
        known = frame[0] in self.pdu_table
        return _UnreadableRequest(frame[0], ExcCodes.ILLEGAL_VALUE if known else ExcCodes.ILLEGAL_FUNCTION)


class _UnreadableRequest(ModbusPDU):
    def __init__(self, function_code: int, code: ExcCodes) -> None:
        super().__init__()
        self.function_code = function_code
        self._code = code

    async def datastore_update(self, context: ModbusServerContext, device_id: int) -> ModbusPDU:
        return ExceptionResponse(self.function_code, self._code)
