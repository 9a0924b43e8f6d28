"""``lineside train detector``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.commands.output import add_json, print_json, say
from lineside.extras import needs

if TYPE_CHECKING:
    from lineside_converters.training.config import TrainProgress

SAY_EVERY_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the one kind of model that can be trained today."""
    kinds = parser.add_subparsers(metavar="KIND", required=True)
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
    detector.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    detector.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    detector.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    add_json(detector)
    detector.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
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
            resume=options.resume,
        ),
        _reporter(),
    )
    if options.json:
        print_json(result)
    else:
        print(f"wrote {options.out}: best.pt, float.onnx, training.json")
    return 0


def _reporter() -> Callable[[TrainProgress], None]:
    """Returns a listener that prints a line every ten seconds and at every evaluation."""
    said_at_s = -SAY_EVERY_S

    def report(progress: TrainProgress) -> None:
        nonlocal said_at_s
        now_s = time.monotonic()
        if now_s - said_at_s < SAY_EVERY_S and not progress.held:
            return
        said_at_s = now_s
        held = "".join(f"  {domain} mAP@0.5 {value:.3f}" for domain, value in progress.held.items())
        say(
            f"epoch {progress.epoch}  step {progress.step} of {progress.steps}  loss {progress.loss:.3f}  "
            f"{progress.elapsed_s:.0f} s, {progress.remaining_s:.0f} s to go{held}"
        )

    return report
