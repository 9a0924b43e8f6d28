"""T1: the wheels of a board's payload run on its processor's instructions, under qemu's user emulation.

T2: Debian's arm64 kernel and an initramfs of ours start on qemu's board with the Pi 5's core and reach a broker here.
Neither says anything of a board's speed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from lineside_boards import profile
from lineside_boards.detect import Board
from lineside_boards.image import initramfs
from tests.boards import arm64
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.peers.programs import find_program

INSTALLED_BYTES_MAX, CARRIED_BYTES_MAX = 300e6, 110e6
BOOT_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def emulated() -> list[str]:
    """How a program of the board's Python is run here."""
    qemu = find_program("qemu-aarch64-static", "qemu-user-static")
    sysroot = arm64.sysroot()
    return [qemu, "-cpu", "cortex-a76", "-L", str(sysroot), str(sysroot / f"usr/bin/python{arm64.PYTHON}")]


def test_payload_runs_on_the_boards_instructions_with_the_same_sums(emulated: list[str]) -> None:
    payload, tree = arm64.agent()
    script = Path(__file__).with_name("on_arm64.py")
    here = json.loads(subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(arm64.site_packages(tree)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [*emulated, str(script)], capture_output=True, text=True, env=environment, timeout=arm64.TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    there = json.loads(done.stdout)
    assert (there["machine"], there["python"]) == ("aarch64", arm64.PYTHON)
    assert there["jpeg_mean"] == pytest.approx(here["jpeg_mean"], abs=0.1)
    assert there["input_mean"] == pytest.approx(here["input_mean"], abs=0.01), "OpenCV rounds a pixel otherwise"
    for name, sums in here["outputs"].items():
        assert there["outputs"][name] == pytest.approx(sums, rel=0.02), name
    installed = sum(path.lstat().st_size for path in tree.rglob("*"))
    assert installed < INSTALLED_BYTES_MAX
    assert payload.manifest.size_bytes < CARRIED_BYTES_MAX


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
echo done > /dev/console
busybox poweroff -f
"""
"""Brings the network up and sends one MQTT 3.1.1 message, byte by byte: CONNECT, PUBLISH, DISCONNECT."""


@contextlib.contextmanager
def listening(port: int, topic: str) -> Iterator[queue.Queue[str]]:
    """Messages of a topic, from paho."""
    messages: queue.Queue[str] = queue.Queue()
    subscribed = threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "host")
    client.on_message = lambda _client, _data, message: messages.put(message.payload.decode())
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", port)
    client.subscribe(topic)
    client.loop_start()
    try:
        assert subscribed.wait(30)
        yield messages
    finally:
        client.disconnect()
        client.loop_stop()


def test_board_of_the_pis_core_boots_and_its_message_arrives(tmp_path: Path) -> None:
    qemu = find_program("qemu-system-aarch64", "qemu-system-arm")
    socat = find_program("socat", "socat")
    unpacked = arm64.kernel()
    modules = initramfs.pick(unpacked, ("failover", "net_failover", "virtio_net"))
    initrd = tmp_path / "initrd.img"
    initrd.write_bytes(initramfs.make((unpacked / "usr/bin/busybox").read_bytes(), modules, init=INIT))
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    broker = Mosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    console = tmp_path / "console.log"
    network = f"user,id=n0,restrict=on,guestfwd=tcp:10.0.2.100:1883-cmd:{socat} - TCP:127.0.0.1:{broker.port}"
    command = [qemu, "-M", "virt,gic-version=3", "-cpu", "cortex-a76", "-smp", "2", "-m", "328", "-nic", "none"]
    command += ["-accel", "tcg,thread=multi", "-kernel", str(kernel), "-initrd", str(initrd)]
    command += ["-append", "console=ttyAMA0 quiet panic=-1", "-netdev", network]
    command += ["-device", "virtio-net-pci,netdev=n0,romfile=", "-serial", f"file:{console}"]
    command += ["-display", "none", "-monitor", "none", "-no-reboot"]
    with listening(broker.port, "t2/boot") as messages:
        begun = time.monotonic()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as board:
            try:
                message = messages.get(timeout=BOOT_TIMEOUT_S)
                took_s = time.monotonic() - begun
            except queue.Empty:
                pytest.fail(f"no message\n{console.read_text(errors='replace')[-2000:]}")
            finally:
                board.kill()
                broker.stop()
    print(f"power to the message on the host: {took_s:.1f} s")
    compatible, machine, memory_kib, gpio = message.split(";")
    board_found = Board("qemu", tuple(compatible.split()), machine, memory_bytes=int(memory_kib) * 1024)
    assert [one.name for one in profile.matching(board_found, ())] == ["qemu-virt"]
    assert gpio == "/dev/gpiochip0", "the PL061 that rejects are signalled on"
