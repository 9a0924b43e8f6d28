"""Layout of a signed repository in a hub's folder.

::

    folder/
    ├── keys/        root, targets and one key a group: encrypted, can be kept offline
    ├── online/      snapshot and timestamp: the hub renews by itself
    ├── metadata/    1.root.json … timestamp.json (TUF, consistent snapshots)
    ├── targets/     <group>/<sha256>.<name>-<version>.json: the manifests
    └── chunks/      the content of all bundles, by hash
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OFFLINE_KEYS, ONLINE_KEYS, METADATA, TARGETS, CHUNKS = "keys", "online", "metadata", "targets", "chunks"


@dataclass(frozen=True, slots=True)
class RepositoryLayout:
    """Paths in a hub's folder. A target is named ``<group>/<name>-<version>.json`` in the metadata."""

    folder: Path

    @property
    def metadata(self) -> Path:
        """Folder of the signed metadata."""
        return self.folder / METADATA

    @property
    def targets(self) -> Path:
        """Folder of the targets."""
        return self.folder / TARGETS

    def make(self) -> None:
        """Makes the folders that must be there."""
        for folder in (self.metadata, self.targets, self.folder / CHUNKS):
            folder.mkdir(parents=True, exist_ok=True)

    def target(self, name: str, sha256: str) -> Path:
        """Returns the file of a target with this content."""
        group, _, file = name.partition("/")
        return self.targets / group / f"{sha256}.{file}"

    def contents_of(self, name: str) -> list[Path]:
        """Returns the files of all contents that a target has had."""
        group, _, file = name.partition("/")
        return [path for path in (self.targets / group).glob(f"*.{file}") if target_of(path) == name]

    def all_manifests(self) -> Iterator[Path]:
        """Returns the manifests of all targets, of each content that they have had."""
        return self.targets.glob("*/*.json")

    def find_manifest(self, sha256: str, *, group: str = "") -> Path | None:
        """Returns the published manifest of this digest, or ``None``.

        Args:
            sha256: 64 hexadecimal digits; the caller has checked that.
            group: That it was published to; any if empty.
        """
        return next(iter(sorted(self.targets.glob(f"{group or '*'}/{sha256}.*.json"))), None)


def target_of(path: Path) -> str:
    """Returns the name of the target whose file this is."""
    return f"{path.parent.name}/{path.name.partition('.')[2]}"
