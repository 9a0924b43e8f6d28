"""``lineside push``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.console import print_json, show
from lineside.extras import needs
from lineside.options import add_hub, add_json, bundle_path, number
from lineside.secret_input import add_passphrase, passphrase
from lineside_link.messages import MaintenanceWindow
from lineside_runtime.bundle import open_bundle
from lineside_runtime.bundle.archive import unpack_archive
from lineside_runtime.config_errors import naming_file
from lineside_runtime.errors import InputError, InputNotFoundError

if TYPE_CHECKING:
    from lineside_hub.rollouts.push import PushResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle",
        nargs="?",
        type=_bundle,
        help="a bundle's folder, a .lsb file, the name of a shipped bundle, or NAME@VERSION of one that this hub has "
        "published for another group",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="instead of a bundle: TOML with the tables of agent.toml that a hub may set, such as [inspect]; "
        "its keys and values are checked here, names of defect types and variants against the group's "
        "bundle",
    )
    parser.add_argument(
        "--agent",
        type=Path,
        metavar="PAYLOAD",
        help="instead of a bundle: the agent itself, from `lineside agent pack`",
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="PAYLOAD",
        help="with the first --agent of a hub: the payload that the devices run now, for a roll-back",
    )
    add_hub(parser)
    parser.add_argument("--group", required=True, help="the group of devices")
    parser.add_argument(
        "--below-baseline",
        action="store_true",
        help="push a model that is hardly better than a constant answer, or that was never judged on annotated frames; "
        "noted in the hub's timeline",
    )
    parser.add_argument(
        "--sign-only",
        action="store_true",
        help="sign and publish a bundle without a rollout, which somebody starts in the fleet dashboard",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="one device of the group gets the bundle, at once and alone; it takes no part in rollouts until `lineside "
        "fleet release NAME`",
    )
    _add_rollout(parser)
    add_passphrase(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _add_rollout(parser: argparse.ArgumentParser) -> None:
    plan = parser.add_argument_group(
        "rollout", "By default a group of one device gets it at once, a larger group on one device first."
    )
    plan.add_argument(
        "--canary",
        type=_canary,
        metavar="N|NAME[,NAME]",
        help="number or names of the first devices (default: 1 if the group has several; 0: none)",
    )
    plan.add_argument(
        "--phases", type=_phases, default=(), metavar="10%,50%,100%", help="shares of the group after the canary"
    )
    plan.add_argument(
        "--max-failed",
        type=float,
        metavar="SHARE",
        help="share of failures above which all devices are rolled back (default: 0.1; no limit in a group of one)",
    )
    plan.add_argument(
        "--healthy-for",
        type=float,
        metavar="SECONDS",
        help="how long a phase must be healthy before the next begins (default: 60)",
    )
    plan.add_argument(
        "--window",
        type=_window,
        metavar="HH:MM-HH:MM,ZONE",
        help="when devices may activate it, such as 22:00-05:00,Europe/Berlin (default: [window] of hub.toml)",
    )


def run(options: argparse.Namespace) -> int:
    """Signs and publishes the bundle, agent or configuration, and makes it the desired one."""
    if [options.bundle, options.agent, options.config].count(None) != 2:
        raise InputError("nothing to push, or two things", expected="a bundle, --agent PAYLOAD or --config FILE")
    if options.before is not None and options.agent is None:
        raise InputError("--before without --agent", expected="the payload that takes its place")
    if options.bundle is None and (options.sign_only or options.below_baseline):
        option = "--sign-only" if options.sign_only else "--below-baseline"
        raise InputError(f"{option} without a bundle", expected=f"a bundle; no {option} with --config or --agent")
    if options.sign_only and _has_plan(options):
        expected = "no option of a rollout, which has its own where it is started"
        raise InputError("--sign-only with an option of a rollout", expected=expected)
    if options.device is not None:
        _check_alone(options)
    if options.config is not None:
        return _run_config(options)
    with needs("convert"):
        from lineside_hub.rollouts.published_bundles import find_published, start
        from lineside_hub.rollouts.push import push, push_agent, set_desired
    plan = _plan(options)
    is_alone = options.device is not None
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.bundle
        if isinstance(folder, str):
            bundle = find_published(options.hub, folder)
            below, sign_only = options.below_baseline, options.sign_only or is_alone
            result = start(options.hub, bundle, may_sign=True, below_baseline=below, sign_only=sign_only, **plan)
        elif options.agent is not None:
            result = push_agent(options.hub, options.agent, before=options.before, **plan)
        else:
            if folder.suffix == ".lsb":
                folder = unpack_archive(folder, Path(scratch) / "bundle").path
            override = override_of(folder, allowed=options.below_baseline)
            result = push(options.hub, folder, override=override, sign_only=options.sign_only or is_alone, **plan)
    if is_alone:
        result = set_desired(options.hub, result.ref, device=options.device)
    if options.json:
        print_json(result)
    elif is_alone:
        show(f"{result.ref.identity} is what {options.device} alone should run now (desired state {result.gen})")
        show(f"watch it: lineside fleet logs {options.device} --hub {options.hub} --follow")
        show(f"back to its group: lineside fleet release {options.device} --hub {options.hub}")
    elif options.sign_only:
        show(f"{result.ref.identity} is signed for {options.group}; start its rollout in the fleet dashboard")
    else:
        _show_start(options, result, result.ref.identity, "run")
    return 0


def _show_start(options: argparse.Namespace, result: PushResult[Any], what: str, does: str) -> None:
    """Prints what the group should run or follow now, or that no device of the first phase is there."""
    first = f"{', '.join(result.devices)} first, then " if result.devices else ""
    if result.gen:
        show(f"{what} is what {first}{options.group} should {does} now (desired state {result.gen})")
    else:
        show(f"{what} is signed, and no device of {options.group} for the first phase is connected: it waits for one")
    show(f"watch it: lineside fleet rollout show {result.rollout} --hub {options.hub} --watch")


def override_of(folder: Path, *, allowed: bool) -> str:
    """Returns why a bundle has not passed the baseline gate, for the hub's timeline; empty if it has.

    Raises:
        AccuracyGateError: It has not, and that is not ``allowed`` (``--below-baseline``).
    """
    with needs("convert"):
        from lineside_converters.gates.baseline import shortfall_of
        from lineside_hub.rollouts.push import baseline_override
    bundle = open_bundle(folder, verify=False)
    models = [bundle.open_model(entry) for entry in bundle.manifest.several] or [bundle]
    found = "; ".join(filter(None, map(shortfall_of, models)))
    return baseline_override(found, allowed=allowed)


def _plan(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "group": options.group,
        "passphrase": passphrase(options),
        "canary": options.canary,
        "phases": options.phases,
        "max_failed": options.max_failed,
        "healthy_for_s": options.healthy_for,
        "window": options.window,
    }


def _run_config(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.rollouts.push import push_config
    try:
        data = options.config.read_bytes()
    except OSError as error:
        raise InputNotFoundError(f"{options.config}: {error.strerror}", action="Give a file of TOML.") from error
    with naming_file(str(options.config)):
        result = push_config(options.hub, data, **_plan(options))
    if options.json:
        print_json(result)
    else:
        _show_start(options, result, result.ref.target, "follow")
    return 0


def _check_alone(options: argparse.Namespace) -> None:
    """Checks that nothing is given beside ``--device`` that only a rollout to a group can have."""
    if options.bundle is None or options.sign_only or _has_plan(options):
        raise InputError(
            "--device with what only a group can get",
            expected="a bundle alone: no --agent, --config, --sign-only or option of a rollout",
        )
    with needs("convert"):
        from lineside_hub.rollouts.push import check_device
    check_device(options.hub, options.device, group=options.group)  # before anything is signed


def _has_plan(options: argparse.Namespace) -> bool:
    """Whether an option of a rollout is given."""
    plan = (options.canary, options.phases or None, options.max_failed, options.healthy_for, options.window)
    return any(each is not None for each in plan)


def _canary(text: str) -> int | tuple[str, ...]:
    return int(text) if text.isdecimal() else tuple(text.split(","))


def _bundle(given: str) -> Path | str:
    """Returns the path of a bundle, or ``name@version`` of a published one."""
    return given if "@" in given and not Path(given).exists() else bundle_path(given)


def _window(text: str) -> MaintenanceWindow:
    times, _, zone = text.partition(",")
    start, _, end = times.partition("-")
    return MaintenanceWindow(start=start, end=end, timezone=zone)


def _phases(text: str) -> tuple[float, ...]:
    return tuple(number(share.strip().removesuffix("%")) / 100 for share in text.split(","))
