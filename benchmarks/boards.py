"""Boards: how long it takes to prepare an image and to write it, what is carried, how long a board takes to start.

Baselines: copying the same bytes; ``dd`` and ``cmp`` of the same bytes to the same loop device. Needs root for the
loop device, and Debian's packages of ``tests/boards``.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.smoke import SMOKE, scaled
from lineside_agent.service.install import install
from lineside_boards import agent_files, flash, profile
from lineside_boards.agent_files import AgentSetup, IdentityFiles, SystemTarget
from lineside_boards.errors import UnsafeTargetError
from lineside_boards.first_boot.settings import FirstBootSettings
from lineside_boards.image import image_file
from lineside_boards.prepare import prepare
from lineside_models import zoo
from tests.boards import arm64, emulator
from tests.boards.images import raspberry_pi_os
from tests.boards.loop import loop_device

ROOT_MIB, FILLED_MIB, WRITE_MIB, ROUNDS = scaled((1950, 1300, 512, 3), smoke=(64, 1, 2, 1))
BARS = {
    "prepare_beyond_copy_s": 10.0,
    "write_and_verify_to_dd_and_cmp": 1.1,
    "installed_mb": 300.0,
    "carried_mb": 110.0,
    "t2_power_to_message_s": 15.0,
}
"""From the issue: what is at most wanted."""


def run() -> dict[str, object]:
    """Measures everything once, the compared ones by turns."""
    arm64.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arm64.CACHE) as name:
        folder = Path(name)
        if SMOKE:
            left_out = "the agent's wheels for arm64, the loop device, and a start in the emulator"
            return {"figures": {**_prepare(folder), **_write(folder)}, "bars": BARS, "left_out": left_out}
        found: dict[str, object] = {**_payload(), **_prepare(folder), **_write(folder)}
        if shutil.which("qemu-system-aarch64"):
            found["t2_power_to_message_s"] = round(emulator.boot_to_message(folder)[0], 1)
    return {"figures": found, "bars": BARS}


def _payload() -> dict[str, object]:
    packed, tree = arm64.agent()
    source, shipped = zoo.path("surface-12"), arm64.site_packages(tree) / "lineside_models/zoo/surface-12"
    bundle = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    again = 0 if _files(source) == _files(shipped) else bundle  # provisioning does not carry what the wheel has brought
    installed = sum(path.lstat().st_size for path in tree.rglob("*")) + bundle
    return {
        "carried_mb": round((packed.manifest.size_bytes + again) / 1e6, 1),
        "installed_mb": round(installed / 1e6, 1),
        "wheels": len(packed.manifest.files),
    }


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _prepare(folder: Path) -> dict[str, object]:
    """A copy of 2 GB, and the same with agent, identity and bundle, by turns."""
    image = raspberry_pi_os(folder / "pi.img", first_boot="cloud-init", root_mib=ROOT_MIB, fill_mib=FILLED_MIB)
    packed = None if SMOKE else arm64.agent()[0]
    (folder / "root.json").write_text("{}")

    def lay_out(tree: Path, _target: SystemTarget) -> None:
        if packed is not None:
            install(tree, payload=packed, foreign=True)
        agent = AgentSetup(
            device="cam-07",
            group="line-3",
            url="mqtt://10.0.0.5",
            site="plant-1",
            camera={"type": "v4l2"},
            bundle=zoo.path("surface-12"),
        )
        agent_files.lay_out(tree, agent, IdentityFiles(root=folder / "root.json"))

    copies, prepared, copies_cpu, prepared_cpu = [], [], [], []
    for number in range(ROUNDS):
        out = folder / f"out{number}.img"
        begun, cpu = time.perf_counter(), _cpu_s()
        image_file.copy(image, out)
        _sync(out)
        copies.append(time.perf_counter() - begun)
        copies_cpu.append(_cpu_s() - cpu)
        out.unlink()
        begun, cpu = time.perf_counter(), _cpu_s()
        settings = FirstBootSettings(hostname="cam-07", instance=str(number)).checked()
        prepare(image, out, profile=profile.load("rpi5"), settings=settings, lay_out=lay_out, say=lambda text: None)
        prepared.append(time.perf_counter() - begun)
        prepared_cpu.append(_cpu_s() - cpu)
        out.unlink()
    return {
        "image_mb": round(image.stat().st_size / 1e6),
        "copy_s": round(statistics.median(copies), 2),
        "prepare_s": round(statistics.median(prepared), 2),
        "prepare_beyond_copy_s": round(statistics.median(map(float.__sub__, prepared, copies)), 2),
        "prepare_beyond_copy_cpu_s": round(statistics.median(map(float.__sub__, prepared_cpu, copies_cpu)), 2),
    }


def _write(folder: Path) -> dict[str, object]:
    """The same bytes to the same loop device by `flash.write` and by ``dd`` and ``cmp``, by turns."""
    if os.geteuid() != 0 and not SMOKE:
        return {"write_and_verify_to_dd_and_cmp": "left out: loop devices need root"}
    image, card = folder / "random.img", folder / "card"
    noise = random.Random(1)
    with image.open("wb") as file:
        for _ in range(WRITE_MIB):
            file.write(noise.randbytes(1 << 20))
    shutil.copyfile(image, card)  # its blocks are there: neither side pays for finding room
    ours, theirs = [], []
    with _disk(card) as device:
        for _ in range(ROUNDS + 1):  # the first round warms up
            begun = time.perf_counter()
            _flash(image, device)
            ours.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            subprocess.run(["dd", f"if={image}", f"of={device}", "bs=4M", "conv=fsync", "status=none"], check=True)
            if not SMOKE:
                subprocess.run(["blockdev", "--flushbufs", device], check=True)
            subprocess.run(["cmp", image, device], check=True)
            theirs.append(time.perf_counter() - begun)
    ratios = [mine / his for mine, his in zip(ours[1:], theirs[1:], strict=True)]
    return {
        "written_mb": round(image.stat().st_size / 1e6),
        "write_and_verify_s": round(statistics.median(ours[1:]), 2),
        "dd_and_cmp_s": round(statistics.median(theirs[1:]), 2),
        "write_and_verify_to_dd_and_cmp": round(statistics.median(ratios), 3),
    }


@contextlib.contextmanager
def _disk(card: Path) -> Iterator[Path]:
    """Yields a file as a loop device; in a smoke run the file."""
    if SMOKE:
        yield card
        return
    with loop_device(card) as device:
        yield device


def _flash(image: Path, device: Path) -> None:
    """Writes and verifies; in a smoke run it must refuse the file, which is no disk."""
    if not SMOKE:
        flash.write(image, device, loop=True)
        return
    try:
        flash.write(image, device, loop=True)
    except UnsafeTargetError:
        return
    raise RuntimeError(f"{device} is no disk, and was written to")


def _cpu_s() -> float:
    """Processor time of this process and of the programs that it ran: what is left of a time on a shared machine."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
