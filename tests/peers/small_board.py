"""`SmallBoard`: a board made of this machine's own programs, with users, sshd, sudo, getty and login of its own.

In namespaces: its root is a memory disk of a given size, over which this machine's ``/usr`` is laid so that what is
written to it is its own; its host name, processes and files are its own. It shares the network.
Needs root and the right to mount; elsewhere the tests that want it are left out, and say so.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.peers.programs import find_program
from tests.peers.waiting import free_port, wait_for

USERS = {"admin": "correct horse", "robot": "battery staple", "guest": "no rights here"}
"""Names and passwords: admin may sudo with it, robot without, guest not at all."""

BUILD = r"""
set -e
root=$1 size=$2
mount --make-rprivate /
mount -t tmpfs -o "mode=755,size=$size" board "$root"
cd "$root"
mkdir -p usr etc/ssh etc/sudoers.d proc sys dev run/sshd run/lock tmp var/lib var/log var/tmp opt root home
mkdir -p .over/up .over/work
chmod 1777 tmp var/tmp; chmod 700 root
mount -t overlay board -o "lowerdir=/usr,upperdir=$root/.over/up,workdir=$root/.over/work" usr
for one in bin sbin lib lib64; do [ -e "/usr/$one" ] && ln -s "usr/$one" "$one"; done
for one in pam.d security login.defs nsswitch.conf ld.so.conf ld.so.conf.d ld.so.cache alternatives; do
    [ -e "/etc/$one" ] && cp -a "/etc/$one" etc/
done
mkdir -p etc/ssl/certs  # Debian's own pip reads this file and no other, as soon as it starts
[ -e /etc/ssl/certs/ca-certificates.crt ] && cp -L /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/
rm -rf usr/lib/lineside usr/local/bin/lineside usr/lib/systemd/system/lineside-*
ln -s ../usr/lib/os-release etc/os-release
mount -t proc proc proc
echo "4 4 1 7" > .printk; mount --bind .printk proc/sys/kernel/printk
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm; chmod 1777 dev/shm
for one in null zero full random urandom tty; do touch "dev/$one"; mount --bind "/dev/$one" "dev/$one"; done
mount --rbind /dev/pts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
cat > etc/passwd <<END
root:x:0:0:root:/root:/bin/bash
nobody:x:65534:65534:nobody:/:/usr/sbin/nologin
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
admin:x:1000:1000::/home/admin:/bin/bash
robot:x:1001:1001::/home/robot:/bin/sh
guest:x:1002:1002::/home/guest:/bin/bash
END
printf '%s\n' root:x:0: tty:x:5: nogroup:x:65534: shadow:x:42: admin:x:1000: robot:x:1001: guest:x:1002: > etc/group
cat > etc/shadow; chmod 600 etc/shadow
for one in admin robot guest; do mkdir "home/$one"; chown "$(grep "^$one:" etc/passwd | cut -d: -f3)" "home/$one"; done
printf 'root ALL=(ALL) ALL\nadmin ALL=(ALL) ALL\nrobot ALL=(ALL) NOPASSWD: ALL\n' > etc/sudoers; chmod 440 etc/sudoers
echo 'export PS1="\[\e[1;32m\]\u@\h\[\e[0m\]:\[\e[34m\]\w\[\e[0m\]\$ "' > home/admin/.bashrc
printf '. ~/.bashrc\necho "Welcome to a small board."\n' > home/admin/.profile
printf '127.0.0.1\tlocalhost\n127.0.1.1\tfactory\n' > etc/hosts
echo factory > etc/hostname; echo factory > /proc/sys/kernel/hostname
exec chroot . /bin/sh -s
"""

RUN = r"""
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin; export PATH
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
ssh-keygen -q -t ecdsa -N '' -f /etc/ssh/ssh_host_ecdsa_key
printf '%s\n' "Port {port}" "ListenAddress 127.0.0.1" "UsePAM yes" "PermitRootLogin prohibit-password" \
    "KbdInteractiveAuthentication no" "Subsystem sftp internal-sftp" "PidFile none" "MaxStartups 100" \
    "PerSourcePenalties no" > /etc/ssh/sshd_config
