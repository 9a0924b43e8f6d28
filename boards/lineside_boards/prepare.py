"""Turn a vendor's image into one whose board joins the fleet when it starts, without root and without a mount.

1. Copy, unpacked, under a temporary name.
2. Examine partitions, Python and the supported way of setting it up at first boot.
3. Let the caller lay out the agent for that Python, and copy the tree into the root file system.
4. Write the first-boot settings.
5. Read back what was written, check both file systems, sync, rename.

A kill leaves a temporary file and no image.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_boards.agent_files import SystemTarget, examine
from lineside_boards.first_boot import cloud_init, direct, firstrun, preseed
from lineside_boards.first_boot.settings import FirstBootSettings
from lineside_boards.image import image_file
from lineside_boards.image.ext4 import Ext4Volume
from lineside_boards.image.fat import FatVolume
from lineside_boards.image.partition_table import find, partitions
from lineside_boards.profile import BoardProfile
from lineside_runtime.errors import InputError
from lineside_runtime.files import fsync_folder

Say = Callable[[str], None]
LayOut = Callable[[Path, SystemTarget], None]

WAYS = {
    "cloud-init": "cloud-init (user-data in the FAT partition)",
    "preseed": "custom.toml in the FAT partition",
    "firstrun": "firstrun.sh, started by cmdline.txt",
    "direct": "none of its own: written into its root file system",
}


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `prepare`.

    Attributes:
        first_boot: How the first-boot settings are passed.
        python: Version of the system's Python.
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
    progress: image_file.BytesListener = lambda done: None,
) -> Prepared:
    """Makes a board's image.

    Args:
        image: The vendor's; plain, ``.xz`` or ``.zst``.
        out: The new image; it must not exist.
        lay_out: Writes the agent into a tree, for the Python that was found.
        progress: Called with the bytes that are copied.

    Raises:
        InputError: ``out`` exists.
        ImageError: The image is damaged, or has another layout than the profile says.
        PayloadError: There is no agent for its Python.
        ReadBackError: The content that was read back differs.
        MissingProgramError: e2fsprogs isn't installed.
        DiskFullError: There is no space.
    """
    if out.exists():
        raise InputError(f"{out} is there", action="Remove it, or choose another name.")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.resolve().parent) as name:
        scratch = Path(name)
        work = scratch / "image"
        image_file.copy(image, work, progress)
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
        root, expected=SystemTarget(python=profile.python.version, architecture=profile.board.architecture)
    )
    say(f"partition {root_part.number} is the root: Python {target.python}, {root.free_bytes / 1e6:.0f} MB free")
    tree.mkdir()
    lay_out(tree, target)
    way = "direct"
    if boot is not None:
        with FatVolume(work, boot) as volume:
            way = _apply_settings(volume, root, profile, settings)
    if way == "direct":
        direct.lay_out(tree, settings)
    say(f"first settings: {WAYS[way]}")
    files = root.write_tree(tree)
    shutil.rmtree(tree)
    root.check()
    say(f"{files} files of the agent are in the image, read back and the file system checked")
    return Prepared(image=work, size_bytes=work.stat().st_size, first_boot=way, python=target.python, files=files)


def _apply_settings(boot: FatVolume, root: Ext4Volume, profile: BoardProfile, settings: FirstBootSettings) -> str:
    """Passes the settings in the first of the profile's ways that the image supports."""
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
