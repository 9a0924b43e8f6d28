"""``lineside hub backup|restore|prune|export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_hub, add_json, positive
from lineside.secret_input import add_passphrase, passphrase
from lineside_runtime.errors import InputError


def add_actions(actions: Any) -> None:
    backup = actions.add_parser(
        "backup",
        help="back up the hub into one file, while it runs",
        description="Writes the database, repository, keys, identity and the images of parts into one file; the hub "
        "may be running.",
    )
    backup.add_argument("--out", type=Path, required=True, metavar="FILE.tar", help="only its owner can read it")
    backup.add_argument("--without-chunks", action="store_true", help="without the content of bundles")
    backup.add_argument("--without-frames", action="store_true", help="without uploaded frames")
    backup.add_argument("--without-keys", action="store_true", help="without the keys of persons")
    add_hub(backup)
    add_json(backup)
    backup.set_defaults(run=run_backup)
    restore = actions.add_parser(
        "restore",
        help="restore a hub's folder from a backup",
        description="Restores a hub's folder. Desired states get a new epoch, and snapshot and timestamp new keys, so "
        "that devices that saw later versions accept it.",
    )
    restore.add_argument("file", type=Path, metavar="FILE.tar")
    restore.add_argument("--hub", type=Path, required=True, metavar="DIR", help="a new folder")
    add_passphrase(restore)
    add_json(restore)
    restore.set_defaults(run=run_restore)
    prune = actions.add_parser(
        "prune",
        help="remove old bundles, chunks and metadata",
        description="Lists what no device can need any more; with --yes it is removed.",
    )
    prune.add_argument(
        "--keep", type=positive, default=3, metavar="N", help="number of newest versions to keep (default: %(default)s)"
    )
    prune.add_argument("--yes", action="store_true", help="remove it; without this nothing is changed")
    add_hub(prune)
    add_passphrase(prune)
    add_json(prune)
    prune.set_defaults(run=run_prune)
    export = actions.add_parser(
        "export",
        help="write a signed bundle for an offline import",
        description="Writes a bundle with its signed metadata into one .lsb file. `lineside agent import` verifies it "
        "like a bundle from the hub.",
    )
    export.add_argument(
        "bundle", help="a bundle's folder, the name of a shipped bundle, or name@version of a pushed bundle"
    )
    export.add_argument("--group", required=True, help="the group of devices that may import it")
    export.add_argument("--out", type=Path, required=True, metavar="FILE.lsb")
    export.add_argument(
        "--days", type=float, default=7.0, help="how long devices accept it (default: %(default)s, up to 30)"
    )
    add_hub(export)
    add_passphrase(export)
    add_json(export)
    export.set_defaults(run=run_export)


def run_backup(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.repository.backup import backup
    made = backup(
        options.hub,
        options.out,
        chunks=not options.without_chunks,
        offline_keys=not options.without_keys,
        frames=not options.without_frames,
    )
    if options.json:
        print_json(made)
    else:
        inform(f"{made.path}: {made.files} files, {made.bytes} bytes" + ("" if made.chunks else ", without chunks"))
    return 0


def run_restore(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.repository.backup import restore
    made = restore(options.file, options.hub, passphrase=passphrase(options))
    if options.json:
        print_json(made)
        return 0
    inform(f"{made.folder} is restored; make sure that the old hub never runs again")
    if made.frames_missing:
        inform(
            f"{made.frames_missing} images of parts are not in the backup; devices that still have them send them again"
        )
    if not made.rotated:
        inform("bring the root keys: lineside hub keys rotate snapshot timestamp, or devices take it for a rollback")
    return 0


def run_prune(options: argparse.Namespace) -> int:
    """Removes or lists old targets, chunks and metadata."""
    with needs("convert"):
        from lineside_hub.repository.pruning import prune
    found = prune(options.hub, keep=options.keep, dry_run=not options.yes, passphrase=passphrase(options))
    if options.json:
        print_json({"removed": options.yes, "found": found})
        return 0
    for target in found.targets:
        show(target)
    verb = "removed" if options.yes else "would go, with --yes"
    inform(f"{len(found.targets)} targets, {found.chunks} chunks, {len(found.metadata)} metadata files {verb}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Writes a bundle for an offline import."""
    with needs("convert"):
        from lineside_hub.repository.offline_export import export
    from lineside_models import zoo
    from lineside_runtime.bundle import open_bundle

    name, _, version = options.bundle.partition("@")
    folder = Path(options.bundle) if version else zoo.find(options.bundle)
    if not version and not folder.is_dir():
        raise InputError(
            f"{options.bundle} is no bundle",
            expected="a bundle's folder, the name of a shipped bundle, or name@version",
        )
    bundle = open_bundle(folder, verify=False) if folder.is_dir() else (name, version)
    made = export(
        options.hub, bundle, group=options.group, out=options.out, days=options.days, passphrase=passphrase(options)
    )
    if options.json:
        print_json(made)
    else:
        inform(f"{made.path}: {made.ref.identity} for {options.group}, good for {made.days:g} days")
    return 0
