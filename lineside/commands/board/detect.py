"""``lineside board detect`` and ``lineside board doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import print_json, show, show_findings
from lineside.options import Actions, add_json
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside_boards.inventory import FoundAccelerator, Inventory


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    detect = actions.add_parser(
        "detect",
        help="show this board: accelerators, engines, cameras, disk, heat",
        description="Prints the facts of this board.",
    )
    _add_common(detect)
    detect.set_defaults(run=run_detect)
    doctor = actions.add_parser(
        "doctor",
        help="list problems of this board, and how to mend them",
        description="Prints each problem of this board with what to do about it. Ends with 1 if one is an error.",
    )
    _add_common(doctor)
    doctor.add_argument("--board", metavar="NAME", help="compare with this profile; default: the one that fits")
    doctor.set_defaults(run=run_doctor)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument(
        "--bundle", metavar="DIR", help="check whether this bundle, a folder or a shipped name, can run"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="examine the proc, sys, dev and etc of another machine below DIR, without engines",
    )
    parser.add_argument("--machine", metavar="ARCH", default="", help="with --root: its architecture, such as aarch64")


def run_detect(options: argparse.Namespace) -> int:
    found = _take(options)
    if options.json:
        print_json(found)
    else:
        show("\n".join(_page(found)))
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    from lineside_boards import profile
    from lineside_boards.doctor import examine

    found = _take(options)
    name = options.board or (found.board if found.profiles else "")
    findings = examine(found, profile.load(name) if name else None)
    if options.json:
        print_json({"board": found.board, "model": found.model, "findings": findings})
    else:
        show(f"{found.model}: profile {name or 'none'}")
        show_findings(findings)
    return 1 if any(finding.level == "error" for finding in findings) else 0


def _take(options: argparse.Namespace) -> Inventory:
    from lineside_boards import inventory
    from lineside_runtime.system import probing

    bundle = None
    if options.bundle is not None:
        from lineside_models import zoo
        from lineside_runtime.bundle import open_bundle

        bundle = open_bundle(zoo.find(options.bundle))
    here = options.root == Path("/")
    return inventory.take(
        options.root,
        engines=probing.probe(trial=True) if here else (),
        bundle=bundle,
        machine="" if here else options.machine,
    )


def _page(found: Inventory) -> list[str]:
    memory = f"{found.memory_bytes / 2**30:.1f} GiB" if found.memory_bytes else "memory unknown"
    heat = "no temperature" if found.temperature_c is None else f"{found.temperature_c:.0f} °C"
    slow = ", ".join(found.throttling or ()) or ("throttling unknown" if found.throttling is None else "not throttled")
    disk = found.storage
    where = " ".join(word for word in (disk.kind, disk.device, disk.name) if word) or "disk unknown"
    lines = [
        f"{found.model}: profile {found.board}",
        f"  {found.architecture}, {counted(found.cores, 'core')}, {memory}, kernel {found.kernel}",
        f"  {heat}, {slow}",
        f"  {where}, {disk.free_bytes / 2**30:.1f} GiB free",
        "accelerators",
        *([_accelerator(one) for one in found.accelerators] or ["  none"]),
        "engines",
        *([f"  {one.name} {one.version}" for one in found.engines if one.available] or ["  none"]),
        "cameras",
        *([f"  {one.device}  {one.name}" for one in found.cameras] or ["  none"]),
    ]
    if found.bundle is not None:
        lines += ["bundle"]
        lines += [f"  {one.variant}: {one.engine or 'can not run: ' + one.reason}" for one in found.bundle]
    return lines


def _accelerator(one: FoundAccelerator) -> str:
    versions = ", ".join(f"{name} {version or 'not found'}" for name, version in one.versions.items())
    driver = f"driver {one.driver}" if one.driver else "no driver"
    return f"  {one.name}  {one.where}, {driver}; {versions or one.advice or 'usable'}"
