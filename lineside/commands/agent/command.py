"""``lineside agent``."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from lineside.commands.agent import drift, mark, recipe, results, status
from lineside.console import print_json, say, show, show_link
from lineside.options import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    start = actions.add_parser(
        "run", help="run the daemon in the foreground", description="Runs the daemon in the foreground until SIGTERM."
    )
    start.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    start.set_defaults(run=run_agent, usual_log_level="info")
    status.add(actions)
    _add_trigger(actions)
    recipe.add(actions)
    drift.add(actions)
    mark.add(actions)
    results.add(actions)
    stick = actions.add_parser(
        "import",
        help="take a bundle from a USB stick",
        description="Checks an archive that `lineside hub export` made as if it came over the air, and gives it "
        "to the agent on this machine.",
    )
    stick.add_argument("archive", type=Path, metavar="FILE.lsb")
    stick.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    stick.add_argument("--timeout", type=float, default=120.0, metavar="S", help="how long to wait for the agent")
    add_json(stick)
    stick.set_defaults(run=run_import)
    doctor = actions.add_parser(
        "doctor",
        help="what is wrong with the agent and its board, and what to do about it",
        description="Looks at configuration, status, link, certificate, clock, disk, slots, service and board, and "
        "says what to do about each finding. Changes nothing. Ends with 1 if something is an error.",
    )
    doctor.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    doctor.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="default: this system")
    add_json(doctor)
    doctor.set_defaults(run=run_doctor)
    check = actions.add_parser(
        "check",
        help="whether this version of the agent could take over here, without touching anything",
        description="Reads configuration and state, and runs the installed bundle on its golden input. A new agent is "
        "asked this in its own slot before it takes over.",
    )
    check.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    add_json(check)
    check.set_defaults(run=run_check)
    enroll = actions.add_parser(
        "enroll",
        help="get this device's certificate with a token from the hub",
        description="Makes this device's key, and gets its certificate with a token from `lineside hub token`.",
    )
    enroll.add_argument("--token-file", type=Path, required=True, metavar="FILE", help="from `lineside hub token`")
    enroll.add_argument("--out", type=Path, required=True, metavar="DIR", help="where key and certificates go")
    enroll.add_argument("--hub", metavar="URL", help="of the broker (default: the token's)")
    enroll.add_argument("--timeout", type=float, default=120.0, metavar="S", help="default: %(default)s s")
    add_json(enroll)
    enroll.set_defaults(run=run_enroll)
    _add_pack(actions)
    _add_service(actions)


def _add_trigger(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    trigger = actions.add_parser(
        "trigger",
        help="have the agent on this machine look at a part now",
        description="Triggers the agent on this machine, as the line would, and waits for the verdict. Ends with 1 if "
        "the part is rejected. The agent's configuration needs a [trigger] table.",
    )
    trigger.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    trigger.add_argument("--part", default="", metavar="ID", help="the part's name for the record")
    what = trigger.add_mutually_exclusive_group()
    what.add_argument("--reset", action="store_true", help="no part: the operator's reset of a fault")
    what.add_argument("--challenge", action="store_true", help="no part: a shift begins, challenge parts follow")
    add_json(trigger)
    trigger.set_defaults(run=run_trigger)


def _add_pack(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pack = actions.add_parser(
        "pack",
        help="make the payload that puts this agent on a board, or updates it there",
        description="Gathers lineside's wheel, what it needs for one board's Python, and pip, so that the board "
        "installs them without a network.",
    )
    pack.add_argument("out", type=Path, help="a new folder")
    pack.add_argument(
        "--wheel", type=Path, metavar="FILE", help="lineside's wheel (default: built from this source tree)"
    )
    pack.add_argument("--wheels", type=Path, metavar="DIR", help="take every wheel from there, pip's too, and no index")
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


def _add_service(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    install = actions.add_parser(
        "install-service",
        help="put the agent's systemd units, guard and first slot onto a system or an image's tree",
        description="Installs the service: units, user, guard, and slot a of a payload.",
    )
    install.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="default: this system")
    install.add_argument("--payload", type=Path, metavar="DIR", help="the agent for slot a, from `lineside agent pack`")
    install.add_argument("--foreign", action="store_true", help="the root is another machine's: run nothing for it")
    install.add_argument(
        "--keep-wheels", action="store_true", help="keep the wheels in the slot: the first update then brings less"
    )
    install.add_argument("--no-start", action="store_true", help="neither enable nor start it")
    install.set_defaults(run=run_install)
    remove = actions.add_parser(
        "uninstall-service",
        help="take all of that away again",
        description="Stops the service and removes what install-service put there.",
    )
    remove.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="default: this system")
    remove.add_argument("--purge", action="store_true", help="also records, configuration, identity, journal and user")
    remove.set_defaults(run=run_uninstall)


def run_agent(options: argparse.Namespace) -> int:
    """Runs the daemon."""
    from lineside_agent.daemon import run

    return run(options.config)


def run_trigger(options: argparse.Namespace) -> int:
    """Asks the agent on its local socket."""
    from lineside_agent.config import read_config
    from lineside_agent.line_io.local import TriggerRequest, ask

    config = read_config(options.config)
    do: Literal["trigger", "reset", "challenge"]
    do = "reset" if options.reset else "challenge" if options.challenge else "trigger"
    told = ask(config.folder, TriggerRequest(do, options.part))
    if options.json:
        print_json(told)
    elif do == "trigger":
        show(f"{told['verdict']}  {told['part_id']}  {told['code']}  {told['took_ms']:.1f} ms{_found(told)}")
    return 0 if do != "trigger" or told["verdict"] == "pass" else 1


def _found(told: dict[str, Any]) -> str:
    """What a trigger's answer says of defects, as the end of a line; an agent of an earlier release says nothing."""
    if not told.get("defect"):
        return ""
    others = f" and {told['defects'] - 1} more" if told["defects"] > 1 else ""
    return f"  {told['defect']} {told['score']:.2f}{others}, camera {told['camera']}"


