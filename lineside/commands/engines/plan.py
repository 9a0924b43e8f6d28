"""``lineside plan``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show
from lineside.options import add_bundle, add_json, seconds
from lineside_runtime.config import Config
from lineside_runtime.errors import InputError
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside_runtime.bundle import Bundle
    from lineside_runtime.planning import PlacementPlan
    from lineside_runtime.tensors import Array

FRAMES_MAX = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measures each way of serving a bundle on this machine (one device, replicas, stages) and keeps the best. "
        "Sessions, serve and inspect then use it for this bundle, until an engine or the machine changes."
    )
    add_bundle(parser)
    aim = parser.add_mutually_exclusive_group()
    aim.add_argument(
        "--rate",
        type=float,
        metavar="HZ",
        help="least latency at so many frames a second that come at random times "
        "(default: least latency of one frame at a time)",
    )
    aim.add_argument("--throughput", action="store_true", help="most frames a second")
    parser.add_argument("--engines", type=_names, metavar="A,B", help="only these engines, as in Config(engines=…)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a call, as in Config(threads=…)")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="photos to measure on (default: the bundle's golden input, or noise)"
    )
    parser.add_argument(
        "--seconds", type=seconds, default=30.0, metavar="S", help="how long to load and measure (default: %(default)g)"
    )
    parser.add_argument("--forget", action="store_true", help="delete the plan, and serve as configured again")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures, prints the alternatives and the reason, and keeps the plan; or deletes it."""
    from lineside_runtime.bundle import open_bundle
    from lineside_runtime.planning import Objective, plan_placement
    from lineside_runtime.serving.plan_file import forget_plan, plan_file, save_plan

    bundle = open_bundle(options.bundle)
    if bundle.manifest.several:
        raise InputError(
            f"{bundle.manifest.identity} is a bundle of several models",
            expected="a bundle of one model",
            action="Plan the folder of each of its models, or set [inspect] objective: the agent measures each.",
        )
    config = Config(engines=options.engines, threads=options.threads)
    path = plan_file(bundle, config)
    if options.forget:
        show(f"deleted {path}" if forget_plan(path) else f"{bundle.manifest.identity} has no plan here")
        return 0
    objective = Objective(kind="throughput" if options.throughput else "latency", rate_hz=options.rate)
    feeds, inputs = _inputs(bundle, options.images)
    plan = plan_placement(
        bundle, config, objective=objective, feeds=feeds, inputs=inputs, limit_s=options.seconds, on_progress=inform
    )
    save_plan(plan, path)
    if options.json:
        print_json(plan)
    else:
        _print(plan)
    inform(f"kept in {path}")
    return 0


def _inputs(bundle: Bundle, folder: Path | None) -> tuple[list[dict[str, Array]], str]:
    """Returns inputs of the model from photos, else from the golden input; none where there is neither."""
    from lineside_models.golden import read_png
    from lineside_models.preprocess import prepare
    from lineside_models.reference.reference_set import composed
    from lineside_models.vision.images import image_files, read_image

    how, golden = bundle.manifest.preprocess, bundle.manifest.golden
    if folder is not None:
        files = image_files(folder)[:FRAMES_MAX]
        images, source = [read_image(file) for file in files], f"{counted(len(files), 'photo')} of {folder}"
    elif golden is not None:
        images, source = [read_png(bundle.file(golden.frame))], "the bundle's golden input"
    else:
        return [], ""
    return [{how.input: prepare(composed(image, bundle), how)[0]} for image in images], source


def _print(plan: PlacementPlan) -> None:
    from lineside_runtime.planning.crash_trial import NO_TIME

    show(f"{plan.bundle} on {plan.machine}, {plan.objective}, measured on {plan.inputs}")
    show(f"  {'ms':>8}  {'p50':>8}  {'p95':>8}  {'frames/s':>8}  {'ratio':>6}")
    for one in plan.measured:
        mark = "*" if one.plan == plan.chosen else " "
        name = f"{one.plan} ({one.used})" if one.plan.kind == "configured" else str(one.plan)
        if one.error:
            said = "not measured" if NO_TIME in one.error else "can't serve"
            show(f"{mark} {said}: {name}: {one.error}")
        else:
            show(
                f"{mark} {one.ms:8.2f}  {one.p50_ms:8.2f}  {one.p95_ms:8.2f}  {one.per_s:8.1f}  "
                f"{one.over_best:6.3f}  {name}"
            )
    show(plan.why)
    for remark in plan.remarks:
        show(f"remark: {remark}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
