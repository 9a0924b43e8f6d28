"""``lineside distill``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import msgspec

from lineside.commands.train.training import reporter
from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_json, bundle_path, count, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "teacher", type=bundle_path, help="a bundle's folder or a shipped one's name, an .onnx or a .pt file"
    )
    parser.add_argument(
        "--student",
        default="narrow@0.5",
        metavar="S",
        help="narrow@SHARE of the teacher's channels, resnet18[@WIDTH], timm:NAME or an .onnx file "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="annotated data, its train fold; repeatable; without any, drawn frames",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="student.onnx, checkpoints, curve")
    parser.add_argument("--epochs", type=positive, default=30, help="passes over the data (default: %(default)s)")
    parser.add_argument("--minutes", type=float, metavar="M", help="end the schedule early, after so many minutes")
    parser.add_argument("--batch", type=positive, default=16, help="frames a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, metavar="R", help="peak learning rate (default: 0.0015)")
    parser.add_argument(
        "--true-weight", type=float, metavar="W", help="weight of the loss against the annotations (default: 0.5)"
    )
    parser.add_argument(
        "--teach-weight", type=float, metavar="W", help="weight of the loss against the teacher's answers (default: 1)"
    )
    parser.add_argument(
        "--features",
        type=float,
        metavar="W",
        help="weight of the loss against the teacher's features (default: 0.1; 0: none)",
    )
    parser.add_argument("--seed", type=count, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=positive, default=2, help="default: %(default)s")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16: faster with AVX512-BF16")
    parser.add_argument("--trust", action="store_true", help="read a .pt file that could run code: only your own")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Distils, and prints the figures of both."""
    with needs("train"):
        from lineside_converters.distillation.distill import (
            DEFAULT,
            check_run,
            distill,
            open_distillation,
            open_student,
        )
    settings = dataclasses.replace(
        DEFAULT,
        epochs=options.epochs,
        minutes=options.minutes,
        learning_rate=DEFAULT.learning_rate if options.learning_rate is None else options.learning_rate,
        true_weight=DEFAULT.true_weight if options.true_weight is None else options.true_weight,
        teach_weight=DEFAULT.teach_weight if options.teach_weight is None else options.teach_weight,
        feature_weight=DEFAULT.feature_weight if options.features is None else options.features,
        bf16=options.bf16,
        seed=options.seed,
        threads=options.threads,
    )
    setup = open_distillation(
        options.teacher, options.data, batch=options.batch, seed=options.seed, trust=options.trust
    )
    student = open_student(options.student, setup, seed=options.seed)
    check_run(
        setup, student=options.student, data=options.data, batch=options.batch, settings=settings, out=options.out
    )
    inform(f"teacher {options.teacher.name}, student {options.student}, {setup.objective.facts}")
    result = distill(setup, student, out=options.out, settings=settings, on_progress=reporter())
    if options.json:
        print_json(msgspec.to_builtins(result))
    else:
        for name, macs, figures in (
            ("teacher", result.teacher_macs, result.teacher),
            ("student", result.student_macs, result.student),
        ):
            show(f"{name}  {macs / 1e6:.1f} M MACs  {figures}")
        show(f"wrote {result.onnx}")
    return 0
