"""``lineside bundle split``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import Actions, add_bundle, add_json, add_overwrite
from lineside_runtime.bundle import open_bundle


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "split",
        help="split the model in two stages for two devices",
        description="Splits a model where the slower of two stages is fastest, as measured on their devices.",
    )
    add_bundle(parser)
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument(
        "--on",
        nargs=2,
        required=True,
        metavar="PLACE",
        help="devices of the two stages, as ENGINE[/DEVICE][@CORE,CORE]: ort@0 openvino/gpu:0",
    )
    parser.add_argument("--variant", help="name of the ONNX variant to cut (default: the first)")
    parser.add_argument("--version", help="of the new bundle (default: the old one's with -split appended)")
    add_overwrite(parser)
    parser.add_argument("--keep-slower", action="store_true", help="write it even if throughput does not rise")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Splits the model, and prints the timings and how to run it."""
    with needs("convert"):
        from lineside_converters.split.bundle import split_bundle
        from lineside_converters.split.timing import StagePlace
    split = split_bundle(
        open_bundle(options.bundle),
        options.out,
        [StagePlace.parse(text) for text in options.on],
        variant=options.variant,
        version=options.version,
        overwrite=options.overwrite,
        must_gain=not options.keep_slower,
        on_progress=inform,
    )
    best, config = split.chosen.best, split.config
    if options.json:
        print_json(split.summary())
        return 0
    for place, stage_ms in zip(best.places, best.stage_ms, strict=True):
        show(f"{stage_ms:7.2f} ms  {place}")
    for name, whole_ms in split.chosen.whole_ms.items():
        show(f"{whole_ms:7.2f} ms  whole on {name}")
    show(f"{split.chosen.gain:.2f} times the frames of the best device alone, cut at {best.cut}")
    cores = "" if config.stage_cores is None else f", stage_cores={config.stage_cores}"
    show(f"run it with Config(stage_engines={config.stage_engines}{cores})")
    return 0
