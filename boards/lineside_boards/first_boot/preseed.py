"""``custom.toml`` in the FAT partition, which the first boot of Raspberry Pi OS bookworm reads.

https://github.com/RPi-Distro/raspberrypi-sys-mods (``init_config``); it removes the file when it has read it.
"""

from __future__ import annotations

from typing import Any

from lineside_boards.first_boot.settings import FirstBootSettings, one_line
from lineside_boards.image.ext4 import Ext4Volume
from lineside_boards.image.fat import FatVolume

NAME = "custom.toml"
READER = "/usr/lib/raspberrypi-sys-mods/init_config"
FIRST_BOOT = "/usr/lib/raspberrypi-sys-mods/firstboot"


def understands(boot: FatVolume, root: Ext4Volume) -> bool:
    """Returns whether the image has the program that reads it, and starts it."""
    return root.exists(READER) and any(word.endswith(FIRST_BOOT) for word in _words(boot))


def apply(boot: FatVolume, settings: FirstBootSettings) -> None:
    """Writes the file."""
    import tomli_w  # the host's alone

    boot.write(NAME, tomli_w.dumps(_table(settings)).encode())


def _words(boot: FatVolume) -> list[str]:
    return one_line(boot.read("cmdline.txt")) if boot.exists("cmdline.txt") else []


def _table(settings: FirstBootSettings) -> dict[str, Any]:
    table: dict[str, Any] = {
        "config_version": 1,
        "system": {"hostname": settings.hostname},
        "user": {"name": settings.user},
        "ssh": {
            "enabled": bool(settings.ssh_keys),
            "password_authentication": False,
            "authorized_keys": list(settings.ssh_keys),
        },
    }
    if settings.password_hash:
        table["user"] |= {"password": settings.password_hash, "password_encrypted": True}
    if settings.wifi is not None:
        table["wlan"] = {
            "ssid": settings.wifi.ssid,
            "password": settings.wifi.key,
            "password_encrypted": True,
            "hidden": False,
            "country": settings.wifi.country,
        }
    return table
