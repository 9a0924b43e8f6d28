"""Copy a payload's files to a board: complete files stay, partial files continue, and the board hashes all of them.

::

    ~/.cache/lineside/payload/        of the login user; removed when the agent is installed
    ├── agent.json
    └── wheels/NAME.whl, NAME.whl.part

A file gets its name after the board has checked its sha256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lineside_boards.errors import BoardLinkError
from lineside_boards.provision.ssh_shell import BLOCK, SshShell
from lineside_runtime.errors import DiskFullError

FOLDER = ".cache/lineside/payload"
HASH_TIMEOUT_S = 600.0
"""For 100 MB from a worn card."""


@dataclasses.dataclass(frozen=True, slots=True)
class CarriedFile:
    """Size and sha256 of a file of the payload."""

    size: int
    sha256: str


def copy_folder(
    shell: SshShell,
    folder: Path,
    *,
    into: str,
    free_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[int, int]:
    """Copies a folder's files to a board.

    Args:
        into: A folder on the board; files that are not in ``folder`` are removed from it.
        progress: Called with the bytes that are there and the bytes in all.

    Returns:
        Bytes that were copied, and bytes in all.

    Raises:
        DiskFullError: There is no space on the board.
        BoardLinkError: The connection broke, or a file stays damaged.
    """
    files = {path.relative_to(folder).as_posix(): _entry(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    total = sum(entry.size for entry in files.values())
    place = shlex.quote(into)
    folders = " ".join(sorted({f"{place}/{shlex.quote(Path(name).parent.as_posix())}" for name in files}))
    shell.ask(f"mkdir -p {folders} && chmod 700 {place}")
    there = _whole(shell, place, files)
    missing = {name: entry for name, entry in files.items() if name not in there}
    begun = _parts(shell, place)
    needed = sum(entry.size - begun.get(name, 0) for name, entry in missing.items())
    if needed > free_bytes:
        raise DiskFullError(
            f"the board at {shell.where} has {free_bytes / 1e6:.0f} MB free where the payload goes",
            needed_bytes=needed,
            action="Free some space on the board, and run the same command again.",
        )
    counter = _Counter(total - sum(entry.size for entry in missing.values()), total, progress)
    for name, entry in missing.items():
        _send(shell, folder / name, f"{into}/{name}", entry, counter)
    _tidy(shell, place, files)
    return counter.carried, total


class _Counter:
    """Counts bytes that are present, for the progress, and bytes that were copied."""

    def __init__(self, there: int, total: int, progress: Callable[[int, int], None]) -> None:
        self.carried = 0
        self._there, self._total, self._progress = there, total, progress
        progress(there, total)

    def skip(self, size: int) -> None:
        """Counts bytes that were present."""
        self._there += size

    def add(self, size: int) -> None:
        """Counts bytes that were copied."""
        self.carried += size
        self.skip(size)
        self._progress(min(self._there, self._total), self._total)


def _entry(path: Path) -> CarriedFile:
    digest = hashlib.sha256()
    for block in _blocks(path, 0):
        digest.update(block)
    return CarriedFile(path.stat().st_size, digest.hexdigest())


def _whole(shell: SshShell, place: str, files: Mapping[str, CarriedFile]) -> set[str]:
    """Returns the files whose hash on the board is right."""
    lines = "".join(f"{entry.sha256}  {name}\n" for name, entry in files.items())
    answer = shell.run(
        f"cd {place} && sha256sum -c - 2>/dev/null | sed -n 's/: OK$//p'", data=lines.encode(), timeout_s=HASH_TIMEOUT_S
    )
    return set(answer.text.splitlines()) & set(files)


def _parts(shell: SshShell, place: str) -> dict[str, int]:
    text = shell.run(f"cd {place} && find . -name '*.part' -exec stat -c '%s %n' {{}} +").text
    lines = (line.partition(" ") for line in text.splitlines())
    return {name.removeprefix("./").removesuffix(".part"): int(size) for size, _, name in lines if size.isdigit()}


def _send(shell: SshShell, path: Path, target: str, entry: CarriedFile, counter: _Counter) -> None:
    place, part = shlex.quote(target), shlex.quote(f"{target}.part")
    for _ in range(2):  # the part of another file is copied from the start
        offset = min(int(shell.ask(f"stat -c %s {part} 2>/dev/null || echo 0")), entry.size)
        counter.skip(offset)
        answer = shell.pour(f"cat >> {part}", _blocks(path, offset), counter.add)
        if answer.code:
            raise shell.failure(answer, f"copying {path.name}")
        check = f"echo '{entry.sha256}  '{part} | sha256sum -c - >/dev/null 2>&1"
        answer = shell.run(f"sync {part} 2>/dev/null; {check} && mv -f {part} {place}", timeout_s=HASH_TIMEOUT_S)
        if answer.code == 0:
            return
        shell.ask(f"rm -f {part}")
        counter.skip(-entry.size)
    raise BoardLinkError(
        f"{shell.where}: {path.name} stays damaged on the board",
        expected=entry.sha256,
        action="Check the board's disk.",
    )


def _blocks(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(BLOCK):
            yield block


def _tidy(shell: SshShell, place: str, files: Mapping[str, CarriedFile]) -> None:
    """Removes files of an earlier payload, which would be installed as well."""
    names = "\n".join(sorted(files))
    shell.ask(
        f'cd {place} && cat > .names && find . -type f ! -name .names | sed "s|^\\./||" | grep -vxFf .names'
        ' | while IFS= read -r old; do rm -f "$old"; done; rm -f .names',
        data=names.encode(),
    )
