"""``lineside board flash`` and ``lineside board write``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from lineside.commands.board.prepare import add_preparation, prepare_image
from lineside.console import ProgressMeter, inform, print_json, show
from lineside.extras import needs
from lineside.options import Actions, add_json
from lineside_boards import disk as disks
from lineside_boards.errors import UnsafeTargetError
from lineside_runtime.files import cache_folder


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    flash = actions.add_parser(
        "flash",
        help="prepare an image and write it to a card; the board joins the fleet when it starts",
        description="Prepares an image as `prepare` does, writes it to a card and verifies it.",
    )
    add_preparation(flash)
    _add_target(flash)
    flash.set_defaults(run=run_flash)
    plain = actions.add_parser(
        "write",
        help="write an image to a card unchanged, and verify it",
        description="Writes an image, plain or compressed, to a card unchanged, and verifies it.",
    )
    plain.add_argument("image", type=Path, metavar="FILE", help=".img, .img.xz or .img.zst")
    plain.add_argument("--bmap", type=Path, metavar="FILE", help="block map; blocks without data are not written")
    plain.add_argument("--sha256", default="", metavar="HEX", help="of the unpacked image; another one is refused")
    _add_target(plain)
    plain.set_defaults(run=run_write)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, required=True, metavar="DEVICE", help="such as /dev/sda; its data is lost")
    parser.add_argument("--yes", action="store_true", help="do not ask before writing")
    parser.add_argument("--loop", action="store_true", help="accept a loop device, for a try without a card")
    add_json(parser)


def run_flash(options: argparse.Namespace) -> int:
    _confirm(options)  # before the image is prepared, which takes minutes
    with tempfile.TemporaryDirectory(prefix="flash-", dir=cache_folder()) as scratch:
        image = Path(scratch, "prepared.img")
        prepare_image(options, image)
        return _write(image, options)


def run_write(options: argparse.Namespace) -> int:
    _confirm(options)
    return _write(options.image, options, bmap=options.bmap, sha256=options.sha256)


def _confirm(options: argparse.Namespace) -> None:
    """Refuses a dangerous target, shows a usable one, and asks."""
    disk = disks.look(options.to)
    disks.check(disk, needed_bytes=0, loop=options.loop)
    shown = f"{disk.path}: {disk.model or 'no name'}, {disk.size_bytes / 1e9:.1f} GB"
    if options.yes:
        inform(f"{shown}: everything on it is lost")
        return
    if not sys.stdin.isatty():
        raise UnsafeTargetError(f"{shown}: nobody to ask whether it may be overwritten", action="Say --yes.")
    inform(f"{shown}\neverything on it is lost; type {disk.name} to go on: ")
    if input().strip() != disk.name:
        raise UnsafeTargetError(f"{disk.path} was not confirmed", action="Nothing was written.")


def _write(image: Path, options: argparse.Namespace, *, bmap: Path | None = None, sha256: str = "") -> int:
    with needs("boards"):
        from lineside_boards import bmap as bmaps
        from lineside_boards import flash
    known = bmaps.read(bmap) if bmap is not None else None
    with ProgressMeter("write") as meter:
        made = flash.write(
            image,
            options.to,
            bmap=known,
            sha256=sha256,
            loop=options.loop,
            progress=lambda stage, done: meter.progress(done, stage),
        )
    if options.json:
        print_json(made)
    else:
        show(f"{made.device}: {made.written_bytes / 1e6:.0f} MB written and read back; put it into the board")
    return 0
