"""Recognise the state of a console from its last lines. Pure."""

from __future__ import annotations

import re
from typing import Literal

State = Literal[
    "nothing", "garbage", "login", "password", "new password", "shell", "boot loader", "grub", "initramfs", "emergency",
    "panic", "booting", "unclear",
]  # fmt: skip

CHECK = {
    "nothing": (
        "nothing comes from the board",
        "Is it on? Its TX must lead to the adapter's RX and its RX to TX, ground to ground: docs/guides/boards.md has "
        "the pins. Is a console on this line at all (`console=` in its kernel's command line, a getty)? Is --baud "
        "right?",
    ),
    "garbage": (
        "what comes is no text",
        "The speed is most likely another: give --baud (115200 for a Raspberry Pi or a Jetson, 1500000 for an RK3588). "
        "If it is right, ground isn't connected or the adapter has other levels than 3.3 V.",
    ),
    "new password": (
        "the board wants a new password first",
        "Log in once with `lineside board console`, choose it, and run this command again.",
    ),
    "grub": ("the board is in GRUB", "Choose a system with `lineside board console`, and run this command again."),
    "initramfs": (
        "the board is stuck before its root file system: (initramfs)",
        "Its disk can't be mounted; look at it with `lineside board console`, or write the card anew.",
    ),
    "emergency": (
        "the board is in emergency mode",
        "`journalctl -xb` there says why; look at it with `lineside board console`.",
    ),
    "panic": ("the board's kernel has panicked", "Switch it off and on; if it happens again, write its card anew."),
    "booting": (
        "the board is still starting",
        "Wait for it, and run this command again; --boot-timeout gives it longer.",
    ),
    "unclear": (
        "the board answers, but not with a login or a shell",
        "Look at it with `lineside board console`, leave the program that runs there, and run this command again.",
    ),
}
"""Problem and advice by state."""

_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_].*?\x1b\\|[ -/]*[0-~])", re.DOTALL
)
_PASSWORD = r"(?i)\b(pass(?:wor[dt]|phrase)|kennwort|mot de passe|contraseña)[^\n]{0,40}: ?$"
TAIL = 1000
"""Last characters from which the state is recognised."""

_KERNEL = r"^\[ *\d+\.\d{6}\]"
_KERNEL_LINE = r"\[ *\d+\.\d{6}\] [^\n]*(\n|$)"
_BOOT = rf"(?m)({_KERNEL}|^\[ +OK +\]|^ +Starting |^U-Boot |^NOTICE: |^Booting |^Uncompressing |^EFI stub)"

_ENDS: tuple[tuple[State, str], ...] = (
    ("panic", r"Kernel panic - not syncing(?!.*login:)"),
    ("initramfs", r"\(initramfs\) ?$"),
    ("emergency", r"(?s)(for maintenance|emergency mode)[^\n]*(\n[^\n]*){0,4}$"),
    ("grub", r"(?m)(^grub(?: rescue)?> ?$|GNU GRUB +version)"),
    ("new password", r"(?i)(current password|new password|neues passwort|change your password)[^\n]*$"),
    ("boot loader", r"(?:^|\n)(?:=>|U-Boot>|Tegra\d+[^\n]*#|[A-Za-z0-9-]+ ?=>) ?$"),
    ("login", r"(?:^|\n)[^\n]*\blogin: ?$"),
    ("password", _PASSWORD),
    ("shell", r"(?:^|\n)(?!\[ *\d+\.)[^\n]*[$#❯➜%] ?$"),
    ("shell", r"(?:^|\n)[^\n]*[\w~/\])]> ?$"),
)


def clean(raw: bytes) -> str:
    """Returns the visible text: without colours, titles and line wraps, each line as it was written last."""
    text = _ESCAPE.sub("", raw.decode("utf-8", "replace")).replace("\r\n", "\n")
    text = re.sub(r" ?\r(?=[^\n])", "\n", text)  # a wrapped line of a line editor, or one that is written over
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text)


def state(raw: bytes) -> State:
    """Returns the state of a console from its last output, some hundred bytes or more."""
    if not raw.strip(b"\r\n\0"):
        return "nothing"
    if _is_garbage(raw):
        return "garbage"
    text = clean(raw)
    tail = text[-TAIL:]
    quiet = re.sub(_KERNEL_LINE, "", text)[-TAIL:]  # kernel messages behind a prompt do not hide it
    for name, pattern in _ENDS:
        if re.search(pattern, tail.rstrip("\n") if name == "panic" else quiet.rstrip("\n")):
            return name
    return "booting" if re.search(_BOOT, tail) else "unclear"


def _is_garbage(raw: bytes) -> bool:
    """A wrong speed gives bytes of all kinds, unlike words in another alphabet."""
    text = raw[-400:].decode("utf-8", "replace")
    strange = sum(sign == "\ufffd" or (sign < " " and sign not in "\r\n\t\b\a\x1b\x0f") for sign in text)
    return strange * 4 > len(text)
