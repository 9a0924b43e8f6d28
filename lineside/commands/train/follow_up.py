"""``lineside train … --then optimize,push``: from the trained model to the canary group without a person."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lineside.console import inform
from lineside.extras import needs
from lineside.options import add_min_metric
from lineside.secret_input import add_passphrase, passphrase
from lineside_runtime.errors import InputError

if TYPE_CHECKING:
    from lineside_converters.training.settings import TrainingSettings

STEPS = ("optimize", "push")
BUNDLE = "bundle"
"""Name of the bundle's folder in the run's."""


def add_then(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "what comes next", "A gate that isn't passed ends it with its error, and nothing is pushed."
    )
    group.add_argument(
        "--then",
        type=_steps,
        default=(),
        metavar="optimize[,push]",
        help="make the model a bundle in --out/bundle through the optimizer's gates; sign and push it",
    )
    group.add_argument("--level", type=int, default=1, help="of the optimizer; 2 prunes (default: %(default)s)")
    group.add_argument("--target", default="cpu", metavar="NAME", help="a board's profile (default: %(default)s)")
    group.add_argument(
        "--max-drop", type=float, default=0.02, metavar="D", help="of accuracy, 0 to 1 (default: %(default)s)"
    )
    add_min_metric(group)
    group.add_argument("--name", default="", help="of the bundle (default: the name of --out's folder)")
    group.add_argument("--version", default="", metavar="V", help="of the bundle (default: the time, as 1.0.<seconds>)")
    group.add_argument("--hub", type=Path, metavar="DIR", help="the hub's folder on this machine, to push")
    group.add_argument("--group", dest="push_group", help="the group of devices, such as canary, to push to")
    add_passphrase(group)


def _steps(text: str) -> tuple[str, ...]:
    steps = tuple(text.split(","))
    if steps not in (STEPS[:1], STEPS):
        raise argparse.ArgumentTypeError("expected optimize or optimize,push")
    return steps


def check_then(options: argparse.Namespace) -> None:
    """Checks before the training that the steps after it can run.

    Raises:
        InputError: Pushing needs a hub and a group, or a group is named and nothing is pushed.
    """
    for name, good, expected in (
        ("max_drop", 0 <= options.max_drop <= 1, "0 to 1"),
        ("level", 0 <= options.level <= 3, "0 to 3"),
    ):
        if not good:
            raise InputError(f"{name} is not usable", expected=expected, actual=getattr(options, name))
    pushes = "push" in options.then
    if pushes and (options.hub is None or not options.push_group):
        raise InputError("--then push without where to", expected="--hub DIR and --group NAME")
    if options.push_group and not pushes:
        raise InputError(
            "--group without --then optimize,push",
            expected="the devices to push to",
            action="What names the part that a picture shows is --parts REGEX.",
        )


def go_on(options: argparse.Namespace, settings: TrainingSettings) -> dict[str, Any]:
    """Runs the steps of ``--then``, and returns their results.

    Raises:
        LinesideError: As for `lineside optimize` and `lineside push`; a gate's own where it isn't passed.
    """
    if not options.then:
        return {}
    found: dict[str, Any] = {"optimize": _optimize(options, settings)}
    if "push" in options.then:
        found["push"] = _push(options, settings.out / BUNDLE)
    return found


def _optimize(options: argparse.Namespace, settings: TrainingSettings) -> dict[str, Any]:
    from lineside.commands.models.optimize import summary

    with needs("train"):
        from lineside_converters.loading.training_run import facts_of_run
        from lineside_converters.optimizer import Optimizer
    inform(f"optimizing: level {options.level} for {options.target}")
    result = Optimizer(
        settings.out / "float.onnx",
        target_device=options.target,
        optimization_level=options.level,
        out=settings.out / BUNDLE,
        data=settings.data,
        fold="train",
        max_drop=options.max_drop,
        min_metric=options.min_metric,
        name=options.name or settings.out.resolve().name,
        version=options.version or f"1.0.{int(time.time())}",
        overwrite=True,
        on_progress=inform,
        **facts_of_run(settings.out),
    ).run()
    inform(f"wrote {result.bundle.path}, and {result.page.name} beside it")
    return summary(result)


def _push(options: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    from lineside.commands.push import override_of

    with needs("convert"):
        from lineside_hub.rollouts.push import push
    override_of(bundle, allowed=False)
    inform(f"pushing to {options.push_group}")
    result = push(options.hub, bundle, group=options.push_group, passphrase=passphrase(options))
    found: dict[str, Any] = msgspec.to_builtins(result, enc_hook=str)
    return found


def with_then(result: Any, then: dict[str, Any]) -> Any:
    """Returns a training's result with those of ``--then``."""
    return {**msgspec.to_builtins(result, enc_hook=str), **then} if then else result
