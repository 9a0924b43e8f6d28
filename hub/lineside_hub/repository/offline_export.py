"""Offline export: a bundle with its signed metadata and a desired state, as one ``.lsb`` file.

The archive is the bundle as always (`lineside_runtime.bundle.archive`), and beside it ``tuf/``: signed metadata and the
desired state. A device verifies it exactly as over the link and stores the versions; the medium itself is not trusted.
The timestamp names the sha256 of the desired state, so that nobody can write another generation into it.

A timestamp is valid for a day, which is short for a medium. So the export has its own timestamp, valid for some days,
and the hub signs a newer one for itself at once: over the link nothing is valid for longer, and a device that has been
in contact with the hub since refuses the medium as older.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import zipfile
from pathlib import Path

from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_link.messages import BundleRef, Desired, encode
from lineside_runtime.bundle import MANIFEST_NAME, Bundle
from lineside_runtime.errors import ConfigError
from lineside_runtime.files import fsync_folder

DAYS = 7.0
DAYS_MAX = 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportedBundle:
    """Outcome of an offline export.

    Attributes:
        gen: Generation of the desired state that it carries.
    """

    path: Path
    ref: BundleRef
    gen: int
    days: float


def export(
    folder: Path | str,
    bundle: Bundle | tuple[str, str],
    *,
    group: str,
    out: Path,
    days: float = DAYS,
    passphrase: str | None = None,
) -> ExportedBundle:
    """Writes a bundle for an offline import.

    Args:
        bundle: A bundle, which is signed if needed; or name and version of a published one.
        group: The group of devices that may import it.
        passphrase: Opens the group's key, if the bundle must be signed.

    Raises:
        RolloutError: There is no such group.
        TargetNotFoundError: Nothing of this name and version is published for the group.
        BundleIntegrityError: A chunk is missing or damaged.
        ConfigError: The number of days is out of range.
        SignatureError: The passphrase does not open the group's key.
    """
    if not 0 < days <= DAYS_MAX:
        raise ConfigError("days", expected=f"up to {DAYS_MAX:g}", actual=days)
    hub = Path(folder)
    repository = Repository.open(hub, passphrase=passphrase)
    if isinstance(bundle, Bundle):
        ref = repository.publish(bundle, group)
    else:
        ref = repository.find(group, name=bundle[0], version=bundle[1])
    desired = _offline_desired(hub, ref)
    data = encode(desired)
    metadata = repository.sign_offline_medium(data, days=days)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.resolve().parent) as scratch:
        whole = repository.write_bundle(ref, Path(scratch) / "bundle")
        _write(whole, {**metadata, "tuf/desired.json": data}, out)
    return ExportedBundle(path=out, ref=ref, gen=desired.gen, days=days)


def _offline_desired(hub: Path, ref: BundleRef) -> Desired:
    """Returns a desired state of a new generation, which the hub does not publish."""
    with Database.open(hub) as database, database.transaction():
        gen = database.next_gen()
        return Desired(epoch=database.epoch, gen=gen, bundle=ref, rollout=f"stick-{gen}")


def _write(bundle: Bundle, extra: dict[str, bytes], out: Path) -> None:
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for relative in (MANIFEST_NAME, *sorted(bundle.manifest.files)):
                    archive.write(bundle.path / relative, relative)
                for name, data in sorted(extra.items()):
                    archive.writestr(name, data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(out.resolve().parent)
