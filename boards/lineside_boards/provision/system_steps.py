"""Steps that set up a running board: host name, clock, SSH keys and SSH server."""

from __future__ import annotations

import time

from lineside_boards.provision.shell import Shell
from lineside_boards.provision.steps import ProvisionStep
from lineside_runtime.wording import counted

CLOCK_OFF_S = 60.0
"""Deviation that certificates and logs tolerate."""

_SERVER_RUNS = (
    "systemctl is-active --quiet ssh || systemctl is-active --quiet sshd || systemctl is-active --quiet ssh.socket"
    " || pgrep -x sshd >/dev/null || pgrep -x dropbear >/dev/null"
)


def hostname_step(name: str) -> ProvisionStep:
    """Sets the host name, which `FirstBootSettings.checked` has validated."""

    def look(shell: Shell) -> str:
        words = shell.ask("cat /proc/sys/kernel/hostname; cat /etc/hostname 2>/dev/null; true").split()
        known = shell.run(f"grep -qwF {name} /etc/hosts").code == 0
        return (
            "" if words == [name, name] and known else f"{' and '.join(words)}{'' if known else ', not in /etc/hosts'}"
        )

    def do(shell: Shell) -> None:
        shell.write("/etc/hostname", f"{name}\n".encode())
        shell.ask(
            f"hostnamectl set-hostname {name} 2>/dev/null || echo {name} > /proc/sys/kernel/hostname\n"
            "sed '/^127\\.0\\.1\\.1[[:space:]]/d' /etc/hosts > /etc/hosts.lineside-new\n"
            f"printf '127.0.1.1\\t%s\\n' {name} >> /etc/hosts.lineside-new\n"
            # cloud-init would set its own name at each boot.
            "c=/etc/cloud/cloud.cfg.d; [ ! -d $c ] || echo 'preserve_hostname: true' > $c/99_lineside.cfg\n"
            "chmod 644 /etc/hosts.lineside-new && mv -f /etc/hosts.lineside-new /etc/hosts",
            root=True,
        )

    return ProvisionStep(name=f"the host name is {name}", look=look, do=do)


def clock_step() -> ProvisionStep:
    """Sets a wrong clock: a board without a battery starts years ago, before its certificate is valid."""

    def look(shell: Shell) -> str:
        there = int(shell.ask("date +%s").strip() or 0)
        off = there - time.time()
        return "" if abs(off) <= CLOCK_OFF_S else f"{abs(off):.0f} s {'ahead' if off > 0 else 'behind'}"

    def do(shell: Shell) -> None:
        shell.ask(f"date -u -s @{time.time():.0f} >/dev/null && (hwclock -w 2>/dev/null || true)", root=True)

    return ProvisionStep(name="the clock is right", look=look, do=do, hint="Does another clock (NTP) set it back?")


def key_step(user: str, keys: tuple[str, ...]) -> ProvisionStep:
    """Adds missing public keys to the user's ``authorized_keys``."""
    blobs = {key.split()[1]: key for key in keys}

    def missing(shell: Shell) -> list[str]:
        text = shell.run("cat ~/.ssh/authorized_keys 2>/dev/null").text
        return [key for blob, key in blobs.items() if blob not in text]

    def look(shell: Shell) -> str:
        return f"{len(missing(shell))} of {len(blobs)} keys are missing" if missing(shell) else ""

    def do(shell: Shell) -> None:
        lines = "".join(f"{key}\n" for key in missing(shell))
        shell.ask(
            "umask 077\nmkdir -p ~/.ssh\nf=~/.ssh/authorized_keys\n"
            '[ ! -s "$f" ] || [ -z "$(tail -c 1 "$f")" ] || echo >> "$f"\n'  # a last line without its end
            'cat >> "$f" && chmod 600 "$f"',
            data=lines.encode(),
        )

    return ProvisionStep(name=f"{user} may log in with {counted(len(keys), 'key')}", look=look, do=do)


def server_step() -> ProvisionStep:
    """Enables and starts the SSH server, with host keys."""

    def look(shell: Shell) -> str:
        keys = shell.run("ls /etc/ssh/ssh_host_*_key.pub").code == 0
        return "" if keys and shell.run(_SERVER_RUNS).code == 0 else "no SSH server runs"

    def do(shell: Shell) -> None:
        shell.ask(
            "command -v sshd >/dev/null || [ -x /usr/sbin/sshd ] || { echo no sshd is installed; exit 1; }\n"
            "ssh-keygen -A >/dev/null && mkdir -p /run/sshd\n"
            "systemctl enable --now ssh 2>/dev/null || systemctl enable --now sshd",
            root=True,
        )

    return ProvisionStep(
        name="the SSH server runs",
        look=look,
        do=do,
        wait_s=20.0,
        hint="Install it on the board: apt install openssh-server.",
    )
