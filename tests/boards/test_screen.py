"""Where a console is, told from its screen: the screens of many boards, each a line."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_boards.provision import screen
from lineside_boards.provision.serial_shell import cksum

SCREENS = {
    "login": [
        b"\r\nDebian GNU/Linux 13 cam-07 ttyAMA0\r\n\r\ncam-07 login: ",
        b"Ubuntu 22.04.4 LTS tegra-ubuntu ttyTCU0\r\n\r\ntegra-ubuntu login: ",
        b"\x1b[?2004l\r\nLogin incorrect\r\nraspberrypi login: ",
        b"cam-07 login: [   61.123456] usb 1-1: new high-speed USB device number 2 using xhci_hcd\r\n",
        b"cam-07 login: \r\n",
    ],
    "password": [
        b"cam-07 login: admin\r\nPassword: ",
        b"admin\r\nPasswort: ",
        b"Mot de passe : ",
        b"admin\r\nPassword: [   12.000001] brcmfmac: firmware loaded\r\n",
    ],
    "new password": [
        b"You are required to change your password immediately (administrator enforced).\r\nCurrent password: ",
        b"New password: ",
    ],
    "shell": [
        b"\x1b]0;pi@raspberrypi: ~\x07\x1b[01;32mpi@raspberrypi\x1b[00m:\x1b[01;34m~ $\x1b[00m ",
        b"root@cam-07:~# ",
        b"\x1b[?2004hadmin@cam-07:/very/long/path/that/wraps/around/the/eighty/columns/of/a/serial/te \rrminal$ ",
        b"$ ",
        b"[root@localhost ~]# ",
        b"fish> ".replace(b"fish", b"admin@box ~"),
        b"\xe2\x9e\x9c ",
        b"root@cam-07:~# [  100.000000] cam: noise\r\n",
    ],
    "boot loader": [b"Hit any key to stop autoboot:  0 \r\n=> ", b"U-Boot> ", b"\r\nTegra234 (P3767-0005) # "],
    "initramfs": [b"ALERT!  LABEL=rootfs does not exist.  Dropping to a shell!\r\n(initramfs) "],
    "emergency": [
        b"You are in emergency mode. After logging in, type journalctl -xb to view\r\n"
        b"system logs, systemctl reboot to reboot.\r\n"
        b"Give root password for maintenance\r\n(or press Control-D to continue): ",
    ],
    "grub": [b"                             GNU GRUB  version 2.12\r\n\r\n *Debian GNU/Linux\r\n", b"grub rescue> "],
    "panic": [b"[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n"],
    "booting": [
        b"[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x414fd0b1]\r\n"
        b"[    0.100000] Linux version 6.12\r\n",
        b"[  OK  ] Started systemd-journald.service.\r\n         Starting systemd-udevd.service...\r\n",
        b"U-Boot 2025.01 (Jan 01 2025)\r\n\r\nDRAM:  8 GiB\r\n",
    ],
    "garbage": [bytes(range(128, 256)), b"\x00\xfe\x8c\xe0\x00\xf8\x80\x1c\xe0\xfc\x00\xfe" * 4],
    "nothing": [b"", b"\r\n", b"\0\0\r\n"],
    "unclear": [b"  Choose your language:\r\n  English\r\n", b"Are you sure? (y/n) "],
}


@pytest.mark.parametrize("state", SCREENS)
def test_screen_says_where_the_console_is(state: str) -> None:
    assert [screen.state(raw) for raw in SCREENS[state]] == [state] * len(SCREENS[state])
    assert (state in screen.CHECK) == (state not in ("login", "password", "shell", "boot loader"))  # what to check


@given(st.binary(max_size=400))
def test_no_screen_is_too_strange_for_it(raw: bytes) -> None:
    assert screen.state(raw) in SCREENS
    assert "\x1b" not in screen.clean(raw)


def test_sum_is_that_of_the_boards_own_program() -> None:
    for data in (b"", b"hello", bytes(range(256)) * 5, b"x" * 65536):
        said = subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout.decode()
        assert said.split()[:2] == [str(number) for number in cksum(data)]
