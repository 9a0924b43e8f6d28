"""``lineside train detector`` and ``lineside train classifier``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from lineside.commands.output import add_json, print_json
from lineside.commands.places import bundle_place
from lineside.commands.training import reporter
from lineside.extras import needs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the kinds of models that can be trained."""
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    _add_detector(kinds)
    _add_classifier(kinds)


def _add_detector(kinds: Any) -> None:
    detector = kinds.add_parser(
        "detector",
        help="the 12-type surface detector",
        description="Trains the surface detector on neu-det and deeppcb folders plus simulator frames.",
    )
    detector.add_argument(
        "--data", type=Path, action="append", required=True, metavar="DIR", help="an annotated data set; repeatable"
    )
    detector.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoints, weights and curve")
    detector.add_argument("--epochs", type=int, default=60, help="passes over the data (default: %(default)s)")
    detector.add_argument("--minutes", type=float, metavar="M", help="end the schedule after so many minutes")
    detector.add_argument("--batch", type=int, default=24, help="frames a step (default: %(default)s)")
    detector.add_argument(
        "--pcb-share", type=float, default=1 / 3, metavar="S", help="share of circuit boards in a step (default: 1/3)"
    )
    detector.add_argument(
        "--learning-rate", type=float, default=1.2e-3, metavar="R", help="its peak (default: %(default)s)"
    )
    detector.add_argument(
        "--start",
        type=bundle_place,
        metavar="MODEL",
        help="go on from a bundle (also an INT8 one, or a shipped one's name) or .onnx file, with its channels",
    )
    _add_common(detector)
    detector.set_defaults(run=_train_detector)


def _add_classifier(kinds: Any) -> None:
    classifier = kinds.add_parser(
        "classifier",
        help="one type for a whole picture: a ResNet-18 for grey pictures, from random weights",
        description="Trains a ResNet-18 on folders of classes; of images with boxes, on what is in the largest box.",
    )
    classifier.add_argument(
        "--data", type=Path, action="append", required=True, metavar="DIR", help="a data set; repeatable"
    )
    classifier.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoints, weights and curve")
    classifier.add_argument("--epochs", type=int, default=30, help="passes over the data (default: %(default)s)")
    classifier.add_argument("--minutes", type=float, metavar="M", help="end the schedule after so many minutes")
    classifier.add_argument("--batch", type=int, default=32, help="pictures a step (default: %(default)s)")
    classifier.add_argument("--side", type=int, default=64, metavar="PX", help="of the input (default: %(default)s)")
    classifier.add_argument("--width", type=float, default=1.0, metavar="W", help="factor on the channels (default: 1)")
    classifier.add_argument(
        "--learning-rate", type=float, default=1.5e-3, metavar="R", help="its peak (default: %(default)s)"
    )
    classifier.add_argument("--bf16", action="store_true", help="multiply in bfloat16, where the processor does")
    _add_common(classifier)
    classifier.set_defaults(run=_train_classifier)


def _add_common(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    kind.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    kind.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    add_json(kind)


def _train_detector(options: argparse.Namespace) -> int:
    """Trains and says where the weights are."""
    with needs("train"):
        from lineside_converters.training.config import TrainConfig
        from lineside_converters.training.detector import train
    result = train(
        TrainConfig(
            data=tuple(options.data),
            out=options.out,
            epochs=options.epochs,
            minutes=options.minutes,
            batch=options.batch,
            pcb_share=options.pcb_share,
            learning_rate=options.learning_rate,
            seed=options.seed,
            threads=options.threads,
            start=options.start,
            resume=options.resume,
        ),
        reporter(),
    )
    if options.json:
        print_json(result)
    else:
        print(f"wrote {options.out}: best.pt, float.onnx, training.json")
    return 0


def _train_classifier(options: argparse.Namespace) -> int:
    """Trains and says where the weights are."""
    with needs("train"):
        from lineside_converters.training.classifier import ClassifierConfig, train_classifier
    result = train_classifier(
        ClassifierConfig(
            data=tuple(options.data),
            out=options.out,
            epochs=options.epochs,
            minutes=options.minutes,
            batch=options.batch,
            side_px=options.side,
            width=options.width,
            learning_rate=options.learning_rate,
            seed=options.seed,
            threads=options.threads,
            bf16=options.bf16,
            resume=options.resume,
        ),
        reporter(),
    )
    if options.json:
        print_json(msgspec.to_builtins(result))
    else:
        print(f"top-1 on the {len(result.labels)} classes kept aside: {result.held_top1:.3f}")
        print(f"wrote {options.out}: best.pt, float.onnx, training.json")
    return 0
