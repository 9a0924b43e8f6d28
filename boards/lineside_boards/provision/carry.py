"""Carries a payload's files to a board: what is there already stays, what is half there goes on, all is hashed there.

::

    ~/.cache/lineside/payload/        of the user who logs in; removed when the agent is installed
    ├── agent.json
    └── wheels/NAME.whl, NAME.whl.part

A file gets its name when the board itself has counted its sha256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lineside_boards.provision.ssh import BLOCK, SshShell
from lineside_runtime.errors import BoardLinkError, DiskFullError

FOLDER = ".cache/lineside/payload"
HASH_TIMEOUT_S = 600.0
"""100 MB from a worn card."""


@dataclasses.dataclass(frozen=True, slots=True)
class CarriedFile:
    """A file of the payload.

    Attributes:
        size: Bytes.
        sha256: Of its content.
    """

    size: int
    sha256: str


def carry(
    shell: SshShell,
    folder: Path,
    *,
    into: str,
    free_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[int, int]:
    """Carries a folder's files.

    Args:
        shell: To the board.
        folder: Here.
        into: A folder on the board; what is in it and not in ``folder`` is removed.
        free_bytes: Room there.
        progress: Told the bytes that are there, and all of them.

    Returns:
        Bytes that were carried, and bytes in all.

    Raises:
        DiskFullError: There is no room on the board.
        BoardLinkError: The line broke, or a file is never right.
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
            f"the board at {shell.where} has {free_bytes / 1e6:.0f} MB free where the payload is carried to",
            needed_bytes=needed,
            action="Free some space on the board, and run the same command again.",
        )
    counter = _Counter(total - sum(entry.size for entry in missing.values()), total, progress)
    for name, entry in missing.items():
        _send(shell, folder / name, f"{into}/{name}", entry, counter)
    _tidy(shell, place, files)
    return counter.carried, total


class _Counter:
    """Bytes that are there, for the progress, and bytes that were carried."""

    def __init__(self, there: int, total: int, progress: Callable[[int, int], None]) -> None:
        self.carried = 0
        self._there, self._total, self._progress = there, total, progress
        progress(there, total)

    def skip(self, size: int) -> None:
        """Counts what was there."""
        self._there += size

    def add(self, size: int) -> None:
        """Counts what was carried."""
        self.carried += size
        self.skip(size)
        self._progress(min(self._there, self._total), self._total)


def _entry(path: Path) -> CarriedFile:
    digest = hashlib.sha256()
    for block in _blocks(path, 0):
        digest.update(block)
    return CarriedFile(path.stat().st_size, digest.hexdigest())


def _whole(shell: SshShell, place: str, files: Mapping[str, CarriedFile]) -> set[str]:
    """Which files are there with the right hash, as the board counts it."""
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
    for _ in range(2):  # a part of something else is begun anew
        offset = min(int(shell.ask(f"stat -c %s {part} 2>/dev/null || echo 0")), entry.size)
        counter.skip(offset)
        answer = shell.pour(f"cat >> {part}", _blocks(path, offset), counter.add)
        if answer.code:
            raise shell.failure(answer, f"carrying {path.name}")
        check = f"echo '{entry.sha256}  '{part} | sha256sum -c - >/dev/null 2>&1"
        answer = shell.run(f"sync {part} 2>/dev/null; {check} && mv -f {part} {place}", timeout_s=HASH_TIMEOUT_S)
        if answer.code == 0:
            return
        shell.ask(f"rm -f {part}")
        counter.skip(-entry.size)
    raise BoardLinkError(
        f"{shell.where}: {path.name} is never whole on the board",
        expected=entry.sha256,
        action="Check the board's disk.",
    )


def _blocks(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(BLOCK):
            yield block


def _tidy(shell: SshShell, place: str, files: Mapping[str, CarriedFile]) -> None:
    """What a payload before has left would be installed as well."""
    names = "\n".join(sorted(files))
    shell.ask(
        f'cd {place} && cat > .names && find . -type f ! -name .names | sed "s|^\\./||" | grep -vxFf .names'
        ' | while IFS= read -r old; do rm -f "$old"; done; rm -f .names',
        data=names.encode(),
    )
