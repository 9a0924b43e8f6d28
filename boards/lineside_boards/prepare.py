"""`prepare`: from a vendor's image to one that joins the fleet when it is started, without root and without a mount.

1. Copy, unpacked, under a temporary name.
2. Look: which partitions, which Python, which way of being told its first settings; said.
3. Have the caller lay out the agent for that Python, and copy its tree into the root file system.
4. Tell it its first settings.
5. Read back what was written, check both file systems, bring it to the disk, rename.

A kill on the way leaves a temporary file and no image.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_boards.first_boot import cloud_init, direct, firstrun, preseed
from lineside_boards.first_boot.settings import FirstBootSettings
from lineside_boards.image import source
from lineside_boards.image.ext4 import Ext4Volume
from lineside_boards.image.fat import FatVolume
from lineside_boards.image.table import find, partitions
from lineside_boards.payload import PayloadTarget, examine
from lineside_boards.profile import BoardProfile
from lineside_runtime.errors import InputError
from lineside_runtime.files import fsync_folder

Say = Callable[[str], None]
LayOut = Callable[[Path, PayloadTarget], None]

WAYS = {
    "cloud-init": "cloud-init (user-data in the FAT partition)",
    "preseed": "custom.toml in the FAT partition",
    "firstrun": "firstrun.sh, started by cmdline.txt",
    "direct": "none of its own: written into its root file system",
}


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What was made.

    Attributes:
        image: The file.
        size_bytes: Of it.
        first_boot: How it is told its first settings.
        python: Of the system in it.
        files: Number of files and links of the agent in it.
    """

    image: Path
    size_bytes: int
    first_boot: str
    python: str
    files: int


def prepare(
    image: Path,
    out: Path,
    *,
    profile: BoardProfile,
    settings: FirstBootSettings,
    lay_out: LayOut,
    say: Say,
    progress: source.Progress = lambda done: None,
) -> Prepared:
    """Makes a board's image.

    Args:
        image: The vendor's; plain, ``.xz`` or ``.zst``.
        out: A file that isn't there yet.
        profile: Of the board.
        settings: First settings, checked.
        lay_out: Puts the agent into a tree, for the Python that was found.
        say: Told of each step.
        progress: Told how many bytes are copied.

    Raises:
        InputError: ``out`` is there.
        ImageError: The image is damaged, or laid out otherwise than the profile says.
        PayloadError: The agent can't be put together for it.
        ReadBackError: What was read back isn't what was written.
        MissingProgramError: e2fsprogs isn't installed.
        DiskFullError: There is no room.
    """
    if out.exists():
        raise InputError(f"{out} is there", action="Remove it, or choose another name.")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.resolve().parent) as name:
        scratch = Path(name)
        work = scratch / "image"
        source.copy(image, work, progress)
        prepared = _edit(work, scratch / "tree", profile, settings, lay_out, say)
        with work.open("rb+") as file:
            os.fsync(file.fileno())
        work.replace(out)
    fsync_folder(out.resolve().parent)
    return msgspec.structs.replace(prepared, image=out)


def _edit(
    work: Path, tree: Path, profile: BoardProfile, settings: FirstBootSettings, lay_out: LayOut, say: Say
) -> Prepared:
    parts = partitions(work)
    facts = profile.image
    boot = find(parts, facts.boot_label, "fat") if facts.boot_label else None
    root_part = find(parts, facts.root_label, "ext4")
    root = Ext4Volume(work, root_part)
    target = examine(
        root, expected=PayloadTarget(python=profile.python.version, architecture=profile.board.architecture)
    )
    say(f"partition {root_part.number} is the root: Python {target.python}, {root.free_bytes / 1e6:.0f} MB free")
    tree.mkdir()
    lay_out(tree, target)
    if boot is None:
        way, files = "direct", 0
        direct.lay_out(tree, settings)
    else:
        with FatVolume(work, boot) as volume:
            way = _tell(volume, root, profile, settings)
        if way == "direct":
            direct.lay_out(tree, settings)
    say(f"first settings: {WAYS[way]}")
    files = root.write_tree(tree)
    shutil.rmtree(tree)
    root.check()
    say(f"{files} files of the agent are in the image, read back and the file system checked")
    return Prepared(image=work, size_bytes=work.stat().st_size, first_boot=way, python=target.python, files=files)


def _tell(boot: FatVolume, root: Ext4Volume, profile: BoardProfile, settings: FirstBootSettings) -> str:
    """Tells the settings in the first of the profile's ways that the image itself understands."""
    for way in profile.image.first_boot:
        if way == "cloud-init" and cloud_init.understands(boot, root):
            cloud_init.apply(boot, settings)
            return way
        if way == "preseed" and preseed.understands(boot, root):
            preseed.apply(boot, settings)
            return way
        if way == "firstrun" and firstrun.understands(boot, root):
            firstrun.apply(boot, settings, boot_path=profile.image.boot_path)
            return way
    return "direct"
