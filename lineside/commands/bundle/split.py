"""``lineside bundle split``: cuts a bundle's model in two for two devices."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import print_json, say, show
from lineside.extras import needs
from lineside.options import add_json, bundle_path
from lineside_runtime.bundle import open_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `lineside bundle split` takes."""
    parser.add_argument("bundle", type=bundle_path, help="a bundle's folder, or the name of a shipped bundle")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument(
        "--on",
        nargs=2,
        required=True,
        metavar="PLACE",
        help="the two places where the stages are to run, as ENGINE[/DEVICE][@CORE,CORE]: ort@0 openvino/gpu:0",
    )
    parser.add_argument("--variant", help="name of the ONNX variant to cut (default: the first)")
    parser.add_argument("--version", help="of the new bundle (default: the old one's with -split behind it)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle that stands there")
    parser.add_argument("--keep-slower", action="store_true", help="write it even if the stages pass no more frames")
    add_json(parser)
    parser.set_defaults(run=run_split)


def run_split(options: argparse.Namespace) -> int:
    """Measures, cuts, proves, and says how to run what came out."""
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
        on_progress=say,
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
