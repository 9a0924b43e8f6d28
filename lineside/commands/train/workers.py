"""``lineside train … --workers N``: several workers, on this machine or a Ray cluster."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from lineside.commands.train.follow_up import go_on
from lineside.commands.train.training import progress_of
from lineside.console import print_json, show
from lineside.extras import needs
from lineside_runtime.errors import InputError

if TYPE_CHECKING:
    from lineside_converters.training.distributed.config import ClusterConfig
    from lineside_converters.training.distributed.driver import ClusterResult
    from lineside_converters.training.settings import TrainingSettings


def add_together(parser: argparse.ArgumentParser) -> None:
    with needs("convert"):
        from lineside_converters.training.distributed.config import LAYOUT_NAMES, SCHEME_NAMES
    group = parser.add_argument_group(
        "several workers (Ray)", "Without --workers one process trains, and Ray isn't needed."
    )
    group.add_argument("--workers", type=int, metavar="N", help="processes, each with a part of every batch")
    group.add_argument(
        "--min-workers",
        type=int,
        default=0,
        metavar="M",
        help="go on with M to N of them, as many as the cluster has room for (default: with N only)",
    )
    group.add_argument("--gpus", action="store_true", help="a GPU for each of them (untested)")
    group.add_argument(
        "--address",
        default="",
        metavar="A",
        help="a Ray cluster: auto, host:port or ray://host:port (default: Ray is started on this machine)",
    )
    group.add_argument(
        "--storage", default="", metavar="URL", help="of checkpoints, reached by every node (default: in --out)"
    )
    group.add_argument(
        "--sharding",
        choices=LAYOUT_NAMES,
        default="auto",
        help="ddp: everything on every worker; zero1: optimiser state sharded; fsdp: all sharded (default: by size)",
    )
    group.add_argument(
        "--gradients", choices=SCHEME_NAMES, default="auto", help="how gradients are sent (default: by measurement)"
    )
    group.add_argument("--balance-workers", action="store_true", help="a slow worker gets fewer rows of a batch")
    group.add_argument(
        "--max-failures", type=int, default=3, metavar="N", help="restarts after a worker has died (default: 3)"
    )


def cluster_of(options: argparse.Namespace) -> ClusterConfig | None:
    """Returns the settings of several workers; ``None`` for one process.

    Raises:
        InputError: An option needs ``--workers``.
        TrainingError: A value is out of range.
    """
    if options.workers is None:
        for name in ("min_workers", "gpus", "address", "storage", "balance_workers"):
            if getattr(options, name, None):  # not every kind has each of them
                raise InputError(f"--{name.replace('_', '-')} without --workers", expected="--workers N")
        return None
    with needs("convert"):
        from lineside_converters.training.distributed.config import ClusterConfig
    return ClusterConfig(
        workers=options.workers,
        min_workers=options.min_workers,
        gpus=options.gpus,
        address=options.address,
        storage=options.storage,
        sharding=options.sharding,
        gradients=options.gradients,
        measured_shares=options.balance_workers,
        max_failures=options.max_failures,
    )


def learn_together(kind: str, settings: TrainingSettings, cluster: ClusterConfig, options: argparse.Namespace) -> int:
    """Trains on Ray, and prints result and cost."""
    if getattr(settings, "architectures", ()):
        raise InputError("--architectures with --workers", expected="one --architecture")
    with needs("ray"):
        import ray  # noqa: F401  # a missing extra is reported before anything begins

        from lineside_converters.training.distributed.driver import train_on_ray
    with (
        progress_of(options, settings.out) as report,
        contextlib.redirect_stdout(sys.stderr),
    ):  # Ray prints there that a worker has died
        found = train_on_ray(kind, settings, cluster, report)
    then = go_on(options, settings)
    if options.json:
        print_json({**summary(found), **then})
    else:
        _print(found)
        show(f"wrote {settings.out}: best.pt, float.onnx, training.json, report.html, curves.html, config.toml")
    return 0


def summary(found: ClusterResult) -> dict[str, Any]:
    """Returns what ``--json`` prints: the cost, and the result's figure under its own name."""
    cost = msgspec.to_builtins(found.cost)
    figures: dict[str, Any] = {}
    held = found.result.get("held_map50")
    if held:
        figures["map50"] = sum(held.values()) / len(held)
    return {**figures, **found.result, **cost}


def _print(found: ClusterResult) -> None:
    cost = found.cost
    for name, value in found.result.items():
        if name.startswith("held_"):
            show(f"{name.removeprefix('held_')} on the held-out share: {value}")
    show(
        f"{cost.workers} workers, {cost.layout}, gradients as {cost.scheme}: {cost.samples_per_second:.1f} samples/s, "
        f"{cost.bytes_per_step / 1e6:.2f} MB sent a step and worker, {cost.communication_share:.1%} of a step waiting"
    )
    show(f"why {cost.scheme}: {cost.scheme_why}")
    if cost.restarts:
        show(f"begun again from a checkpoint: {cost.restarts} times")
