"""qemu's board ``virt`` with the Pi 5's core, started from a kernel, an initramfs and perhaps an image."""

from __future__ import annotations

import contextlib
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from lineside_boards.image import initramfs
from tests.boards import arm64
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.processes import ChildProcess
from tests.peers.programs import find_program

HOST = "10.0.2.100"
"""Under which a board reaches a port of this machine."""

BOOT_TIMEOUT_S = 120
_PTY = re.compile(r"redirected to (/dev/pts/\d+)")

INIT = r"""#!/bin/sh
PATH=/bin
busybox mount -t proc proc /proc; busybox mount -t sysfs sysfs /sys; busybox mount -t devtmpfs dev /dev
for module in /mod/*.ko; do busybox insmod $module; done
busybox ip link set lo up; busybox ip link set eth0 up
busybox ip addr add 10.0.2.15/24 dev eth0; busybox ip route add default via 10.0.2.2
compatible=$(busybox tr '\0' ' ' < /proc/device-tree/compatible); compatible=${compatible% }
memory=$(busybox awk '/MemTotal/ {print $2}' /proc/meminfo)
gpio=$(echo /dev/gpiochip*)
text="$compatible;$(busybox uname -m);$memory;$gpio"
byte() { printf "\\x$(printf %02x $1)"; }
{
    printf '\020\016\000\004MQTT\004\002\000\074\000\002t2'
    byte 48; byte $((9 + ${#text})); printf '\000\007t2/boot'; printf '%s' "$text"
    printf '\340\000'; busybox sleep 2
} | busybox nc 10.0.2.100 1883
busybox poweroff -f
"""
"""Brings the network up and sends one MQTT 3.1.1 message, byte by byte: CONNECT, PUBLISH, DISCONNECT."""


def command(
    kernel: Path,
    initrd: Path,
    *,
    append: str,
    forward: tuple[int, int],
    console: Path | None,
    memory_mib: int = 328,
    disk: str = "",
    ssh_port: int = 0,
    ports: Path | None = None,
) -> list[str]:
    """Returns qemu's command.

    Args:
        kernel: Debian's.
        initrd: Compressed.
        append: The kernel's command line.
        forward: A port of `HOST` as the board sees it, and the port here that it leads to. Nothing else is reached.
        console: File that the serial line is written to; ``None`` for a pseudo-terminal, whose name qemu prints.
        memory_mib: The board's memory.
        disk: A raw disk, changed by the board: a file, or the URL of a server.
        ssh_port: Port here that leads to the board's port 22; 0 for none.
        ports: Folder for qemu's own ports: ``qmp``, and ``qtest`` for the board's lines.
    """
    qemu, socat = find_program("qemu-system-aarch64", "qemu-system-arm"), find_program("socat", "socat")
    there, here = forward
    network = f"user,id=n0,restrict=on,guestfwd=tcp:{HOST}:{there}-cmd:{socat} - TCP:127.0.0.1:{here}"
    if ssh_port:
        network += f",hostfwd=tcp:127.0.0.1:{ssh_port}-:22"
    parts = [qemu, "-M", "virt,gic-version=3", "-cpu", "cortex-a76", "-accel", "tcg,thread=multi", "-smp", "2"]
    parts += ["-m", str(memory_mib), "-kernel", str(kernel), "-initrd", str(initrd), "-append", append]
    parts += ["-nic", "none", "-netdev", network, "-device", "virtio-net-pci,netdev=n0,romfile="]
    parts += ["-chardev", "pty,id=c0" if console is None else f"file,id=c0,path={console},append=on"]
    parts += ["-serial", "chardev:c0", "-display", "none", "-monitor", "none", "-no-reboot"]
    if disk:
        # qemu keeps nothing back, and passes on each flush of the board's.
        parts += ["-drive", f"if=none,id=d0,file={disk},format=raw,cache=none", "-device", "virtio-blk-pci,drive=d0"]
    if ports is not None:
        parts += ["-qmp", f"unix:{ports / 'qmp'},server=on,wait=off"]
        parts += ["-qtest", f"unix:{ports / 'qtest'},server=on,wait=off", "-qtest-log", "none"]
    return parts


class Running(ChildProcess):
    """qemu, started.

    Args:
        command: Of `command`.
        log: File for what it prints.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        super().__init__(command, log)
        self.start()

    def terminal(self) -> str:
        """Returns the name of the pseudo-terminal that is its serial line."""
        self.wait_for(lambda: _PTY.search(self.said), what="qemu's pseudo-terminal")
        return str(_PTY.findall(self.said)[0])


def boot_to_message(folder: Path) -> tuple[float, str]:
    """Starts a board without a disk, and waits for its message at a broker here.

    Args:
        folder: For the broker's and the board's files.

    Returns:
        Seconds from power to the message, and the message.
    """
    unpacked = arm64.kernel()
    modules = initramfs.pick(unpacked, ("failover", "net_failover", "virtio_net"))
    initrd, console = folder / "initrd.img", folder / "console.log"
    initrd.write_bytes(initramfs.make((unpacked / "usr/bin/busybox").read_bytes(), modules, init=INIT))
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    broker = Mosquitto(folder / "broker", program=find_mosquitto())
    broker.start()
    start = command(
        kernel, initrd, append="console=ttyAMA0 quiet panic=-1", forward=(1883, broker.port), console=console
    )
    try:
        with listening(broker.port, "t2/boot") as messages:
            begun = time.monotonic()
            with subprocess.Popen(start, stderr=subprocess.PIPE) as board:
                try:
                    message = messages.get(timeout=BOOT_TIMEOUT_S)
                except queue.Empty:
                    raise AssertionError(f"no message\n{console.read_text(errors='replace')[-2000:]}") from None
                finally:
                    board.kill()
                return time.monotonic() - begun, message
    finally:
        broker.stop()


@contextlib.contextmanager
def listening(port: int, topic: str) -> Iterator[queue.Queue[str]]:
    """Messages of a topic, from paho."""
    messages: queue.Queue[str] = queue.Queue()
    subscribed = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "host")
    client.on_message = lambda _client, _data, message: messages.put(message.payload.decode())
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", port)
    client.subscribe(topic)
    client.loop_start()
    try:
        assert subscribed.wait(60)
        yield messages
    finally:
        client.disconnect()
        client.loop_stop()
