"""``lineside agent pack``, ``install-service`` and ``uninstall-service``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import inform, print_json, show
from lineside.options import Actions, add_json


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    _add_pack(actions)
    _add_service(actions)


def _add_pack(actions: Actions[argparse.ArgumentParser]) -> None:
    pack = actions.add_parser(
        "pack",
        help="make the payload that installs or updates the agent on a board",
        description="Collects the wheels of lineside, of its requirements for the board's Python, and of pip, so that "
        "the board installs them without a network.",
    )
    pack.add_argument("out", type=Path, help="a new folder")
    pack.add_argument(
        "--wheel", type=Path, metavar="FILE", help="lineside's wheel (default: built from this source tree)"
    )
    pack.add_argument(
        "--wheels",
        type=Path,
        metavar="DIR",
        help="take all wheels from this folder, also pip's, and none from an index",
    )
    pack.add_argument(
        "--python", default="3.13", metavar="X.Y", help="the board's system Python (default: %(default)s)"
    )
    pack.add_argument("--arch", default="aarch64", help="what the board's `uname -m` says (default: %(default)s)")
    pack.add_argument("--extra", action="append", default=[], metavar="NAME", help="such as litert or ncnn; repeatable")
    pack.add_argument(
        "--system-site-packages",
        action="store_true",
        help="let the agent see the system's packages: picamera2, Aravis, JetPack's TensorRT",
    )
    add_json(pack)
    pack.set_defaults(run=run_pack)


def _add_service(actions: Actions[argparse.ArgumentParser]) -> None:
    install = actions.add_parser(
        "install-service",
        help="install the agent's systemd units, guard and first slot on a system or in an image's tree",
        description="Installs units, user, guard, and slot a from a payload.",
    )
    install.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="default: this system")
    install.add_argument("--payload", type=Path, metavar="DIR", help="the agent for slot a, from `lineside agent pack`")
    install.add_argument("--foreign", action="store_true", help="the root is another machine's: run no program")
    install.add_argument(
        "--keep-wheels",
        action="store_true",
        help="keep the wheels in the slot: the first update is smaller",
    )
    install.add_argument("--no-start", action="store_true", help="do not enable or start it")
    install.set_defaults(run=run_install)
    remove = actions.add_parser(
        "uninstall-service",
        help="remove the service",
        description="Stops the service and removes what install-service installed.",
    )
    remove.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="default: this system")
    remove.add_argument("--purge", action="store_true", help="also records, configuration, identity, journal and user")
    remove.set_defaults(run=run_uninstall)


def run_pack(options: argparse.Namespace) -> int:
    from lineside_agent.deployment.self_update.pack import pack

    payload = pack(
        options.out,
        wheel=options.wheel,
        wheels=options.wheels,
        python=options.python,
        architecture=options.arch,
        extras=options.extra,
        system_site_packages=options.system_site_packages,
        report=inform,
    )
    manifest = payload.manifest
    if options.json:
        about = {"version": manifest.version, "python": manifest.python, "architecture": manifest.architecture}
        print_json({"path": str(payload.path), **about, "sha256": payload.digest, "size_bytes": manifest.size_bytes})
    else:
        size = f"{len(manifest.files)} wheels, {manifest.size_bytes / 1e6:.1f} MB"
        show(f"{payload.path}: agent {manifest.version} for {manifest.tag}, {size}")
    return 0


def run_install(options: argparse.Namespace) -> int:
    """Installs the service; says so if there is no agent that it could start."""
    from lineside_agent.deployment.self_update.guard import Installation
    from lineside_agent.deployment.self_update.payload import open_payload
    from lineside_agent.service.install import HOME, install

    install(
        options.root,
        payload=None if options.payload is None else open_payload(options.payload),
        foreign=options.foreign,
        keep_wheels=options.keep_wheels,
        start=not options.no_start,
        progress=inform,
    )
    if not Installation(options.root / HOME).whole():
        inform(
            "no slot holds an agent, so the service starts nothing yet: lineside agent install-service --payload DIR, "
            "with DIR from `lineside agent pack`"
        )
    return 0


def run_uninstall(options: argparse.Namespace) -> int:
    from lineside_agent.service.install import uninstall

    uninstall(options.root, purge=options.purge, progress=inform)
    return 0
