"""``lineside optimize``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lineside.console import inform, print_json, show
from lineside.options import (
    add_good_class,
    add_json,
    add_min_metric,
    add_tasks,
    add_terms,
    bundle_path,
    numbers,
    task_cluster,
)
from lineside.secret_input import add_passphrase, passphrase
from lineside_runtime.errors import InputError

if TYPE_CHECKING:
    from lineside_converters.optimizer import OptimizeResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=bundle_path,
        help="a bundle's folder or a shipped one's name, an .onnx or a .pt file, or a run of `lineside train`",
    )
    parser.add_argument(
        "--level",
        type=int,
        default=1,
        metavar="N",
        help="0: clean-up; 1: INT8; 2: pruned and fine-tuned, then INT8; 3: best of a search (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        default="cpu",
        metavar="NAME",
        help="a board's profile such as rpi5, x86 or cuda:0, or a kind of device: cpu, gpu, npu (default: %(default)s)",
    )
    _add_data(parser)
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.02,
        metavar="D",
        help="largest drop of the task's metric, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--min-speedup",
        type=float,
        default=1.1,
        metavar="X",
        help="least speed, in terms of the float model's, of an INT8 variant that costs accuracy; "
        "1 accepts any that is not slower (default: %(default)s)",
    )
    add_min_metric(parser)
    add_good_class(parser)
    add_terms(parser.add_argument_group("terms", "Stated in the manifest; the source bundle's if not given."))
    _add_facts(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the new bundle")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle that stands there")
    parser.add_argument("--version", metavar="V", help="version of the new bundle")
    parser.add_argument("--trust", action="store_true", help="read a .pt file that could run code: only your own")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="keep finished steps here, to resume after a kill; else levels 2 and 3 use BUNDLE.work until the end",
    )
    parser.add_argument(
        "--seed", type=int, default=20, metavar="N", help="seed of the random generators (default: %(default)s)"
    )
    _add_effort(parser)
    _add_places(parser)
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out peak memory and throughput of fresh processes"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Adds what to calibrate and to judge on."""
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="DIR",
        help="annotated data: calibration and accuracy; levels 2 and 3 train on its train fold; repeatable",
    )
    parser.add_argument(
        "--fold", default="train", help="fold of the data to calibrate and to choose on (default: %(default)s)"
    )
    parser.add_argument(
        "--judge-fold",
        metavar="FOLD",
        help="fold of the data that accuracy is judged on (default: val if there is one, else other frames of --fold)",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="photos without annotations: calibration only")


def _add_effort(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `Effort`."""
    group = parser.add_argument_group("levels 2 and 3")
    group.add_argument(
        "--speedup",
        type=float,
        metavar="X",
        help="speed of the pruned network in terms of the whole one (default: 2.1)",
    )
    group.add_argument("--epochs", type=int, metavar="N", help="epochs of fine-tuning (default: 20)")
    group.add_argument(
        "--minutes", type=float, metavar="M", help="end the schedule of fine-tuning early, after so many minutes"
    )
    group.add_argument("--learning-rate", type=float, metavar="R", help="peak learning rate (default: 0.0006)")
    group.add_argument(
        "--true-weight", type=float, metavar="W", help="weight of the loss against the annotations (default: 0.5)"
    )
    group.add_argument(
        "--teach-weight", type=float, metavar="W", help="weight of the loss against the whole network (default: 3)"
    )
    group.add_argument("--batch", type=int, metavar="N", help="frames a step (default: 16)")
    group.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: its own choice)")
    group.add_argument(
        "--bf16", action="store_true", default=None, help="fine-tune in bfloat16: faster with AVX512-BF16"
    )
    group.add_argument("--teacher-bf16", action="store_true", default=None, help="bfloat16 for the whole network alone")
    group.add_argument("--trials", type=int, metavar="N", help="networks that level 3 tries (default: 40)")
    group.add_argument("--shortlist", type=int, metavar="N", help="networks that level 3 fine-tunes (default: 4)")


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Adds where work runs: a cluster, and the device of the fleet that times the variants."""
    add_tasks(
        parser, "the INT8 form of one layer, whose harm decides what stays in float, or one trial of level 3's search"
    )
    group = parser.add_argument_group(
        "speed on another device",
        "An agent of the fleet times the variants for the speed gate, and level 3's networks for its search; they are "
        "signed to be timed only, and not run. "
        "Its agent.toml says time_for_hub = true.",
    )
    group.add_argument(
        "--on", metavar="DEVICE", help="name of the device; without it this machine times, where it is such a target"
    )
    group.add_argument("--hub", type=Path, metavar="DIR", help="with --on: the hub's folder on this machine")
    add_passphrase(group)


def _add_facts(parser: argparse.ArgumentParser) -> None:
    """Adds the facts that a bare model lacks."""
    bare = parser.add_argument_group(
        "a bare .onnx or .pt",
        "Facts that it doesn't bring. They override the .toml file beside it, which can hold more.",
    )
    bare.add_argument(
        "--labels", type=_labels, metavar="A,B|FILE", help="class names in order, or a file with one a line"
    )
    bare.add_argument("--colour", choices=["grey", "rgb", "bgr"], help="colour of its input")
    bare.add_argument(
        "--size", type=_size, metavar="HxW", help="size of its input (default: the graph's, where that is fixed)"
    )
    bare.add_argument("--mean", type=numbers, metavar="M,M,M", help="mean of each channel, 0 to 255 (default: 0)")
    bare.add_argument("--std", type=numbers, metavar="S,S,S", help="standard deviation of each channel (default: 255)")
    bare.add_argument(
        "--architecture", default="", metavar="NAME", help="name of a .pt's network in torchvision or timm"
    )


_LABEL_FILES = (".txt", ".names", ".csv")
"""Endings that a single class does not have."""


def _labels(text: str) -> tuple[str, ...]:
    file = Path(text)
    if file.is_file():
        try:
            lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text} is no text in UTF-8") from error
        if not lines:
            raise argparse.ArgumentTypeError(f"no label in {text}")
        return tuple(line.strip() for line in lines)
    if "," not in text and (len(file.parts) > 1 or file.suffix in _LABEL_FILES):
        raise argparse.ArgumentTypeError(f"no file {text}")
    return tuple(word.strip() for word in text.split(","))


