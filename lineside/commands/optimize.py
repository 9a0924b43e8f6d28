"""``lineside optimize``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from lineside.commands.output import add_json, print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the level and what to prove it on."""
    parser.add_argument("model", type=Path, help="a bundle's folder, an .onnx or a .pt file")
    parser.add_argument("--level", type=int, default=1, metavar="N", help="0: clean-up; 1: INT8 (default: %(default)s)")
    parser.add_argument("--target", default="cpu", metavar="DEVICE", help="what it is for (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="annotated data: calibration and accuracy")
    parser.add_argument("--fold", default="train", help="which fold of the data (default: %(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photos without annotations: calibration only")
    parser.add_argument("--max-drop", type=float, default=0.02, metavar="D", help="of mAP@0.5 (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the new bundle")
    parser.add_argument("--version", metavar="V", help="version of the new bundle")
    parser.add_argument("--trust", action="store_true", help="read a .pt file that could run code: only your own")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Optimises, and prints the figures before and after."""
    from lineside.optimizer import Optimizer

    result = Optimizer(
        options.model,
        target_device=options.target,
        optimization_level=options.level,
        out=options.out,
        frames=options.images,
        data=options.data,
        fold=options.fold,
        max_drop=options.max_drop,
        version=options.version,
        trust=options.trust,
        on_progress=say,
    ).run()
    figures = {"float": msgspec.to_builtins(result.float_figures), "int8": msgspec.to_builtins(result.int8_figures)}
    if options.json:
        print_json({"bundle": str(result.bundle.path), "digest": result.bundle.digest, **figures})
    else:
        for name, values in figures.items():
            print(f"{name:<6} {_line(values)}")
        print(f"wrote {result.bundle.path}")
    return 0


def _line(values: dict[str, Any]) -> str:
    accuracy = "accuracy not measured" if values.get("map50") is None else f"mAP@0.5 {values['map50']:.3f}"
    return f"{values['latency_ms']:.2f} ms  {values['size_bytes'] / 1e6:.2f} MB  {accuracy}"
