"""`Shell`: commands on a board over any connection, as root if requested.

Invariants:

- Every script may run again: after a broken connection it is unknown whether the last one ran.
- A password is sent on standard input and never in a command, so that no process list shows it.
- `Shell.write` compares the hash of the file on the board.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import re
import shlex
from collections.abc import Callable

from lineside_boards.errors import LoginError, ProvisionError
from lineside_runtime.errors import DiskFullError

Password = Callable[[str], str]
"""Returns a password; the argument says whose."""

TIMEOUT_S = 60.0
TAIL = 400
"""Characters of a program's output in a message."""

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Exit status of a command, and its output of both streams."""

    code: int
    text: str


class Shell(abc.ABC):
    """A connection to a board; ``where`` is its port or address, ``user`` the one who is logged in."""

    def __init__(self, where: str, user: str) -> None:
        self.where = where
        self.user = user
        self._sudo: str | None = None
        self._sudo_password = b""

    @abc.abstractmethod
    def _run(self, script: str, data: bytes, timeout_s: float) -> Answer:
        """Runs a script of sh(1) with ``data`` on its standard input."""

    def run(self, script: str, *, root: bool = False, data: bytes = b"", timeout_s: float = TIMEOUT_S) -> Answer:
        """Runs a script.

        Args:
            script: Of sh(1); may run twice if the connection breaks.
            root: Whether root runs it; requires `become_root`.
            timeout_s: How long it may take.

        Raises:
            BoardLinkError: The connection broke, or it took too long.
        """
        plain = f"{_PATH} LC_ALL=C; export PATH LC_ALL\n{script}"
        if not root or not self._sudo:
            return self._run(plain, data, timeout_s)
        return self._run(f"{self._sudo} sh -c {shlex.quote(plain)}", self._sudo_password + data, timeout_s)

    def ask(self, script: str, *, root: bool = False, data: bytes = b"", timeout_s: float = TIMEOUT_S) -> str:
        """Runs a script that must succeed, and returns its output.

        Raises:
            DiskFullError: There is no space on the board.
            ProvisionError: It failed.
            BoardLinkError: The connection broke.
        """
        answer = self.run(script, root=root, data=data, timeout_s=timeout_s)
        if answer.code:
            raise self.failure(answer, script.strip().splitlines()[0][:80])
        return answer.text

    def failure(self, answer: Answer, what: str) -> DiskFullError | ProvisionError:
        """Returns the error of an answer whose exit status is not 0."""
        if "No space left on device" in answer.text or "Disk quota exceeded" in answer.text:
            return DiskFullError(
                f"the board at {self.where} has no room: {what}",
                action="Free some space on the board (`df -h` there), and run the same command again.",
            )
        tail = " | ".join(line.strip() for line in answer.text[-TAIL:].splitlines() if line.strip())
        return ProvisionError(f"{self.where}: {what}", expected="exit status 0", actual=f"{answer.code}: {tail}")

    def become_root(self, password: Password) -> None:
        """Finds out how to run commands as root: as root itself, or by sudo without or with a password.

        Args:
            password: Called for the user's password, if sudo asks for one.

        Raises:
            LoginError: sudo is missing or refuses.
        """
        if self.ask("id -u").strip() == "0":
            return
        if self.run("command -v sudo").code:
            raise LoginError(f"{self.user} isn't root, and the board has no sudo", action="Log in as root.")
        if self.run("sudo -n -k true").code == 0:
            self._sudo = "sudo -n"
            return
        words = password(f"sudo password of {self.user}").encode() + b"\n"
        # -k with a command ignores cached credentials, so that sudo always reads the line that we send.
        answer = self._run("sudo -k -S -p '' true", words, TIMEOUT_S)
        if answer.code:
            said = " | ".join(re.sub(r"\s+", " ", line) for line in answer.text.strip().splitlines()[-2:])
            raise LoginError(f"sudo refuses {self.user}: {said}")
        self._sudo, self._sudo_password = "sudo -k -S -p ''", words

    def write(self, path: str, data: bytes, *, mode: int = 0o644, root: bool = True) -> None:
        """Writes a file under a temporary name, checks its hash on the board, and renames it.

        Args:
            path: On the board; missing folders are created.
            mode: Its permissions, also while it is written.
            root: Whether root owns it.

        Raises:
            DiskFullError: There is no space on the board.
            ProvisionError: It cannot be written.
        """
        place, new = shlex.quote(path), shlex.quote(f"{path}.lineside-new")
        digest = hashlib.sha256(data).hexdigest()
        self.ask(
            f"# write {path}\nset -e\nmkdir -p \"$(dirname {place})\"\ntrap 'rm -f {new}' EXIT\n"
            f"(umask 077; cat > {new})\nchmod {mode:o} {new}\n"
            f"echo '{digest}  '{new} | sha256sum -c - >/dev/null\nmv -f {new} {place}\n"
            f"sync {place} 2>/dev/null || sync",
            root=root,
            data=data,
        )

    def digest(self, path: str, *, root: bool = True) -> str:
        """Returns the sha256 of a file on the board; empty if it is missing."""
        words = self.run(f"sha256sum < {shlex.quote(path)}", root=root)
        return words.text.split()[0] if words.code == 0 else ""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection and leaves the board as it was."""
