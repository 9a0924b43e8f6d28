"""Writing to loop devices, and everything that can go wrong there."""

from __future__ import annotations

import hashlib
import lzma
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside.cli import main
from lineside_boards import bmap, disk, flash
from lineside_boards.errors import FlashError, ImageError, ReadBackError, UnsafeTargetError
from lineside_boards.flash import HEAD_BYTES, Stage
from lineside_runtime.errors import InputNotFoundError
from tests.boards.loop import loop_device
from tests.peers.waiting import wait_for

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """10 MiB and a bit, so that neither pieces nor blocks come out even; noise at both ends alone is packed soon."""
    path, noise = tmp_path / "disk.img", random.Random(5)
    path.write_bytes(noise.randbytes(2 * MIB) + bytes(6 * MIB) + noise.randbytes(2 * MIB + 512 * 3))
    return path


@pytest.fixture
def card(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A disk of 16 MiB that holds an old system, and the file behind it."""
    file = tmp_path / "card"
    file.write_bytes(b"OLD!" * (4 * MIB))
    with loop_device(file) as device:
        yield device, file


def test_image_is_on_the_card_and_the_rest_stays_also_when_it_is_done_twice(
    image: Path, card: tuple[Path, Path]
) -> None:
    device, file = card
    data = image.read_bytes()
    stages: list[Stage] = []
    for _ in range(2):
        made = flash.write(image, device, loop=True, progress=lambda stage, done: stages.append(stage))
        assert file.read_bytes() == data + (b"OLD!" * (4 * MIB))[len(data) :]
        assert (made.image_bytes, made.written_bytes) == (len(data), len(data))
    assert list(dict.fromkeys(stages)) == ["write", "read back", "finish"]


@pytest.mark.parametrize("ending", ["xz", "zst"])
def test_packed_image_is_unpacked_on_the_way(image: Path, card: tuple[Path, Path], ending: str) -> None:
    subprocess.run([{"xz": "xz", "zst": "zstd"}[ending], "-q", "-k", "-1", image], check=True)
    wanted = hashlib.sha256(image.read_bytes()).hexdigest()
    made = flash.write(image.with_suffix(f".img.{ending}"), card[0], loop=True, sha256=wanted.upper())
    assert made.sha256 == wanted
    assert card[1].read_bytes().startswith(image.read_bytes())


def test_block_map_leaves_empty_blocks_alone(image: Path, card: tuple[Path, Path], tmp_path: Path) -> None:
    text = (
        '<?xml version="1.0"?><bmap version="2.0"><ImageSize> 10487296 </ImageSize><BlockSize> 4096 </BlockSize>'
        "<BlockMap><Range chksum='x'> 0-511 </Range><Range> 1000 </Range><Range>2559-2560</Range></BlockMap></bmap>"
    )
    (tmp_path / "disk.bmap").write_text(text)
    made = flash.write(image, card[0], loop=True, bmap=bmap.read(tmp_path / "disk.bmap"))
    data, written = image.read_bytes(), card[1].read_bytes()
    assert written[: 512 * 4096] == data[: 512 * 4096]
    assert written[1000 * 4096 : 1001 * 4096] == data[1000 * 4096 : 1001 * 4096]
    assert written[2559 * 4096 : len(data)] == data[2559 * 4096 :]
    assert written[512 * 4096 : 1000 * 4096] == (b"OLD!" * MIB)[: 488 * 4096]
    assert made.written_bytes == 512 * 4096 + 4096 + len(data) - 2559 * 4096


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<bmap/>",
        *(
            f"<bmap><ImageSize>1</ImageSize><BlockSize>{size}</BlockSize><BlockMap>{ranges}</BlockMap></bmap>"
            for size, ranges in ((0, ""), (1, "<Range>2-1</Range>"), (1, "<Range>-4</Range>"))
        ),
        '<!DOCTYPE b [<!ENTITY a "aaaa">]><bmap><ImageSize>&a;</ImageSize></bmap>',
    ],
)
def test_damaged_block_map_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.bmap").write_text(text)
    with pytest.raises(ImageError):
        bmap.read(tmp_path / "bad.bmap")


def test_wrong_hash_or_truncated_image_leaves_a_card_that_does_not_start(image: Path, card: tuple[Path, Path]) -> None:
    def refused(words: str, path: Path = image, **how: Any) -> None:
        card[1].write_bytes(b"OLD!" * (4 * MIB))
        with pytest.raises(ImageError, match=words):
            flash.write(path, card[0], loop=True, **how)
        assert card[1].read_bytes()[:HEAD_BYTES] == bytes(HEAD_BYTES)

    refused("not the expected image", sha256="0" * 64)
    packed, short = lzma.compress(image.read_bytes(), preset=0), image.with_suffix(".img.xz")
    short.write_bytes(packed[: len(packed) * 2 // 3])
    refused("can't be unpacked", short)
    whole = hashlib.sha256(image.read_bytes()).hexdigest()
    os.truncate(image, 9 * MIB)
    refused("hash|image", sha256=whole)
    refused("block map", bmap=bmap.Bmap(10 * MIB, 4096, ((0, 2559),)))


def test_card_that_garbles_is_found_and_does_not_start(image: Path, card: tuple[Path, Path]) -> None:
    device, file = card

    def garble(stage: Stage, done: int) -> None:
        if stage == "write" and done == image.stat().st_size:
            os.sync()
            with file.open("r+b") as behind:
                behind.seek(7 * MIB + 1234)
                behind.write(b"\x00\xff")

    with pytest.raises(ReadBackError, match="other bytes"):
        flash.write(image, device, loop=True, progress=garble)
    assert file.read_bytes()[:HEAD_BYTES] == bytes(HEAD_BYTES)


def test_locked_card_is_refused(image: Path, card: tuple[Path, Path]) -> None:
    device, file = card
    subprocess.run(["blockdev", "--setro", device], check=True)
    with pytest.raises((UnsafeTargetError, FlashError), match="read-only"):
        flash.write(image, device, loop=True)
    subprocess.run(["blockdev", "--setrw", device], check=True)
    assert file.read_bytes()[:4] == b"OLD!"


def test_card_that_goes_read_only_half_way_is_an_error(image: Path, card: tuple[Path, Path]) -> None:
    """As cards do when they wear out."""
    device, file = card

    def wear_out(stage: Stage, done: int) -> None:
        if stage == "write" and done < image.stat().st_size:
            subprocess.run(["blockdev", "--setro", device], check=True)

    with pytest.raises((FlashError, ReadBackError)):
        flash.write(image, device, loop=True, progress=wear_out)
    subprocess.run(["blockdev", "--setrw", device], check=True)
    assert file.read_bytes()[:HEAD_BYTES] == bytes(HEAD_BYTES)


@pytest.mark.parametrize("when", ["write", "read back"])
def test_card_that_is_pulled_out_is_an_error(image: Path, card: tuple[Path, Path], when: str) -> None:
    """The kernel then tells a size of 0, which is done here by shortening what lies behind the loop device."""
    device, file = card
    pulled: list[Stage] = []

    def pull(stage: Stage, done: int) -> None:
        if stage == when and not pulled:
            pulled.append(stage)
            os.truncate(file, 0)
            subprocess.run(["losetup", "--set-capacity", device], check=True)

    with pytest.raises((FlashError, ReadBackError)):
        flash.write(image, device, loop=True, progress=pull)
    assert pulled


def test_disk_that_runs_full_behind_our_back_is_an_error(image: Path, tmp_path: Path) -> None:
    """A loop device on a file system that has no room: the kernel tells it as an I/O error, late."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs")
    try:
        with (small / "card").open("wb") as file:
            file.truncate(16 * MIB)
        with loop_device(small / "card") as device:
            with pytest.raises((FlashError, ReadBackError)):
                flash.write(image, device, loop=True)
            assert (small / "card").read_bytes()[:HEAD_BYTES] == bytes(HEAD_BYTES)
    finally:
        subprocess.run(["umount", small], check=True)


