r"""`SerialShell`: commands over a serial console that echoes, wraps, loses bytes and mixes in kernel messages.

A shell without prompt and echo is started on the console and gets one function. Then each exchange is

::

    here   b=BASE64 c=CRC n=NONCE; ls_      one line, shorter than a terminal's 4095 bytes
    board  %NONCE:INDEX:BASE64%             the script's output, in lines that no terminal wraps
           %NONCE=LENGTH.CRC.CODE%

with POSIX cksum(1) as the CRC in both directions. Invariants:

- A script runs only if it arrived complete, and an answer counts only if it arrived complete.
- A nonce runs once: on a repeated request the board sends the stored answer, and complete lines from before count.
- A script that is too long for a noisy line is sent in short pieces.
- Foreign lines in between, such as the kernel's, change nothing.
- Scripts have only the standard input that they are given: they cannot read what is typed next.
"""

from __future__ import annotations

import base64
import re
import secrets
import time

from lineside_boards.errors import BoardLinkError
from lineside_boards.provision import screen
from lineside_boards.provision.console import INTERRUPT, KILL_LINE, LOSES, Console
from lineside_boards.provision.shell import Answer, Shell

_FUNCTION = r"""
ls_() {
    if [ "$n" != "$ls_n" ]; then
        ls_s=$(printf %s "$b" | base64 -d 2>/dev/null; echo x)
        if [ "$(printf %s "${ls_s%x}$n" | cksum)" != "$c" ]; then printf '%%%s?%%\n' "$n"; return; fi
        ls_o=$( (eval "${ls_s%x}") </dev/null 2>&1; echo "x$?")
        ls_r=${ls_o##*x}; ls_o=${ls_o%x*}; ls_n=$n
    fi
    ls_i=0
    printf %s "$ls_o" | base64 | tr -d '\n' | fold -w 60 | while IFS= read -r l || [ -n "$l" ]; do
        printf '%%%s:%s:%s%%\n' "$n" "$ls_i" "$l"; ls_i=$((ls_i + 1))
    done
    set -- $(printf %s "$ls_o" | cksum)
    printf '%%%s=%s.%s.%s%%\n' "$n" "$2" "$1" "$ls_r"
}
"""
"""Uses base64, cksum, fold and tr, which coreutils and busybox have."""

_SCRATCH = r"""
for d in "$XDG_RUNTIME_DIR" /dev/shm /tmp; do
    [ -n "$d" ] && [ -w "$d" ] && rm -f "$d"/.ls-* 2>/dev/null && echo "$d" && break
done
"""
"""A folder in memory if possible, because keys pass through it; files of a killed run are removed."""

LINE_MAX = 900
"""Bytes of a script in one exchange; in base64 well below the length of a terminal's line."""

SHORT = 100
"""As `LINE_MAX`, on a line that loses bytes."""

WIDTH = 60
"""Characters of an answer's line."""

PATIENCE_S = (2.0, 4.0, 8.0, 16.0, 30.0)
"""Time without a line of the answer after which a request is repeated."""

BAD_MAX = 12
"""Damaged exchanges in a row after which the line is given up."""

REFUSED_MAX = 2
"""Refusals of a request before it is sent in shorter pieces."""


class _TooLongError(Exception):
    """A request does not arrive complete over this line in one piece."""


