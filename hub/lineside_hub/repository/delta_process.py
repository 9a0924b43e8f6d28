"""Make the deltas between two bundles, in a separate process.

bsdiff needs 17 bytes of memory a byte and zstd's level 19 seconds of a core, so both stay out of the process that
answers devices. What was made stands in the chunk store like everything else, and the list of it, a
`lineside_link.messages.Deltas`, under ``deltas/<wanted>-<installed>.json``, written last.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lineside_hub.repository.chunks import ChunkStore
from lineside_hub.repository.repository import Repository
from lineside_link.messages import Deltas, Patch, PatchFormat, encode
from lineside_link.transfer import deltas
from lineside_runtime.bundle import CHUNK_BYTES, FileEntry, Manifest, describe_bytes, parse_manifest
from lineside_runtime.errors import BundleIntegrityError, InputNotFoundError
from lineside_runtime.files import write_atomic

FOLDER = "deltas"


def find_manifest(folder: Path, sha256: str) -> Path | None:
    """Returns the published manifest of this digest, or ``None``.

    Args:
        folder: The hub's folder.
        sha256: 64 hexadecimal digits; the caller has checked that.
    """
    return next(iter(sorted((folder / "targets").glob(f"*/{sha256}.*.json"))), None)


def list_path(folder: Path, wanted: str, base: str) -> Path:
    """Returns where the list of patches stands, or will.

    Args:
        folder: The hub's folder.
        wanted: sha256 of the wanted bundle's manifest.
        base: sha256 of the installed bundle's manifest.
    """
    return folder / FOLDER / f"{wanted}-{base}.json"


def make_patches(folder: Path, wanted: str, base: str) -> Deltas:
    """Makes the smallest patch for each file that differs, and writes all of them into the store.

    Args:
        folder: The hub's folder.
        wanted: sha256 of the wanted bundle's manifest.
        base: sha256 of the installed bundle's manifest.

    Raises:
        InputNotFoundError: One of the two is not published here.
        BundleIntegrityError: A chunk is missing or rotten.
        DiskFullError: There is no room.
    """
    new, old = _manifest(folder, wanted), _manifest(folder, base)
    store = Repository.open(folder).chunks
    patches = []
    for relative, entry in new.files.items():
        if entry.size < deltas.FILE_MIN_BYTES or any(entry.sha256 == known.sha256 for known in old.files.values()):
            continue
        patch = _smallest(store, entry, _counterpart(relative, entry, old))
        if patch is not None:
            patches.append(patch)
    made = Deltas(patches=tuple(patches))
    (folder / FOLDER).mkdir(exist_ok=True)
    write_atomic(list_path(folder, wanted, base), encode(made))
    return made


def _manifest(folder: Path, sha256: str) -> Manifest:
    path = find_manifest(folder, sha256)
    if path is None:
        raise InputNotFoundError(f"no bundle {sha256} is published here")
    return parse_manifest(path.read_bytes())


def _counterpart(relative: str, entry: FileEntry, old: Manifest) -> FileEntry | None:
    """The file of the same path; else the one of the same kind whose size is nearest."""
    if relative in old.files:
        return old.files[relative]
    alike = [known for name, known in old.files.items() if Path(name).suffix == Path(relative).suffix]
    return min(alike, key=lambda known: abs(known.size - entry.size), default=None)


def _smallest(store: ChunkStore, entry: FileEntry, base: FileEntry | None) -> Patch | None:
    if entry.size > deltas.ZSTD_MAX_BYTES:
        return None
    new = _read(store, entry)
    made: list[tuple[PatchFormat, str, bytes]] = [("zstd", "", deltas.make("zstd", b"", new))]
    if base is not None and base.size <= deltas.ZSTD_MAX_BYTES:
        old = _read(store, base)
        made.append(("zstd", base.sha256, deltas.make("zstd", old, new)))
        if max(len(old), len(new)) <= deltas.BSDIFF_MAX_BYTES:
            made.append(("bsdiff4", base.sha256, deltas.make("bsdiff4", old, new)))
    kind, start, data = min(made, key=lambda one: len(one[2]))
    if len(data) >= entry.size:
        return None
    described = describe_bytes(data)
    for offset in range(0, len(data), CHUNK_BYTES):
        store.put(data[offset : offset + CHUNK_BYTES])
    return Patch(
        file=entry.sha256,
        base=start,
        format=kind,
        size=described.size,
        sha256=described.sha256,
        chunks=described.chunks,
    )


def _read(store: ChunkStore, entry: FileEntry) -> bytes:
    pieces = [store.get(digest) for digest in entry.chunks]
    if any(piece is None for piece in pieces):
        raise BundleIntegrityError("a chunk is missing or rotten", action="Push its bundle again.")
    return b"".join(piece for piece in pieces if piece is not None)


def main(arguments: list[str]) -> int:
    """Makes the patches that the arguments name: the hub's folder, wanted and installed manifest."""
    os.nice(10)  # devices that ask come first
    folder, wanted, base = arguments
    make_patches(Path(folder), wanted, base)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
