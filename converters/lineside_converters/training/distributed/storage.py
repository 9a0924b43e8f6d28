"""Checkpoint storage: a folder or a URL, and which checkpoints in it are complete.

Ray remembers which checkpoints all workers have handed in, in a file that it writes in place: a driver that is killed
while it does leaves a file that can't be read. So every worker lists its files and their sizes beside them, and a run
that is gone on with looks for the last checkpoint whose lists agree with what is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import TrainingError

_LIST = "files-{}.json"
_LISTS = re.compile(r"files-\d+\.json")
_FOLDERS = "checkpoint_"  # Ray's own name, with the time after it


class CheckpointFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Files of one worker in a checkpoint.

    Attributes:
        world: Workers, each of which has a list.
        files: Sizes in bytes, by name.
    """

    step: int
    world: int
    files: dict[str, int]


def file_system(storage: str) -> tuple[Any, str]:
    """Returns pyarrow's file system of a folder or URL, and the path there.

    A URL is fsspec's; where the package that fsspec wants isn't installed, pyarrow's own (S3, Google, HDFS) serves.

    Raises:
        TrainingError: Nothing here knows the URL's protocol.
    """
    import fsspec
    import pyarrow
    from pyarrow import fs

    if "://" not in storage:
        return fs.LocalFileSystem(), storage
    try:
        found, path = fsspec.core.url_to_fs(storage)
    except (ImportError, ValueError) as missing:
        try:
            own: tuple[Any, str] = fs.FileSystem.from_uri(storage)
        except pyarrow.ArrowInvalid:
            raise TrainingError(
                f"nothing here reaches {storage.partition('://')[0]}:// for checkpoints",
                actual=missing,
                action="Install the package that fsspec names on every node, or give --storage another URL or folder.",
            ) from missing
        return own
    return fs.PyFileSystem(fs.FSSpecHandler(found)), path


def write_list(folder: Path, *, rank: int, step: int, world: int) -> None:
    """Lists the files of a worker's folder, to be stored with them."""
    listed = CheckpointFiles(
        step=step, world=world, files={each.name: each.stat().st_size for each in folder.iterdir()}
    )
    (folder / _LIST.format(rank)).write_bytes(msgspec.json.encode(listed))


def last_whole(filesystem: Any, path: str, names: Sequence[str]) -> str | None:
    """Returns the path of the last checkpoint that is whole, or ``None``.

    Args:
        path: Of the storage there.
        names: Of the run's parts as Ray knows them, the last one last.
    """
    for name in reversed(names):
        found = [each.path for each in _entries(filesystem, f"{path}/{name}") if _may_be_one(each)]
        for folder in sorted(found, reverse=True):
            if _is_whole(filesystem, folder):
                return str(folder)
    return None


def _may_be_one(entry: Any) -> bool:
    return bool(not entry.is_file and entry.base_name.startswith(_FOLDERS))  # Ray's book begins so too, and is a file


def _is_whole(filesystem: Any, folder: str) -> bool:
    sizes = {each.base_name: each.size for each in _entries(filesystem, folder)}
    first = _read_list(filesystem, folder, 0, sizes)
    if first is None:
        return False
    lists = [_read_list(filesystem, folder, rank, sizes) for rank in range(first.world)]
    return all(
        each is not None
        and each.step == first.step
        and all(sizes.get(name) == size for name, size in each.files.items())
        for each in lists
    )


def _read_list(filesystem: Any, folder: str, rank: int, names: dict[str, int]) -> CheckpointFiles | None:
    name = _LIST.format(rank)
    if name not in names:
        return None
    try:
        return decode_json(_read(filesystem, f"{folder}/{name}"), type=CheckpointFiles)
    except msgspec.DecodeError:
        return None


def contents(filesystem: Any, folder: str) -> dict[str, bytes]:
    """Returns a checkpoint's files by name, without the workers' lists and hidden files."""
    files = [each for each in _entries(filesystem, folder) if each.is_file]
    own = [each for each in files if not (each.base_name.startswith(".") or _LISTS.fullmatch(each.base_name))]
    return {each.base_name: _read(filesystem, each.path) for each in own}


def _entries(filesystem: Any, folder: str) -> list[Any]:
    from pyarrow.fs import FileSelector

    return list(filesystem.get_file_info(FileSelector(folder, allow_not_found=True)))


def _read(filesystem: Any, path: str) -> bytes:
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())