class SerialShell(Shell):
    """Commands on a console where a user is logged in.

    Args:
        console: At a shell.

    Raises:
        BoardLinkError: The line loses bytes, or the board's shell is incompatible.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console.port.path, console.user or "the user of the console")
        self._console = console
        self._port = console.port
        self.exchanges = self.faults = 0
        """Number of exchanges, and of transmissions that arrived damaged."""
        self._limit = LINE_MAX
        self._printk = ""
        # If this process logged in, the end of its shell is a logout; otherwise the shell from before continues.
        self._how_to_start = "exec " if console.logged_in_here else ""
        self._start()
        self._scratch = self.ask(_SCRATCH).strip()

    def _start(self) -> None:
        encoded = base64.b64encode(_FUNCTION.encode()).decode()
        sum_, size = cksum(_FUNCTION.encode())
        for _ in range(BAD_MAX):
            # A leading blank keeps it out of most shells' history. Inside our shell no second one is started.
            start_own = f'[ "$LS_QUIET" ] || {self._how_to_start}env LS_QUIET=1 PS1= PS2= sh'
            self._port.write(KILL_LINE + f" stty -echo -ixon; {start_own}\r".encode())
            self._port.silence(0.5, 5.0)
            self._port.write(b" stty -echo -ixon; PS1=; PS2=; d=\r")
            for start in range(0, len(encoded), LINE_MAX):
                self._port.write(f" d=${{d}}{encoded[start : start + LINE_MAX]}\r".encode())
            check = f'"$(printf %s "$d" | base64 -d | cksum)" = "{sum_} {size}"'
            self._port.write(f' [ {check} ] && eval "$(printf %s "$d" | base64 -d)"; d=\r'.encode())
            self._port.silence(0.5, 5.0)
            if self._answers():
                return
            self.faults += 1
            self._port.write(INTERRUPT)
            self._port.silence(0.5, 3.0)
        raise BoardLinkError(f"{self.where}: the board's shell doesn't take our commands whole", action=LOSES)

    def _answers(self) -> bool:
        try:
            return self._exchange("echo here", PATIENCE_S[1:2], 5.0, bad_max=2).text == "here\n"
        except BoardLinkError as error:
            if error.__cause__ is not None:  # the adapter is gone
                raise
            return False

    def calm(self) -> None:
        """Silences kernel messages on the console until `close`."""
        now = self.run("cat /proc/sys/kernel/printk", root=True).text.split()
        if now and now[0] != "1" and self.run("echo 1 > /proc/sys/kernel/printk", root=True).code == 0:
            self._printk = now[0]

    def _run(self, script: str, data: bytes, timeout_s: float) -> Answer:
        inline = f"printf %s {base64.b64encode(data).decode()} | base64 -d | (\n{script}\n)" if data else script
        if len(inline) <= self._limit:
            try:
                return self._exchange(inline, PATIENCE_S, timeout_s)
            except _TooLongError:
                self._limit = SHORT
        name = f"{self._scratch}/.ls-{secrets.token_hex(8)}"
        self._put(f"{name}.s", script.encode())
        self._put(f"{name}.d", data)
        answer = self._exchange(f"sh {name}.s < {name}.d", PATIENCE_S, timeout_s)
        self._exchange(f"rm -f {name}.s {name}.d", PATIENCE_S, timeout_s)
        return answer

    def _put(self, path: str, data: bytes) -> None:
        answer = self._exchange(f"umask 077; : > {path}", PATIENCE_S, 30.0)
        start = 0
        while start < len(data) and not answer.code:
            piece = data[start : start + self._limit // 2]
            words = f"printf %s {base64.b64encode(piece).decode()} | base64 -d >> {path}"
            try:
                answer = self._exchange(words, PATIENCE_S, 30.0)
            except _TooLongError:
                self._limit = SHORT
                continue
            start += len(piece)
        if not answer.code:
            sum_, size = cksum(data)
            answer = self._exchange(f'[ "$(cksum < {path})" = "{sum_} {size}" ]', PATIENCE_S, 30.0)
        if answer.code:
            raise self.failure(answer, f"writing {path}")

    def _exchange(self, script: str, patience_s: tuple[float, ...], timeout_s: float, bad_max: int = BAD_MAX) -> Answer:
        """Repeats a request until its answer arrived complete."""
        self.exchanges += 1
        nonce = secrets.token_hex(4)
        sum_, size = cksum(script.encode() + nonce.encode())
        line = f"b={base64.b64encode(script.encode()).decode()} c='{sum_} {size}' n={nonce}; ls_\r".encode()
        deadline = time.monotonic() + timeout_s
        bad = waited = refused = 0
        lines: dict[int, bytes] = {}
        while True:
            self._port.write(KILL_LINE + line)
            heard = self._hear(nonce, patience_s[min(waited, len(patience_s) - 1)])
            answer = _whole(nonce, heard, lines)
            if answer is not None:
                return answer
            if b"%" in heard:  # as in every line of an answer; a kernel's lines seldom have one
                self.faults += 1
                bad += 1
                refused += b"?%" in heard
            waited += 1
            if refused == waited >= REFUSED_MAX and len(script) > SHORT:  # it has not run
                raise _TooLongError
            if bad >= bad_max:
                raise self._lossy(heard)
            if time.monotonic() > deadline:
                self._port.write(INTERRUPT)
                raise self._silent(timeout_s, heard)

    def _lossy(self, heard: bytes) -> BoardLinkError:
        return BoardLinkError(
            f"{self.where} loses bytes: {self.faults} of {self.exchanges + self.faults} exchanges didn't come whole",
            actual=screen.clean(heard)[-80:],
            action=LOSES,
        )

    def _silent(self, timeout_s: float, heard: bytes) -> BoardLinkError:
        if screen.state(heard) in ("login", "booting", "boot loader"):
            return BoardLinkError(
                f"{self.where}: the board has started anew", action="Run the same command again: it goes on."
            )
        return BoardLinkError(
            f"{self.where}: the board has stopped answering for {timeout_s:g} s",
            action="Is the cable still in, and the board on? Run the same command again: it goes on.",
        )

    def _hear(self, nonce: str, patience_s: float) -> bytes:
        """Reads until the end of the answer, or until no more lines of it come; other lines don't prolong the wait."""
        seen, lines = bytearray(), 0
        quiet_since = time.monotonic()
        end = re.compile(rf"%{nonce}(=\d+\.\d+\.\d+|\?)%".encode())
        while time.monotonic() - quiet_since < patience_s:
            if not (data := self._port.read()):
                continue
            seen += data
            if end.search(seen):
                break
            if (found := seen.count(f"%{nonce}".encode())) > lines:
                lines, quiet_since = found, time.monotonic()
        return bytes(seen)

    def close(self) -> None:
        """Ends our shell: a user who was logged in before stays so, otherwise the console is logged out."""
        try:
            if self._printk:
                self.run(f"echo {self._printk} > /proc/sys/kernel/printk", root=True, timeout_s=10.0)
            self._port.write(KILL_LINE + b" stty echo ixon; exit\r")
            self._port.silence(0.3, 2.0)
        except BoardLinkError:
            return  # reported before