def test_card_that_is_too_small_is_refused_before_anything_is_written(image: Path, tmp_path: Path) -> None:
    file = tmp_path / "small"
    file.write_bytes(b"OLD!" * MIB)
    with loop_device(file) as device, pytest.raises(UnsafeTargetError, match="too small"):
        flash.write(image, device, loop=True)
    assert file.read_bytes() == b"OLD!" * MIB


def test_packed_image_that_turns_out_too_large_leaves_a_card_that_does_not_start(image: Path, tmp_path: Path) -> None:
    subprocess.run(["zstd", "-q", "-k", "-1", image], check=True)
    file = tmp_path / "small"
    file.write_bytes(b"OLD!" * (2 * MIB))
    with loop_device(file) as device, pytest.raises(UnsafeTargetError, match="doesn't start now"):
        flash.write(image.with_suffix(".img.zst"), device, loop=True)
    assert file.read_bytes()[:HEAD_BYTES] == bytes(HEAD_BYTES)


def test_mounted_card_is_refused(image: Path, tmp_path: Path) -> None:
    file = tmp_path / "card"
    file.write_bytes(bytes(32 * MIB))
    subprocess.run(["mke2fs", "-q", file], check=True)
    where = tmp_path / "mounted here"
    where.mkdir()
    with loop_device(file) as device:
        if subprocess.run(["mount", device, where], capture_output=True).returncode:
            pytest.skip("no right to mount")
        try:
            before = hashlib.sha256(file.read_bytes()).digest()
            with pytest.raises(UnsafeTargetError, match=r"mounted on .*mounted here"):
                flash.write(image, device, loop=True)
            assert hashlib.sha256(file.read_bytes()).digest() == before
        finally:
            subprocess.run(["umount", where], check=True)


