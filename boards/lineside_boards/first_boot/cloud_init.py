"""cloud-init's NoCloud seed in the FAT partition: Raspberry Pi OS from November 2025 on, Debian, Ubuntu.

Existing ``user-data`` is kept and extended, with its ``runcmd`` and ``users``. Written as JSON, which is YAML. https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
"""

from __future__ import annotations

from typing import Any

import msgspec

from lineside_boards.errors import ImageError
from lineside_boards.first_boot.settings import FirstBootSettings, one_line
from lineside_boards.image.ext4 import Ext4Volume
from lineside_boards.image.fat import FatVolume

HEADER = b"#cloud-config\n"
_SEED = ("user-data", "meta-data")
_START_SSH = ["sh", "-c", "systemctl enable --now ssh || systemctl enable --now sshd"]


def understands(boot: FatVolume, root: Ext4Volume) -> bool:
    """Returns whether the image has cloud-init and a seed."""
    return root.exists("/usr/bin/cloud-init") and any(boot.exists(name) for name in _SEED)


def apply(boot: FatVolume, settings: FirstBootSettings) -> None:
    """Writes the seed.

    Raises:
        ImageError: The existing ``user-data`` is no cloud-config, or there is no space.
    """
    old = _read(boot)
    boot.write("user-data", HEADER + _json({**old, **_user_data(settings, old)}))
    boot.write("meta-data", _json({"instance-id": settings.instance, "local-hostname": settings.hostname}))
    if settings.wifi is not None:
        boot.write("network-config", _json(_network(settings)))
    if boot.exists("cmdline.txt"):
        words = [word for word in one_line(boot.read("cmdline.txt")) if not word.startswith("cfg80211.")]
        words += [] if any(word.startswith("ds=nocloud") for word in words) else ["ds=nocloud"]
        words += [f"cfg80211.ieee80211_regdom={settings.wifi.country}"] if settings.wifi is not None else []
        boot.write("cmdline.txt", f"{' '.join(words)}\n".encode())


def _read(boot: FatVolume) -> dict[str, Any]:
    import yaml  # the host's alone

    if not boot.exists("user-data"):
        return {}
    text = boot.read("user-data").replace(b"\r\n", b"\n")
    if text.strip() and not text.lstrip(b"\xef\xbb\xbf").startswith(HEADER.strip()):
        raise ImageError("user-data of the image is no cloud-config", expected="#cloud-config in its first line")
    try:
        old = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ImageError(f"user-data of the image is no YAML: {error}") from error
    if not isinstance(old, dict):
        raise ImageError("user-data of the image is no cloud-config", actual=type(old).__name__)
    return old


def _user_data(settings: FirstBootSettings, old: dict[str, Any]) -> dict[str, Any]:
    """``user`` in the singular changes the image's first user; ``users`` would add a second one."""
    user: dict[str, Any] = {
        "name": settings.user,
        "groups": ["sudo", "video", "dialout"],
        "shell": "/bin/bash",
        "lock_passwd": not settings.password_hash,
        # Without a password sudo cannot ask for one; with one, null removes the image's rule.
        "sudo": None if settings.password_hash else "ALL=(ALL) NOPASSWD:ALL",
    }
    if settings.ssh_keys:
        user["ssh_authorized_keys"] = list(settings.ssh_keys)
    if settings.password_hash:
        user["passwd"] = settings.password_hash
    commands = list(old.get("runcmd") or [])
    if settings.ssh_keys and _START_SSH not in commands:
        commands.append(_START_SSH)
    told: dict[str, Any] = {
        "hostname": settings.hostname,
        "manage_etc_hosts": True,
        "ssh_pwauth": False,
        "user": user,
    }
    return {**told, "runcmd": commands} if commands else told


def _network(settings: FirstBootSettings) -> dict[str, Any]:
    """Netplan, version 2; Ethernet stays enabled."""
    if settings.wifi is None:
        return {}
    wifi = {
        "dhcp4": True,
        "optional": True,
        "regulatory-domain": settings.wifi.country,
        "access-points": {settings.wifi.ssid: {"password": settings.wifi.key}},
    }
    wire = {"dhcp4": True, "optional": True}
    return {"network": {"version": 2, "ethernets": {"eth0": wire}, "wifis": {"wlan0": wifi}}}


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