grep -q PerSourcePenalties /usr/sbin/sshd || sed -i /PerSourcePenalties/d /etc/ssh/sshd_config
{sshd}
{getty}
echo ready > /run/ready
while :; do sleep 1000 & wait; done
"""

_GETTY = "while :; do agetty -L 115200 {tty} dumb </dev/null >/dev/null 2>&1; sleep 0.2; done &"


class SmallBoard:
    """A board that is on; use it in a ``with``.

    Args:
        folder: An empty one, for its root.
        tty: Its serial console's device, of a `Wire`; none if empty.
        size_mb: Of its disk.
        sshd: Whether its SSH server runs.
    """

    def __init__(self, folder: Path, *, tty: str = "", size_mb: int = 900, sshd: bool = True) -> None:
        if os.geteuid() != 0:
            pytest.skip("a board of its own needs root: it mounts, and has users")
        for name, package in (
            ("sshd", "openssh-server"),
            ("sudo", "sudo"),
            ("agetty", "util-linux"),
            ("login", "login"),
        ):
            find_program(name, package)
        self._mount = folder / "board"
        self._mount.mkdir(parents=True)
        self.port = free_port()
        self._sshd = sshd
        run = RUN.replace("{port}", str(self.port)).replace(
            "{sshd}", "/usr/sbin/sshd -f /etc/ssh/sshd_config" if sshd else ""
        )
        run = run.replace("{getty}", _GETTY.replace("{tty}", tty.removeprefix("/dev/")) if tty else "")
        kinds = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        build = BUILD.replace("exec chroot . /bin/sh -s", f"exec chroot . /bin/sh -c '{run.replace(chr(39), _QUOTE)}'")
        self._log = (folder / "board.log").open("w+b")
        self._child = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                *kinds,
                "sh",
                "-c",
                build,
                "build",
                str(self._mount),
                f"{size_mb}m",
            ],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
        )
        assert self._child.stdin is not None
        self._child.stdin.write(_shadow().encode())
        self._child.stdin.close()
        try:
            wait_for(lambda: self._child.poll() is not None or self._is_ready(), 60.0, what="the board")
        except BaseException:
            self._child.kill()
            raise
        if self._child.poll() is not None:
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip()
            self._log.close()
            pytest.skip(f"no board of its own here, mounts in namespaces aren't allowed: {said[-300:]}")

    def __enter__(self) -> SmallBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait(60)
        self._log.close()
        self._mount.rmdir()

    def _is_ready(self) -> bool:
        try:
            return self.path("run/ready").is_file() and (not self._sshd or self._answers())
        except (OSError, ValueError, IndexError):
            return False

    def _answers(self) -> bool:
        """Whether its SSH server listens: it does so only after its start has ended."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5.0):
            return True

    @property
    def root(self) -> Path:
        """Its files, seen from here."""
        return Path(f"/proc/{self.first}/root")

    @property
    def first(self) -> int:
        """Its first process, as this machine counts."""
        return int(Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children").read_text().split()[0])

    def path(self, place: str) -> Path:
        """One of its files."""
        return self.root / place

    def run(self, *command: str, data: bytes = b"") -> str:
        """Runs a command on it as root and returns what it prints."""
        inside = ["nsenter", "-t", str(self.first), "-m", "-p", "-u", "-i", "-r", "-w", *command]
        done = subprocess.run(inside, input=data, capture_output=True, timeout=120)
        return (done.stdout + done.stderr).decode(errors="replace").strip()

    def fingerprint(self) -> str:
        """Of its ed25519 host key."""
        return self.run("ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub").split()[1]

    def let_in(self, user: str, public_key: str) -> None:
        """Puts a key into somebody's authorized_keys."""
        home = f"/home/{user}"
        script = f"mkdir -p {home}/.ssh && cat >> {home}/.ssh/authorized_keys"
        script += f" && chown -R {user}: {home}/.ssh && chmod -R go= {home}/.ssh"
        self.run("sh", "-c", script, data=f"{public_key}\n".encode())


_QUOTE = "'\\''"
_hashed: dict[str, str] = {}
_hashing = threading.Lock()


def _shadow() -> str:
    with _hashing:
        for user, password in USERS.items():
            if user not in _hashed:
                command = ["openssl", "passwd", "-6", "-stdin"]
                _hashed[user] = subprocess.run(
                    command, input=password, capture_output=True, text=True, check=True
                ).stdout.strip()
    lines = [f"{user}:{_hashed[user]}:20000:0:99999:7:::" for user in USERS]
    return "\n".join(["root:*:20000:0:99999:7:::", "sshd:*:20000::::::", *lines, ""])
