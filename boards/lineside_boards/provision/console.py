"""`Console`: find the state of a serial console, and log in.

Invariants:

- The state is read from the output, never assumed: the console may be in any program, also in a killed command of ours.
- A password is sent only to a prompt that asks for one, and never to a line that echoes.
- Until the state is known, only Enter is sent, or keys that do no harm in any state.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

from lineside_boards.errors import BoardLinkError, ConsoleError, LoginError
from lineside_boards.provision import screen
from lineside_boards.provision.screen import State
from lineside_boards.provision.serial_port import SerialPort
from lineside_boards.provision.shell import Password

Say = Callable[[str], None]

QUIET_S = 0.4
ANSWER_S = 3.0
POKES = 4
"""Key presses before a missing answer is reported, or an unclear console is given up."""

REFUSAL_S = 15.0
"""login(1) delays the refusal of a password by some seconds."""

LOGIN_S = 90.0
"""login(1) itself gives up after 60 s."""

NAME_TRIES = 3

LOSES = "Check ground and the length of the wires, or choose a lower speed on both sides (--baud)."

INTERRUPT, KILL_LINE = b"\x03", b"\x15"


class Console:
    """A serial console; ``say`` reports what it waits for."""

    def __init__(self, port: SerialPort, say: Say) -> None:
        self.port = port
        self._say = say
        self.user = ""
        """The user who is logged in, once known."""
        self.logged_in_here = False
        """Whether this process logged in, and so must log out."""

    def reach_shell(self, user: str, password: Password, *, boot_timeout_s: float) -> None:
        """Reaches a shell from any state of the console.

        Args:
            user: Used at a login prompt.
            password: Called for the password, if the board asks for one.
            boot_timeout_s: Longest time of a boot, and so of silence.

        Raises:
            ConsoleError: There is neither login nor shell; the message says what to check.
            LoginError: The board refuses user or password.
            BoardLinkError: The adapter was removed.
        """
        found = self._find(boot_timeout_s)
        if found == "login":
            self._login(user, password)
            self.logged_in_here = True

    def _find(self, boot_timeout_s: float) -> State:
        """Returns ``login`` or ``shell``."""
        deadline = time.monotonic() + boot_timeout_s
        silent = started = 0
        told, hinted = "", False
        while True:
            found = self._poke(silent, gently=told != "booting")
            if found in ("login", "shell"):
                return found
            if found == "boot loader" and not started:
                # Our Enter may have stopped its countdown.
                self._say("the board is in its boot loader: telling it to boot")
                self.port.write(b"boot\r")
                started += 1
                continue
            if found == "password":  # our Enter has ended an unfinished login
                silent = 0
                self._until(r"login: ?$", REFUSAL_S)
                continue
            silent = silent + 1 if found in ("nothing", "unclear", "garbage", "boot loader") else 0
            if found == "booting" and told != found:
                told = found
                self._say("the board is starting; waiting for its login")
            if found == "nothing" and silent == POKES and not hinted:
                hinted = True
                # A kernel with `quiet` prints nothing while it boots.
                what, action = screen.CHECK[found]
                self._say(f"{what} yet; waiting up to {boot_timeout_s:g} s in all (--boot-timeout). {action}")
            waiting = found in ("booting", "nothing") and time.monotonic() < deadline
            if not waiting and (silent >= POKES or (found in screen.CHECK and silent == 0)):
                what, action = screen.CHECK.get(found, screen.CHECK["unclear"])
                raise ConsoleError(f"{self.port.path}: {what}", action=action)

    def _poke(self, silent: int, *, gently: bool) -> State:
        """Sends a key and returns the state; after long silence also Ctrl-C.

        While a board boots nothing is sent at first: Enter would stop its boot loader's countdown.
        """
        seen = self.port.silence(QUIET_S, ANSWER_S)
        if gently and screen.state(seen) == "booting":
            return "booting"
        self.port.write({0: b"\r", 1: b"\r", 2: INTERRUPT + b"\r"}.get(silent, b"\r"))
        seen += self.port.silence(QUIET_S * 2, ANSWER_S)
        found = screen.state(seen)
        if found in ("nothing", "unclear") and silent >= 1 and self._is_quiet_shell():
            return "shell"
        return found

    def _is_quiet_shell(self) -> bool:
        """Whether a shell without a prompt answers a calculation; a killed run leaves such a shell."""
        mark = secrets.randbelow(9000) + 1000
        self.port.write(KILL_LINE + f"echo lineside-$(({mark}+1))\r".encode())
        return f"lineside-{mark + 1}" in screen.clean(self._until(rf"lineside-{mark + 1}\b", ANSWER_S))

    def _login(self, user: str, password: Password) -> None:
        self._say(f"logging in as {user}")
        seen = self._name(user)
        if screen.state(seen) == "password":
            self.port.write(password(f"password of {user} on the board").encode() + b"\r")
            seen = self._until_state(("shell", "login", "new password", "password"), after_password=True)
        found = screen.state(seen)
        if found == "new password":
            what, action = screen.CHECK[found]
            raise ConsoleError(f"{self.port.path}: {what}", action=action)
        if found != "shell":
            lines = [line.strip() for line in screen.clean(seen).splitlines() if line.strip()]
            raise LoginError(f"{self.port.path}: the board refuses {user}", actual=" | ".join(lines[:3])[:120])
        self.user = user

    def _name(self, user: str) -> bytes:
        """Sends the name and checks its echo, so that the password goes to no other user."""
        for _ in range(NAME_TRIES):
            self.port.write(KILL_LINE + user.encode() + b"\r")
            seen = self._until_state(("password", "shell", "login", "new password"))
            if screen.state(seen) != "password" or user in screen.clean(seen):
                return seen
            self.port.write(b"\r")
            self._until_state(("login",))
        raise BoardLinkError(
            f"{self.port.path} loses bytes: the board read another name",
            expected=user,
            actual=screen.clean(seen).strip()[:60],
            action=LOSES,
        )

    def _until_state(self, wanted: tuple[State, ...], *, after_password: bool = False) -> bytes:
        """Reads until the console is in one of these states and silent; an unknown prompt is tried as a shell."""
        seen = bytearray()
        deadline = time.monotonic() + LOGIN_S
        while time.monotonic() < deadline:
            seen += self.port.silence(QUIET_S * 2, ANSWER_S)
            found = screen.state(bytes(seen))
            if found in wanted:
                return bytes(seen)
            if after_password and found == "unclear" and self._is_quiet_shell():
                return bytes(seen) + b"\n$ "
        raise ConsoleError(
            f"{self.port.path}: the login didn't come to an end", actual=screen.clean(bytes(seen))[-120:]
        )

    def _until(self, pattern: str, timeout_s: float) -> bytes:
        seen = bytearray()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            seen += self.port.read()
            if re.search(pattern.encode(), bytes(seen)):
                break
        return bytes(seen)
