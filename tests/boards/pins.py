"""The lines of the board's GPIO chip, from outside the board: through qemu's own test port.

qtest sets an input of any device and tells of each change of its outputs; nothing of the board's is asked.
https://www.qemu.org/docs/master/devel/testing/qtest.html
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

from tests.peers.waiting import wait_for

CHIP = "pl061"


class Pins:
    """Lines of the PL061.

    Args:
        qtest: Socket of ``-qtest``.
        qmp: Socket of ``-qmp``, asked where the chip is.
    """

    def __init__(self, qtest: Path, qmp: Path) -> None:
        self.changes: list[tuple[float, int, bool]] = []
        """When (monotonic seconds), which output, and its new level."""
        self._answers = 0
        self._chip = find_device(qmp, CHIP)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(qtest))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._command(f"irq_intercept_out {self._chip}")

    def set(self, line: int, level: bool) -> None:
        """Sets an input from outside."""
        self._command(f"set_irq_in {self._chip} unnamed-gpio-in {line} {int(level)}")

    def rises(self, line: int) -> int:
        """Returns how often an output rose."""
        return sum(number == line and level for _, number, level in list(self.changes))

    def level(self, line: int) -> bool:
        """Returns an output's level; low before its first change."""
        return next((level for _, number, level in reversed(self.changes) if number == line), False)

    def close(self) -> None:
        """Lets go of the port."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.join(60)
        self._socket.close()

    def _command(self, text: str) -> None:
        wanted = self._answers + 1
        self._socket.sendall(f"{text}\n".encode())
        wait_for(lambda: self._answers >= wanted, what=f"qtest's answer to {text}")

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("r", encoding="ascii") as lines:
            for line in lines:
                words = line.split()
                if words[:1] == ["IRQ"]:
                    self.changes.append((time.monotonic(), int(words[2]), words[1] == "raise"))
                elif words[:1] == ["OK"]:
                    self._answers += 1
                else:
                    raise AssertionError(f"qtest: {line}")


def find_device(qmp: Path, kind: str) -> str:
    """Returns where in qemu's tree of objects the only device of a kind is."""
    with socket.socket(socket.AF_UNIX) as port:
        port.connect(str(qmp))
        with port.makefile("rw", encoding="utf-8") as lines:
            lines.readline()
            _ask(lines, "qmp_capabilities")
            base = "/machine/unattached"
            found = [
                f"{base}/{one['name']}" for one in _ask(lines, "qom-list", path=base) if one["type"] == f"child<{kind}>"
            ]
    assert len(found) == 1, found
    return found[0]


def _ask(lines: Any, command: str, **arguments: str) -> Any:
    lines.write(json.dumps({"execute": command, "arguments": arguments} if arguments else {"execute": command}) + "\n")
    lines.flush()
    while True:  # events come in between
        answer = json.loads(lines.readline())
        if "return" in answer:
            return answer["return"]
        assert "event" in answer, answer
