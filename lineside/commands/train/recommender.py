"""``lineside train recommender``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lineside.commands.train.training import Options, progress_of, resumable, settings_of
from lineside.commands.train.workers import add_together, cluster_of, learn_together
from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_json

OUT = Path("recommender")
BUNDLE = "bundle"

_DESCRIPTION = """\
Trains a recommender: it ranks items for a history of items, such as spare parts by what was ordered before.
The weights are chosen by each user's last choice. The bundle for devices is written into OUT/bundle.
"""
_EPILOG = """\
files of interactions:
  *.csv, *.parquet  columns user,item and any of time,label,attributes; attributes are joined by |
  *.jsonl  an object a line, with the same names
  *.txt    a line a user: user, then items in the order of time; NAME_item2attributes.json beside it
  u.data   MovieLens' ratings, with u.item beside it

example:
  lineside train recommender --data orders.csv --out parts
  lineside recommend parts/bundle --history bearing-6204 seal-22
"""


def add_arguments(kinds: Any) -> None:
    with needs("convert"):
        from lineside_converters.training.recommendation.config import RecommenderConfig
        from lineside_converters.training.recommendation.interactions import FORMS
    parser = kinds.add_parser(
        "recommender",
        help="ranks items for a history: what was chosen next",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = Options(parser, RecommenderConfig)
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings; options override it")
    options.add("--data", f"interactions: {FORMS}, or its folder", type=Path, action="append")
    options.add("--out", f"checkpoints, weights, curves and the bundle (default: {OUT})", type=Path, metavar="DIR")
    options.add("--epochs", "passes over the data at most", type=int)
    options.add("--patience", "evaluations without a better one after which training ends", type=int, metavar="N")
    options.add("--minutes", "end the schedule after so many minutes", type=float, metavar="M")
    options.add("--batch", "choices a step at most", type=int)
    options.add("--learning-rate", "peak learning rate", type=float, metavar="R")
    options.add("--item-features", "length of an item's vector", type=int, metavar="N")
    options.add("--user-features", "length of a user's vector", type=int, metavar="N")
    options.add("--attention-heads", "heads of the attention", type=int, metavar="N")
    options.add("--history-max", "items of the longest history", type=int, metavar="N")
    options.add("--uniform-negatives", "items drawn for each choice, all alike", type=int, metavar="N")
    options.add("--popular-negatives", "items drawn for each choice by popularity", type=int, metavar="N")
    options.add("--pooling", "weigh the history by attention, or all items alike", choices=["attention", "mean"])
    options.add("--seed", "of everything random", type=int)
    options.add("--threads", "of torch", type=int)
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard's event files into OUT as well")
    options.add("--resume", "go on from the last checkpoint in --out", action="store_true")
    options.add("--overwrite", "begin again where a run stands in --out", action="store_true")
    add_json(parser)
    add_together(parser)
    parser.set_defaults(run=resumable("recommender", _run))


def _run(options: argparse.Namespace) -> int:
    with needs("train"):
        from lineside_converters.training.recommendation.config import RecommenderConfig
        from lineside_converters.training.recommendation.model import DINModel
        from lineside_converters.training.recommendation.trainer import train_recommender

    if "out" not in options and options.config is None:
        options.out = OUT
    config = settings_of(options, RecommenderConfig)
    options.then = ()
    if (cluster := cluster_of(options)) is not None:
        learn_together("recommender", config, cluster, options)
        held = None
    else:
        with progress_of(options, config.out) as report:
            held = train_recommender(config, report).held_gauc
    bundle = DINModel.load(config.out).optimize(
        config.out / BUNDLE, name=config.out.resolve().name, overwrite=True, on_progress=inform
    )
    if held is None:
        inform(f"wrote {bundle.path}")
    elif options.json:
        print_json({"held_gauc": held, "bundle": str(bundle.path), "size_bytes": bundle.manifest.size_bytes})
    else:
        figures = ", ".join(f"{kind.removeprefix('gauc_')} {value:.4f}" for kind, value in held.items())
        show(f"GAUC on each user's last choice, by the kind of the other items: {figures}")
        show(f"wrote {config.out}: best.pt, float.onnx, tables.npz, training.json, curves.html, config.toml, {BUNDLE}")
    return 0
