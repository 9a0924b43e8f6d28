"""A PLC that is a Modbus server, as a process of its own: pymodbus and the standard library, nothing of ours.

Orders come on stdin, one a line: ``trigger [text]``, ``level BIT 0|1``, ``recipe NUMBER``. Each is answered on stdout
by ``ok``. ``dump`` prints the registers that the agent has written.
"""

from __future__ import annotations

import asyncio
import json
import sys

from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

WRITTEN, READ = 0, 200


async def main(where: str) -> None:
    device = SimDevice(id=3, simdata=[SimData(0, count=300, values=0, datatype=DataType.REGISTERS)])
    if where.isdecimal():
        server: ModbusTcpServer | ModbusSerialServer = ModbusTcpServer(device, address=("127.0.0.1", int(where)))
    else:
        server = ModbusSerialServer(device, port=where, baudrate=115200, parity="N")
    await server.serve_forever(background=True)
    await server.async_setValues(3, 6, READ, [41])  # it has counted before the agent came
    print("ok", flush=True)
    loop = asyncio.get_running_loop()
    count, control = 41, 0
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        words = line.split()
        if words[0] == "trigger":
            count += 1
            text = (words[1].encode() if len(words) > 1 else b"").ljust(32, b"\0")
            name = [text[at] << 8 | text[at + 1] for at in range(0, 32, 2)]
            await server.async_setValues(3, 16, READ + 4, name)
            await server.async_setValues(3, 6, READ, [count])
        elif words[0] == "level":
            bit, on = int(words[1]), int(words[2])
            control = control & ~(1 << bit) | on << bit
            await server.async_setValues(3, 6, READ + 1, [control])
        elif words[0] == "recipe":
            await server.async_setValues(3, 6, READ + 20, [int(words[1])])
        print(json.dumps(await server.async_getValues(3, 3, WRITTEN, 130)) if words[0] == "dump" else "ok", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
