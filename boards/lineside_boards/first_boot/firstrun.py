"""A script that systemd runs once, before anything else: Raspberry Pi OS bookworm and the first trixie.

``systemd.run=`` in ``cmdline.txt`` starts it (systemd-run-generator(8)). The script removes that word again, also
when it fails, and the board reboots.
"""

from __future__ import annotations

import shlex

from lineside_boards.first_boot.settings import FirstBootSettings, one_line
from lineside_boards.image.ext4 import Ext4Volume
from lineside_boards.image.fat import FatVolume

NAME = "firstrun.sh"
_OURS = ("systemd.run", "systemd.unit=kernel-command-line.target", "systemd.mask=rpi-resize", "cfg80211.")

_HEAD = """\
#!/bin/sh
# Written by lineside: first settings, once. It removes itself.
boot={boot}
undo() {
    sed -i 's| systemd\\.run[^ ]*||g; s| systemd\\.unit=kernel-command-line\\.target||g' "$boot/cmdline.txt"
    rm -f "$boot/firstrun.sh"
    sync
}
trap undo EXIT
"""

_USER = """\
first=$(getent passwd 1000 | cut -d: -f1)
if [ -z "$first" ]; then useradd -m -u 1000 -s /bin/bash {user}
elif [ "$first" != {user} ]; then usermod -l {user} -d /home/{user} -m "$first" && groupmod -n {user} "$first"; fi
for group in sudo video dialout gpio i2c; do getent group $group >/dev/null && usermod -aG $group {user}; done
"""


def understands(boot: FatVolume, root: Ext4Volume) -> bool:
    """Returns whether the image has ``cmdline.txt`` and systemd."""
    return boot.exists("cmdline.txt") and root.exists("/usr/lib/systemd/systemd")


def apply(boot: FatVolume, settings: FirstBootSettings, *, boot_path: str = "/boot/firmware") -> None:
    """Writes the script and starts it from ``cmdline.txt``.

    Args:
        boot_path: Mount point of the FAT partition on the board.
    """
    boot.write(NAME, script(settings, boot_path=boot_path).encode())
    words = [word for word in one_line(boot.read("cmdline.txt")) if not word.startswith(_OURS)]
    words += [f"systemd.run={boot_path}/{NAME}", "systemd.run_success_action=reboot"]
    words += ["systemd.run_failure_action=reboot", "systemd.unit=kernel-command-line.target"]
    words += [f"cfg80211.ieee80211_regdom={settings.wifi.country}"] if settings.wifi is not None else []
    boot.write("cmdline.txt", f"{' '.join(words)}\n".encode())


def script(settings: FirstBootSettings, *, boot_path: str) -> str:
    """Returns the script's text; every value is quoted."""
    name, user = shlex.quote(settings.hostname), shlex.quote(settings.user)
    parts = [
        _HEAD.replace("{boot}", shlex.quote(boot_path)),
        f"echo {name} > /etc/hostname\n"
        f"sed -i '/^127\\.0\\.1\\.1/d' /etc/hosts; printf '127.0.1.1\\t%s\\n' {name} >> /etc/hosts\n",
        _USER.replace("{user}", user),
    ]
    if settings.password_hash:
        parts.append(f"printf '%s:%s\\n' {user} {shlex.quote(settings.password_hash)} | chpasswd -e\n")
    else:
        parts.append(
            f"printf '%s ALL=(ALL) NOPASSWD:ALL\\n' {user} > /etc/sudoers.d/010_lineside\n"
            "chmod 440 /etc/sudoers.d/010_lineside\n"
        )
    if settings.ssh_keys:
        keys = " ".join(shlex.quote(key) for key in settings.ssh_keys)
        parts.append(
            f"install -d -m 700 -o {user} -g {user} /home/{user}/.ssh\n"
            f"printf '%s\\n' {keys} > /home/{user}/.ssh/authorized_keys\n"
            f"chown {user}:{user} /home/{user}/.ssh/authorized_keys; chmod 600 /home/{user}/.ssh/authorized_keys\n"
            "mkdir -p /etc/ssh/sshd_config.d; echo 'PasswordAuthentication no' > /etc/ssh/sshd_config.d/lineside.conf\n"
            "systemctl enable ssh\n"
        )
    if settings.wifi is not None:
        where = "/etc/NetworkManager/system-connections/lineside.nmconnection"
        parts.append(f"printf '%s' {shlex.quote(connection(settings))} > {where}\nchmod 600 {where}\n")
        parts.append("rfkill unblock wifi 2>/dev/null\n")
    return "".join([*parts, "exit 0\n"])


def connection(settings: FirstBootSettings) -> str:
    """Returns a connection file of NetworkManager."""
    if settings.wifi is None:
        return ""
    ssid = ";".join(str(byte) for byte in settings.wifi.ssid.encode()) + ";"  # bytes: no sign has to be escaped
    return (
        "[connection]\nid=lineside\ntype=wifi\nautoconnect=true\n\n"
        f"[wifi]\nmode=infrastructure\nssid={ssid}\n\n"
        f"[wifi-security]\nkey-mgmt=wpa-psk\npsk={settings.wifi.key}\n\n"
        "[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n"
    )
