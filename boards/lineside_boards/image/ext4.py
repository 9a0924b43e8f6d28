"""`Ext4Volume`: the files of an ext4 partition inside an image, through e2fsprogs' debugfs.

Files keep their permission bits and belong to root; systemd-tmpfiles sets other owners on the board. A path with a line
break or a quotation mark is refused, because debugfs reads commands line by line.
"""

from __future__ import annotations

import filecmp
import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import msgspec

from lineside_boards.errors import ImageError, ReadBackError
from lineside_boards.image.partition_table import Partition
from lineside_boards.image.programs import run

_ENTRY = re.compile(r"/(\d+)/(\d{6})/(\d+)/(\d+)/(.+?)/(\d*)/")
_PROMPT = "debugfs: "
_HEADROOM = 1.1
"""Free blocks that are required for each block of data: folders and extents need some too."""

_READERS = 2
"""Parallel debugfs processes for reading back: each is bound by one core."""

_WHOLE = 400
"""Most files of a folder that is read back with one command; a larger folder is divided between the readers."""


class TreeEntry(msgspec.Struct, frozen=True):
    """An entry of a folder; ``mode`` is kind and permission bits as in stat(2)."""

    mode: int
    size: int

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)


class Ext4Volume:
    """An ext4 partition.

    Args:
        image: Its path has no question mark: e2fsprogs reads options behind one.

    Raises:
        ImageError: It is no ext4 file system, or wasn't unmounted cleanly.
        MissingProgramError: e2fsprogs isn't installed.
    """

    def __init__(self, image: Path, part: Partition) -> None:
        if "?" in str(image):
            raise ImageError(f"{image}: the name has a question mark", action="Choose another name.")
        if part.filesystem != "ext4":
            raise ImageError(f"{image}: partition {part.number} is no ext4 file system")
        self._target = f"{image}?offset={part.start}"
        self._facts = dict(line.split(":", 1) for line in self._ask("show_super_stats -h").splitlines() if ":" in line)
        features = self._facts.get("Filesystem features", "").split()
        if "needs_recovery" in features or self._facts.get("Filesystem state", "").strip() != "clean":
            raise ImageError(
                f"{image}: partition {part.number} was not unmounted cleanly",
                action="Take a fresh image, or repair it: e2fsck on a loop device.",
            )

    @property
    def free_bytes(self) -> int:
        """Free space for files."""
        return int(self._facts["Free blocks"]) * int(self._facts["Block size"])

    def entries(self, folder: str) -> dict[str, TreeEntry]:
        """Returns a folder's entries by name; empty if it isn't there."""
        return self._lists([folder])[folder]

    def exists(self, path: str) -> bool:
        """Returns whether something is at an absolute path, without following a link there."""
        pure = PurePosixPath(path)
        return path == "/" or pure.name in self.entries(str(pure.parent))

    def read(self, path: str) -> bytes:
        """Reads a file.

        Raises:
            ImageError: It isn't there.
        """
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch, "file")
            self._ask(f'dump "{_quotable(path)}" "{_quotable(str(out))}"')
            if not out.is_file() or not self.exists(path):
                raise ImageError(f"{path} is not in the image")
            return out.read_bytes()

    def write_tree(self, tree: Path) -> int:
        """Writes everything under a folder to the same paths, replaces existing files, and reads everything back.

        Args:
            tree: Folders, files and symbolic links; other kinds are refused.

        Returns:
            Number of files and links.

        Raises:
            ImageError: There is no space, or an entry of another kind is in the way.
            ReadBackError: The content that was read back differs.
        """
        places = list(_walk(tree))
        self._check_room(places)
        there = self._lists(["/", *(f"/{relative}" for relative, mode, _ in places if stat.S_ISDIR(mode))])
        lines = [line for place in places for line in self._commands(tree, *place, there)]
        with tempfile.NamedTemporaryFile("w", suffix=".debugfs", encoding="utf-8") as script:
            script.write("\n".join([*lines, ""]))
            script.flush()
            self._run_script(script.name)
        self._compare(tree)
        return sum(not stat.S_ISDIR(mode) for _, mode, _ in places)

    def check(self) -> None:
        """Checks the whole file system with e2fsck without changing it.

        Raises:
            ImageError: e2fsck finds an error.
        """
        run("e2fsck", "-fn", self._target)

    def _check_room(self, places: list[tuple[str, int, int]]) -> None:
        block = int(self._facts["Block size"])
        needed = int(sum(-(-size // block) * block + block for _, _, size in places) * _HEADROOM)
        if needed > self.free_bytes:
            raise ImageError(
                "the image's root file system has no room for the agent",
                expected=f"{needed / 1e6:.0f} MB free",
                actual=f"{self.free_bytes / 1e6:.0f} MB",
                action="Take a larger image, or enlarge its last partition first: truncate, growpart, resize2fs.",
            )
        if len(places) > int(self._facts["Free inodes"]):
            raise ImageError("the image's root file system has too few inodes", expected=len(places))

    def _commands(
        self, tree: Path, relative: str, mode: int, _size: int, there: dict[str, dict[str, TreeEntry]]
    ) -> Iterator[str]:
        place = _quotable(f"/{relative}")
        pure = PurePosixPath(place)
        old = there.get(str(pure.parent), {}).get(pure.name)
        if stat.S_ISDIR(mode):
            if old is None:
                yield f'mkdir "{place}"'
                if stat.S_IMODE(mode) != 0o755:
                    yield f'set_inode_field "{place}" mode 0{mode:o}'
            elif not old.is_folder and not stat.S_ISLNK(old.mode):
                raise ImageError(f"{place} of the image is in the way", expected="a folder", actual=f"{old.mode:o}")
            return
        if old is not None and old.is_folder:
            raise ImageError(f"{place} of the image is in the way", expected="a file", actual="a folder")
        if old is not None:
            yield f'rm "{place}"'
        if stat.S_ISLNK(mode):
            yield f'symlink "{place}" "{_quotable(str((tree / relative).readlink()))}"'
        else:
            yield f'write "{_quotable(str(tree / relative))}" "{place}"'

    def _compare(self, tree: Path) -> None:
        """Dumps what was written with several debugfs processes and compares it file by file."""
        shares = _shares(_own_roots(tree), _READERS)
        with (
            tempfile.TemporaryDirectory(prefix=".read-back-", dir=tree.parent) as scratch,
            ThreadPoolExecutor(_READERS) as readers,
        ):
            folders = [Path(scratch, str(number)) for number in range(len(shares))]
            list(readers.map(self._compare_share, itertools.repeat(tree), shares, folders))  # raises their errors

    def _compare_share(self, tree: Path, paths: list[Path], scratch: Path) -> None:
        scratch.mkdir()
        lines = []
        for number, path in enumerate(paths):
            target = scratch / str(number)
            target.mkdir()
            lines.append(f'rdump "/{path.relative_to(tree)}" "{target}"')
        script = scratch / "script"
        script.write_text("\n".join([*lines, ""]))
        self._run_script(str(script), writable=False)
        for number, path in enumerate(paths):
            _check_same(path, scratch / str(number) / path.name, str(path.relative_to(tree)))
            shutil.rmtree(scratch / str(number))

    def _lists(self, folders: list[str]) -> dict[str, dict[str, TreeEntry]]:
        with tempfile.NamedTemporaryFile("w", suffix=".debugfs", encoding="utf-8") as script:
            script.write("".join(f'ls -p "{_quotable(folder)}"\n' for folder in folders))
            script.flush()
            out = run("debugfs", "-f", script.name, self._target)
        answers = out.split(f"{_PROMPT}ls -p ")[1:]
        return {folder: _entries(answer) for folder, answer in zip(folders, answers, strict=True)}

    def _ask(self, request: str) -> str:
        return run("debugfs", "-R", request, self._target)

    def _run_script(self, script: str, *, writable: bool = True) -> None:
        """debugfs ends with 0 after an error: every line but its echo and inode numbers is one."""
        out = run("debugfs", *(["-w"] if writable else []), "-f", script, self._target)
        bad = [line for line in out.splitlines() if line and not line.startswith((_PROMPT, "Allocated inode"))]
        if bad:
            raise ImageError(f"debugfs: {' | '.join(bad[:3])}")


def _entries(answer: str) -> dict[str, TreeEntry]:
    found = (_ENTRY.fullmatch(line.strip()) for line in answer.splitlines())
    return {
        match[5]: TreeEntry(int(match[2], 8), int(match[6] or 0))
        for match in found
        if match and match[5] not in (".", "..")
    }


def _walk(tree: Path) -> Iterator[tuple[str, int, int]]:
    """Yields path from the root, mode and size; a folder comes before its content."""
    for folder, folders, files in os.walk(tree):
        folders.sort()
        for name in [*folders, *sorted(files)]:
            path = Path(folder, name)
            told = path.lstat()
            if not (stat.S_ISDIR(told.st_mode) or stat.S_ISREG(told.st_mode) or stat.S_ISLNK(told.st_mode)):
                raise ImageError(f"{path} is neither file, folder nor link")
            yield str(path.relative_to(tree)), told.st_mode, told.st_size if stat.S_ISREG(told.st_mode) else 0


def _own_roots(tree: Path) -> list[Path]:
    """Returns the paths to read back: files and links, and whole folders below ``opt``, where only our files are."""
    roots: list[Path] = []
    for top in sorted(tree.iterdir()):
        for folder, folders, names in os.walk(top):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            roots += [Path(folder, name) for name in sorted([*names, *links])]
            if top.name == "opt":
                whole = [name for name in folders if name not in links and _count(Path(folder, name)) <= _WHOLE]
                roots += [Path(folder, name) for name in sorted(whole)]
                folders[:] = [name for name in folders if name not in whole]
    return roots


def _shares(roots: list[Path], count: int) -> list[list[Path]]:
    """Divides paths into shares of about the same number of bytes, the largest first."""
    shares: list[list[Path]] = [[] for _ in range(count)]
    sizes = [0] * count
    for size, root in sorted(((_bytes_of(root), root) for root in roots), reverse=True):
        least = sizes.index(min(sizes))
        shares[least].append(root)
        sizes[least] += size
    return [share for share in shares if share]


def _count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _bytes_of(path: Path) -> int:
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def _check_same(wanted: Path, found: Path, relative: str) -> None:
    if not wanted.is_dir() or wanted.is_symlink():
        if not _is_same(wanted, found):
            raise ReadBackError(f"/{relative} of the image differs from the file that was written")
        return
    for folder, folders, names in os.walk(wanted):
        other = found / Path(folder).relative_to(wanted)
        for name in [*names, *(name for name in folders if Path(folder, name).is_symlink())]:
            if not _is_same(Path(folder, name), other / name):
                raise ReadBackError(f"{name} under /{relative} of the image differs from the file that was written")


def _is_same(wanted: Path, found: Path) -> bool:
    if wanted.is_symlink():
        return found.is_symlink() and wanted.readlink() == found.readlink()
    return found.is_file() and not found.is_symlink() and filecmp.cmp(wanted, found, shallow=False)


def _quotable(text: str) -> str:
    if any(sign in text for sign in '"\n\r'):
        raise ImageError(f"{text!r} can't be named to debugfs")
    return text