def run_import(options: argparse.Namespace) -> int:
    """Checks the archive with a copy of the device's trust, hands it over, and waits for what becomes of it."""
    import tempfile

    from lineside_agent.config import read_config
    from lineside_agent.deployment.offline_import import OfflineBundle, put, stick_trust

    config = read_config(options.config)
    stick = OfflineBundle(options.archive)
    wish = stick.wish()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "state"
        copy.mkdir()
        if (config.folder / "trust").is_dir():
            shutil.copytree(config.folder / "trust", copy / "trust", symlinks=True)
        if (config.folder / "clock").is_file():
            shutil.copy(config.folder / "clock", copy / "clock")
        bundle = stick.verify(trust=stick_trust(stick, copy, config.root), group=config.group)
    put(options.archive, config.folder)
    say(f"{bundle.identity} is signed for {config.group} and whole")
    status = _wait_for(config.folder / "status.json", wish.epoch, wish.gen, options.timeout)
    error = status.get("error") if status else None
    if options.json:
        print_json({"bundle": bundle, "taken": status is not None, "error": error})
    elif status is None:
        say("the agent has not taken it yet; it will when it runs")
    else:
        say(f"the agent's answer: {status['state']}" + (f", {error}" if error else ""))
    return 1 if error else 0


def _wait_for(path: Path, epoch: int, gen: int, timeout_s: float) -> dict[str, Any] | None:
    """The agent's status once it has answered the wish; ``None`` if it doesn't run or takes too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            running = time.time() - path.stat().st_mtime < 10.0
            status: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            running, status = False, {}
        if not running:
            return None
        resting = status["state"] in ("active", "idle", "failed", "rolled_back")
        if resting and (status["epoch"], status["gen"]) >= (epoch, gen):
            return status
        time.sleep(0.2)
    return None


def run_enroll(options: argparse.Namespace) -> int:
    """Gets the first certificate, and prints the part of agent.toml that names it."""
    from lineside_agent.hub_client.identity import enroll

    link = enroll(options.token_file, options.out, url=options.hub, timeout_s=options.timeout, progress=say)
    if options.json:
        print_json({"link": link, "root": options.out / "root.json"})
        return 0
    say(f"enrolled; {options.token_file} is used and can be deleted. In agent.toml:")
    names = ("url", "site", "ca", "certificate", "key")
    show_link({name: getattr(link, name) for name in names}, root=options.out / "root.json")
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    """Prints the findings."""
    from lineside_agent.health.doctor import collect, examine

    findings = examine(collect(options.config, options.root))
    if options.json:
        print_json({"findings": findings})
    else:
        for finding in findings:
            show(f"{finding.level:>7}  {finding.what}\n{'':>7}  -> {finding.action}")
        if not findings:
            show("nothing to complain about")
    return 1 if any(finding.level == "error" for finding in findings) else 0


def run_check(options: argparse.Namespace) -> int:
    """Checks whether this agent could take over."""
    from lineside_agent.deployment.preflight import check

    found = check(options.config)
    if options.json:
        print_json(found)
    else:
        show(f"agent {found.agent_version} can run {found.bundle or 'no bundle yet'} as {found.device}")
    return 0


def run_pack(options: argparse.Namespace) -> int:
    """Makes a payload."""
    from lineside_agent.deployment.self_update.pack import pack

    payload = pack(
        options.out,
        wheel=options.wheel,
        wheels=options.wheels,
        python=options.python,
        architecture=options.arch,
        extras=options.extra,
        system_site_packages=options.system_site_packages,
        say=say,
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
    """Installs the service."""
    from lineside_agent.deployment.self_update.payload import open_payload
    from lineside_agent.service.install import install

    install(
        options.root,
        payload=None if options.payload is None else open_payload(options.payload),
        foreign=options.foreign,
        keep_wheels=options.keep_wheels,
        start=not options.no_start,
        progress=say,
    )
    return 0


def run_uninstall(options: argparse.Namespace) -> int:
    """Removes the service."""
    from lineside_agent.service.install import uninstall

    uninstall(options.root, purge=options.purge, progress=say)
    return 0