def _whole(nonce: str, seen: bytes, lines: dict[int, bytes]) -> Answer | None:
    """Returns the answer to an exchange, or ``None`` if a part is missing.

    Args:
        lines: Complete lines from before; extended.
    """
    end = re.search(rf"%{nonce}=(\d+)\.(\d+)\.(\d+)%".encode(), seen)
    for index, piece in re.findall(rf"%{nonce}:(\d+):([A-Za-z0-9+/=]+)%".encode(), seen):
        if len(piece) == WIDTH or int(index) not in lines:
            lines[int(index)] = piece
    if end is None:
        return None
    count = -(-4 * -(-int(end[1]) // 3) // WIDTH)
    try:
        text = base64.b64decode(b"".join(lines[index] for index in range(count)), validate=True)
    except (ValueError, KeyError):
        return None
    if cksum(text) != (int(end[2]), int(end[1])):
        lines.clear()  # one of them is damaged
        return None
    return Answer(int(end[3]), text.decode("utf-8", "replace"))


_POLYNOMIAL = 0x04C11DB7


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (_POLYNOMIAL if crc & 0x80000000 else 0)
        table.append(crc & 0xFFFFFFFF)
    return tuple(table)


_TABLE = _table()


def cksum(data: bytes) -> tuple[int, int]:
    """Returns CRC and length as POSIX cksum(1) prints them: CRC-32 from the top bit down, then the length.

    zlib's CRC-32 runs from the bottom bit up: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/cksum.html.
    """
    length, tail = len(data), bytearray()
    while length:
        tail.append(length & 0xFF)
        length >>= 8
    crc = 0
    for byte in (*data, *tail):
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _TABLE[(crc >> 24) ^ byte]
    return ~crc & 0xFFFFFFFF, len(data)
