from __future__ import annotations

import json
import lzma
import os
import random
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
import zstandard

from lineside_boards.errors import ImageError, ReadBackError
from lineside_boards.image import image_file
from lineside_boards.image.ext4 import Ext4Volume
from lineside_boards.image.fat import FatVolume
from lineside_boards.image.partition_table import Partition, disk_id, find, partitions, write_mbr
from lineside_runtime.errors import InputNotFoundError
from tests.boards.images import MIB, check_file_systems, jetpack, raspberry_pi_os, run


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raspberry_pi_os(tmp_path_factory.mktemp("pi") / "pi.img", first_boot="cloud-init")


@pytest.fixture
def image(pristine: Path, tmp_path: Path) -> Path:
    image_file.copy(pristine, tmp_path / "pi.img")
    return tmp_path / "pi.img"


def test_partitions_are_those_that_sfdisk_sees(pristine: Path) -> None:
    seen = json.loads(run("sfdisk", "--json", str(pristine), package="fdisk"))["partitiontable"]["partitions"]
    found = partitions(pristine)
    assert [(part.start // 512, part.size // 512) for part in found] == [(one["start"], one["size"]) for one in seen]
    assert [(part.filesystem, part.label, part.kind) for part in found] == [
        ("fat", "bootfs", 12),
        ("ext4", "rootfs", 0x83),
    ]
    with pristine.open("rb") as file:
        assert disk_id(file) == 0x4D2B1C0A


def test_jetpacks_partitions_have_their_names(tmp_path: Path) -> None:
    found = partitions(jetpack(tmp_path / "jetson.img"))
    assert [(part.number, part.start, part.filesystem, part.label) for part in found] == [
        (1, 5 * MIB, "ext4", "APP"),
        (2, 69 * MIB, "", "esp"),
    ]
    assert find(found, "APP", "ext4").number == 1


def test_table_that_we_write_is_read_by_sfdisk(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(16 * MIB))
    write_mbr(disk, (Partition(1, 4 * MIB, 4 * MIB, 12), Partition(2, 8 * MIB, 8 * MIB, 0x83)), disk_id=0xA1B2C3D4)
    table = json.loads(run("sfdisk", "--json", str(disk), package="fdisk"))["partitiontable"]
    assert table["id"] == "0xa1b2c3d4"
    assert [(one["start"], one["size"], one["type"]) for one in table["partitions"]] == [
        (8192, 8192, "c"),
        (16384, 16384, "83"),
    ]
    assert "bootable" in table["partitions"][0]


@pytest.mark.parametrize("damage", ["empty", "no signature", "cut off", "gpt header", "gpt entries"])
def test_damaged_tables_are_refused(pristine: Path, tmp_path: Path, damage: str) -> None:
    bad = tmp_path / "bad.img"
    if damage.startswith("gpt"):
        jetpack(bad)
        with bad.open("r+b") as file:
            file.seek(512 + 60 if damage == "gpt header" else 1024 + 40)
            file.write(b"\xff\xff")
    else:
        image_file.copy(pristine, bad)
        os.truncate(bad, {"empty": 0, "no signature": 510, "cut off": 60 * MIB}[damage])
    with pytest.raises(ImageError):
        partitions(bad)


def test_rubbish_is_refused_and_never_believed(tmp_path: Path) -> None:
    """What ends in 55 aa or begins like a GPT, and is rubbish otherwise."""
    file = tmp_path / "noise.img"
    for seed in range(40):
        data = bytearray(random.Random(seed).randbytes(1 << 18))
        data[510:512] = b"\x55\xaa"
        if seed % 2:
            data[450], data[512:520] = 0xEE, b"EFI PART"
            data[524:528] = (92).to_bytes(4, "little")
            data[528:532] = zlib.crc32(data[512:528] + bytes(4) + data[532:604]).to_bytes(4, "little")
        file.write_bytes(data)
        try:
            found = partitions(file)
        except ImageError:
            continue
        assert all(part.start + part.size <= len(data) for part in found), seed


def test_fat_files_are_what_mtools_reads(image: Path, tmp_path: Path) -> None:
    boot = partitions(image)[0]
    wheel = random.Random(1).randbytes(3 * MIB)
    with FatVolume(image, boot) as volume:
        assert "cmdline.txt" in volume.names()
        volume.write("a-long-name.with.dots.whl", wheel)
        volume.write("cmdline.txt", b"short\n")
        assert volume.read("CMDLINE.TXT") == b"short\n"
        assert not volume.exists("absent")
        with pytest.raises(ImageError):
            volume.read("absent")
    for name, content in (("a-long-name.with.dots.whl", wheel), ("cmdline.txt", b"short\n")):
        command = ["mcopy", "-i", f"{image}@@{boot.start}", f"::{name}", "-"]
        assert subprocess.run(command, capture_output=True, check=True).stdout == content
    check_file_systems(image, tmp_path)


def test_full_partitions_writes_behind_them_and_other_file_systems_are_errors(image: Path) -> None:
    boot, root = partitions(image)
    with pytest.raises(ImageError, match="behind the partition"), FatVolume(image, boot) as volume:
        volume._window.write(boot.size, 1, bytes(512))  # said at the end at the latest
    with pytest.raises(ImageError, match="no FAT"):
        FatVolume(image, root)
    with pytest.raises(ImageError, match="no ext4"):
        Ext4Volume(image, boot)
    with FatVolume(image, boot) as volume, pytest.raises(ImageError, match="FAT"):
        volume.write("big", bytes(60 * MIB))


def test_tree_is_written_and_e2fsck_is_content(image: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "opt/lineside/deep/er").mkdir(parents=True)
    (tree / "opt/lineside/deep/er/a file").write_bytes(random.Random(2).randbytes(300_000))
    (tree / "opt/lineside/empty").touch()
    (tree / "opt/lineside/program").write_text("#!/bin/sh\n")
    (tree / "opt/lineside/program").chmod(0o755)
    (tree / "opt/lineside/current").symlink_to("deep/er")
    (tree / "opt/lineside/naïve-ß").write_text("utf-8")
    (tree / "etc").mkdir()
    (tree / "etc/hostname").write_text("cam-07\n")
    (tree / "etc/secret").write_text("key")
    (tree / "etc/secret").chmod(0o640)
    root = partitions(image)[1]
    volume = Ext4Volume(image, root)
    assert volume.write_tree(tree) == 7
    volume.check()
    again = Ext4Volume(image, root)
    assert again.read("/etc/hostname") == b"cam-07\n"
    assert again.read("/etc/systemd/system/keep.service") == b"[Unit]\n"
    entries = again.entries("/opt/lineside")
    assert entries.keys() == {"deep", "empty", "program", "current", "naïve-ß"}
    assert oct(entries["program"].mode) == "0o100755"
    assert oct(again.entries("/etc")["secret"].mode) == "0o100640"
    assert again.free_bytes < volume.free_bytes
    check_file_systems(image, tmp_path)


def test_tree_is_written_twice_and_stays_whole(image: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "opt/x").mkdir(parents=True)
    root = partitions(image)[1]
    for text in ("first", "second, and longer than before"):
        (tree / "opt/x/file").write_text(text)
        Ext4Volume(image, root).write_tree(tree)
    assert Ext4Volume(image, root).read("/opt/x/file") == b"second, and longer than before"
    check_file_systems(image, tmp_path)


@pytest.mark.parametrize("place", ["opt/big/folder/f401", "opt/big/one", "opt/small/link", "etc/one", "etc/link"])
def test_what_reads_back_otherwise_is_found(
    image: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A debugfs in front of the real one changes one file of the image behind each writing."""
    tree = tmp_path / "tree"
    for folder in ("opt/big/folder", "opt/small", "etc"):
        (tree / folder).mkdir(parents=True)
    many = [f"opt/big/folder/f{number}" for number in range(405)]  # too many to be read back as one folder
    for path in (*(many if "big" in place else many[:1]), "opt/big/one", "opt/small/one", "etc/one"):
        (tree / path).write_text(path)
    for path in ("opt/small/link", "etc/link"):
        (tree / path).symlink_to("one")
    real = shutil.which("debugfs", path=f"{os.environ['PATH']}:/usr/sbin")
    change = f'symlink "/{place}" "two"' if place.endswith("link") else f'write "{tree}/etc/one2" "/{place}"'
    liar = tmp_path / "bin" / "debugfs"
    liar.parent.mkdir()
    liar.write_text(
        f"""#!/bin/sh
{real} "$@" || exit
[ "$1" = -w ] || exit 0
for target; do :; done
printf '%s\n' 'rm "/{place}"' '{change}' | {real} -w -f - "$target" >&2
"""
    )
    liar.chmod(0o755)
    volume = Ext4Volume(image, find(partitions(image), "rootfs", "ext4"))
    volume.write_tree(tree)
    (tree / "etc/one2").write_text("another")
    monkeypatch.setenv("PATH", f"{liar.parent}:{os.environ['PATH']}")
    with pytest.raises(ReadBackError, match=rf"{Path(place).name}\b.* differs"):
        volume.write_tree(tree)


def test_trees_without_room_with_odd_names_or_in_the_way_are_refused_before_anything_is_written(
    image: Path, tmp_path: Path
) -> None:
    before, volume = image.read_bytes(), Ext4Volume(image, partitions(image)[1])
    large, odd, tree = (tmp_path / name for name in ("large", "odd", "tree"))
    (large / "opt").mkdir(parents=True)
    with (large / "opt/big").open("wb") as file:
        file.truncate(100 * MIB)
    odd.mkdir()
    (odd / 'a"b').write_text("")
    (tree / "etc/hostname").mkdir(parents=True)
    for given, words in ((large, "no room"), (odd, "debugfs"), (tree, "in the way")):
        with pytest.raises(ImageError, match=words):
            volume.write_tree(given)
    assert image.read_bytes() == before


@pytest.mark.parametrize("kind", ["plain", "xz", "zst", "zst in frames"])
def test_image_is_unpacked_by_its_first_bytes(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / "whole"
    with whole.open("wb") as file:
        file.write(os.urandom(MIB))
        file.seek(15 * MIB)
        file.write(os.urandom(MIB))
    data = whole.read_bytes()
    packed = {
        "plain": lambda: data,
        "xz": lambda: lzma.compress(data, preset=0),
        "zst": lambda: zstandard.compress(data),
        "zst in frames": lambda: zstandard.compress(data[: 9 * MIB]) + zstandard.compress(data[9 * MIB :]),
    }[kind]()
    (tmp_path / "in").write_bytes(packed)
    image_file.copy(whole if kind == "plain" else tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert (tmp_path / "out").stat().st_blocks * 512 <= len(data) / 2 + 64 * 1024, "holes stay holes"


@pytest.mark.parametrize("kind", ["xz", "zst"])
def test_damaged_and_absent_archives_are_errors_and_leave_no_file(tmp_path: Path, kind: str) -> None:
    data = random.Random(3).randbytes(MIB) + bytes(8 * MIB)
    checked = zstandard.ZstdCompressor(write_checksum=True)
    packed = bytearray(lzma.compress(data, preset=0) if kind == "xz" else checked.compress(data))
    cut, flipped = packed[: len(packed) // 2], packed
    flipped[len(packed) // 2] ^= 0xFF
    for damaged in (cut, flipped):
        (tmp_path / "in").write_bytes(damaged)
        with pytest.raises(ImageError, match="can't be unpacked"):
            image_file.copy(tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputNotFoundError):
        image_file.copy(tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_bytes(b"another image")
    (tmp_path / "in").write_bytes(lzma.compress(data, preset=0))
    with pytest.raises(FileExistsError):
        image_file.copy(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"another image"
