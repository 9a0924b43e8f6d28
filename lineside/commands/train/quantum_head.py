"""``lineside train quantum-head``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_good_class, add_json, add_overwrite, positive

_DESCRIPTION = """\
Trains a classifier head with a simulated quantum circuit on frozen features of the shipped INT8 network patch-features,
and writes a bundle that runs on a device like any other. An experiment: docs/quantum.md compares it with classical
heads.
"""
_EPILOG = """\
example:
  lineside train quantum-head --data x-sdd --out x-sdd-quantum
  lineside inspect part-1.jpg --model x-sdd-quantum
"""


def add_arguments(kinds: Any) -> None:
    parser = kinds.add_parser(
        "quantum-head",
        help="an experiment: one type for a whole picture, by a simulated quantum circuit",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="an annotated data set; repeatable. Only its train fold is read, if it has folds",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the new bundle")
    parser.add_argument("--name", default="", help="of the bundle (default: the folder's name)")
    parser.add_argument("--version", default="1.0.0", help="of the bundle (default: %(default)s)")
    parser.add_argument("--qubits", type=positive, default=6, metavar="N", help="2 to 8 (default: %(default)s)")
    parser.add_argument(
        "--layers", type=positive, default=3, metavar="N", help="of the circuit, 1 to 8 (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=positive, default=60, metavar="N", help="passes over the features (default: %(default)s)"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=1e-2, metavar="R", help="at the beginning (default: %(default)s)"
    )
    parser.add_argument(
        "--held-share",
        type=float,
        default=0.15,
        metavar="S",
        help="of the parts, held out to measure the accuracy (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    add_good_class(parser)
    add_overwrite(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with needs("quantum"):
        from lineside_converters.training.quantum.head import QuantumHead
    from lineside_runtime.bundle.install import check_target

    check_target(options.out, overwrite=options.overwrite)
    head = QuantumHead(
        options.qubits,
        options.layers,
        seed=options.seed,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
    )
    top1 = head.train(
        options.data,
        held_share=options.held_share,
        good_classes=options.good_classes,
        on_progress=inform,
    )
    bundle = head.optimize(options.out, name=options.name, version=options.version, overwrite=options.overwrite)
    if options.json:
        print_json({"held_top1": top1, "labels": head.labels, "bundle": bundle.path, "digest": bundle.digest})
        return 0
    show(f"top-1 of {len(head.labels)} classes on the held-out share: {top1:.3f}")
    show(f"wrote {bundle.path}, {bundle.manifest.size_bytes} bytes")
    return 0