def _size(text: str) -> tuple[int, int]:
    sides = [int(word) for word in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError("height and width, such as 224x224")
    return (sides[0], sides[-1])


def preprocess_of(options: argparse.Namespace) -> dict[str, Any] | None:
    """Returns the pre-processing of the options; ``None`` if there is none.

    Raises:
        InputError: There is a size, mean or deviation without a colour.
    """
    if options.colour is None:
        for name in ("size", "mean", "std"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name} without --colour", expected="--colour grey, rgb or bgr")
        return None
    channels = 1 if options.colour == "grey" else 3
    mean, std = options.mean or (0.0,), options.std or (255.0,)
    if options.mean is None or options.std is None:
        inform(f"the model's input is taken as (value - {mean[0]:g}) / {std[0]:g}; --mean and --std say otherwise")
    return {
        "colour": options.colour,
        "size": options.size,
        "mean": mean * channels if len(mean) == 1 else mean,
        "std": std * channels if len(std) == 1 else std,
    }


def run(options: argparse.Namespace) -> int:
    """Optimizes, and prints the figures before and after."""
    from lineside.optimizer import Optimizer, device_clock
    from lineside_converters.options import Effort
    from lineside_converters.progress import progress_bars

    if (options.on is None) != (options.hub is None):
        raise InputError("--on and --hub belong together", expected="the device that times, and its hub's folder")
    clock = options.on and device_clock(options.hub, options.on, passphrase=passphrase(options), say=inform)
    asked = [field.name for field in dataclasses.fields(Effort)]  # each is an option
    with progress_bars() as count, contextlib.redirect_stdout(sys.stderr):  # Ray prints there that a worker has died
        result = Optimizer(
            options.model,
            target_device=options.target,
            optimization_level=options.level,
            out=options.out,
            frames=options.images,
            data=options.data,
            fold=options.fold,
            judge_fold=options.judge_fold,
            max_drop=options.max_drop,
            min_speedup=options.min_speedup,
            min_metric=options.min_metric,
            version=options.version,
            good_classes=options.good_classes,
            labels=options.labels,
            preprocess=preprocess_of(options),
            architecture=options.architecture,
            trust=options.trust,
            licence=options.licence,
            data_terms=dict(options.data_terms) if options.data_terms else None,
            overwrite=options.overwrite,
            work=options.work,
            cluster=task_cluster(options),
            memory=not options.no_memory,
            seed=options.seed,
            effort={name: value for name in asked if (value := getattr(options, name)) is not None},
            clock=clock,
            on_progress=inform,
            on_count=count,
        ).run()
    if options.json:
        print_json(summary(result))
    else:
        _print(result)
    return 0


def summary(result: OptimizeResult) -> dict[str, Any]:
    """Returns what ``--json`` prints: ratios of the fastest variant to the source model in ONNX Runtime."""
    metric = result.report.metric
    return {
        "bundle": str(result.bundle.path),
        "digest": result.bundle.digest,
        "speedup": result.speedup,
        "timed_on": result.report.timed_on,
        "metric": None if metric is None else metric.name,
        "judged_on": result.report.accuracy_on,
        "drop": None if metric is None else metric.before - metric.after,
        "ci": None if metric is None else [metric.low, metric.high],
        "size_ratio": result.size_ratio,
        "memory_ratio": result.memory_ratio,
        "throughput_ratio": result.throughput_ratio,
        "variants": result.report.variants,
        "gates": result.report.gates,
        "notes": result.report.notes,
        "hypervolumes": result.report.hypervolumes,
        "float": result.float_figures,
        "int8": result.int8_figures,
    }


def _print(result: OptimizeResult) -> None:
    figures = {"float": result.float_figures, result.bundle.manifest.variants[0].precision: result.int8_figures}
    for name, values in figures.items():
        if values is not None:
            show(f"{name:<6} {_line(msgspec.to_builtins(values))}")
    metric = result.report.metric
    if metric is not None:
        show(
            f"{metric.name} {metric.before:.4f} → {metric.after:.4f}, {metric.confidence:.0%} interval of the drop "
            f"{metric.low:+.4f} to {metric.high:+.4f} on {result.report.accuracy_on or f'{metric.frames} frames'}"
        )
    for one in result.report.variants:
        show(f"{'kept' if one.kept else 'left out':<9} {one.name}: {one.why}")
    for note in result.report.notes:
        show(f"note      {note}")
    show(f"wrote {result.bundle.path}, and {result.page.name} beside it")


def _line(values: dict[str, Any]) -> str:
    memory = values.get("memory_bytes")
    peak = f"  peak {memory / 1e6:.0f} MB" if memory else ""
    rate = f"  {values['throughput_fps']:.1f} frames/s" if values.get("throughput_fps") else ""
    return f"{values['latency_ms']:.2f} ms{rate}  {values['size_bytes'] / 1e6:.2f} MB{peak}"