def test_kernel_itself_refuses_a_disk_that_another_program_holds(image: Path, card: tuple[Path, Path]) -> None:
    holder = os.open(card[0], os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(UnsafeTargetError, match="can't be opened"):
            flash.write(image, card[0], loop=True)
    finally:
        os.close(holder)
    assert card[1].read_bytes()[:4] == b"OLD!"


def test_what_is_no_disk_is_refused_and_a_loop_device_unless_it_is_said(image: Path, card: tuple[Path, Path]) -> None:
    for target in ("/dev/null", "/tmp", "/dev/absent"):
        with pytest.raises(UnsafeTargetError, match="no block device"):
            flash.write(image, Path(target))
    with pytest.raises(UnsafeTargetError, match="loop device"):
        flash.write(image, card[0])
    with pytest.raises(InputNotFoundError):
        flash.write(image.with_name("absent.img"), card[0], loop=True)


def test_killed_at_any_point_the_card_does_not_start_and_the_next_try_works(
    image: Path, card: tuple[Path, Path]
) -> None:
    device, file = card
    code = (
        "import sys; from pathlib import Path; from lineside_boards import flash\n"
        "def hold(stage, done):\n"
        "    if f'{stage} {done}' == sys.argv[3]: print('here', flush=True); sys.stdin.read()\n"
        "flash.write(Path(sys.argv[1]), Path(sys.argv[2]), loop=True, progress=hold)\n"
    )
    size = image.stat().st_size
    for moment in ("write 4194304", f"write {size}", "read back 4194304", "finish 0"):
        command = [sys.executable, "-c", code, str(image), str(device), moment]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"here\n"
            child.send_signal(signal.SIGKILL)
        assert file.read_bytes()[:HEAD_BYTES] == bytes(HEAD_BYTES), moment
    wait_for(lambda: not disk.look(device).used, what="the kernel to let go of the device")
    flash.write(image, device, loop=True)
    assert file.read_bytes()[:size] == image.read_bytes()


def test_command_writes_and_says_what_it_does(
    image: Path, card: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["board", "write", str(image), "--to", str(card[0]), "--loop"]
    assert main(where) == 1
    assert "nobody to ask" in capsys.readouterr().err
    assert main([*where, "--yes"]) == 0
    captured = capsys.readouterr()
    assert "everything on it is lost" in captured.err
    assert "written and read back" in captured.out
    assert card[1].read_bytes()[: image.stat().st_size] == image.read_bytes()


def sysfs(root: Path, name: str, **facts: str) -> Path:
    """A disk as sysfs shows it."""
    where = root / f"sys/devices/{facts.pop('bus', 'pci')}/{name}"
    where.mkdir(parents=True)
    (root / "sys/class/block").mkdir(parents=True, exist_ok=True)
    (root / "sys/class/block" / name).symlink_to(where)
    values = {"size": "31116288", "removable": "0", "ro": "0", "dev": "8:0", **facts}
    for key, text in values.items():
        (where / key).write_text(f"{text}\n")
    return where


@pytest.mark.parametrize(
    ("name", "facts", "reason"),
    [
        ("sda", {"bus": "usb1"}, None),
        ("sdb", {"removable": "1"}, None),
        ("sdc", {}, "built in"),
        ("nvme0n1", {}, "built in"),
        ("sdd", {"bus": "usb1", "size": "0"}, "no medium"),
        ("sde", {"bus": "usb1", "ro": "1"}, "lock switch"),
        ("sdf1", {"bus": "usb1", "partition": "1"}, "such as /dev/sdf"),
        ("mmcblk0p2", {"partition": "2"}, "such as /dev/mmcblk0"),
        ("sdg", {"bus": "usb1", "size": "1000"}, "too small"),
    ],
)
def test_only_cards_and_usb_disks_are_written(
    tmp_path: Path, name: str, facts: dict[str, str], reason: str | None
) -> None:
    sysfs(tmp_path, name, **facts)
    found = disk.look(Path("/dev") / name, tmp_path)
    if reason is None:
        disk.check(found, needed_bytes=4 * MIB)
        return
    with pytest.raises(UnsafeTargetError, match=reason):
        disk.check(found, needed_bytes=4 * MIB)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("proc/self/mountinfo", "22 1 8:1 / /media/me/boot\\040fs rw - vfat /dev/sda1 rw\n", "/media/me/boot fs"),
        ("proc/self/mountinfo", "22 1 0:44 / /data rw - btrfs /dev/sda1 rw\n", "mounted on /data"),
        ("proc/swaps", "Filename Type Size Used Priority\n/dev/sda1 partition 1 0 -2\n", "swap on /dev/sda1"),
        ("sys/class/block/sda/sda1/holders/dm-0", "", "held by dm-0"),
    ],
)
def test_disk_in_use_is_refused_with_all_its_uses(tmp_path: Path, file: str, text: str, reason: str) -> None:
    where = sysfs(tmp_path, "sda", bus="usb1")
    (where / "sda1").mkdir()
    (where / "sda1/partition").write_text("1\n")
    (where / "sda1/dev").write_text("8:1\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    with pytest.raises(UnsafeTargetError, match=reason):
        disk.check(disk.look(Path("/dev/sda"), tmp_path), needed_bytes=0)


def test_system_disk_of_this_machine_is_never_written(image: Path) -> None:
    """Whatever it is called here."""
    number = Path("/").stat().st_dev
    name = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not name.exists():
        pytest.skip("the root of this machine is on no disk of its own")
    device = Path("/dev") / name.resolve().name
    if not device.exists():
        pytest.skip(f"{device} is not shown here")
    with pytest.raises(UnsafeTargetError, match="mounted on /"):
        flash.write(image, device, loop=True)
