"""``lineside fleet interactions``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_hub, add_json
from lineside.result_listing import SHOWN, add_period, period_of, utc
from lineside_runtime.wording import counted


def add(actions: Any) -> None:
    parser = actions.add_parser(
        "interactions",
        help="what devices recommended and what was chosen there; into a file for training with --out",
        description="Prints what was shown and chosen on devices that recommend, oldest first, or writes it into a "
        "file that `lineside train recommender --data` reads, with the propensity of each shown item.",
    )
    add_hub(parser)
    parser.add_argument("--device", default="", help="only of this device")
    parser.add_argument("--user", default="", metavar="ID", help="only of this user")
    parser.add_argument("--item", default="", metavar="ID", help="only of this item")
    parser.add_argument("--bundle", default="", metavar="NAME[@VERSION]", help="only of answers of this bundle")
    parser.add_argument("--label", type=int, choices=(0, 1), help="1: only what was chosen; 0: only what was not")
    add_period(parser, "shown or chosen")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to x.csv, x.parquet or x.jsonl instead")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.fleet.listing import check_known
        from lineside_hub.results.interactions import InteractionQuery, export_interactions, interactions
    from lineside_link.interaction_table import EXPORT_TYPES

    config = folder_config(options.hub)
    if options.device:
        check_known(config, options.device)
    is_listing = options.out is None
    query = InteractionQuery(
        device=options.device,
        user_id=options.user,
        item_id=options.item,
        bundle=options.bundle,
        chosen=None if options.label is None else bool(options.label),
        limit=options.limit if options.limit is not None or not is_listing else SHOWN,
        **period_of(options),
    )
    if not is_listing:
        made = {"rows": export_interactions(config, query, options.out), "file": options.out}
        if options.json:
            print_json(made)
        else:
            inform(f"{counted(made['rows'], 'interaction')} in {options.out}")
        return 0
    found = [dict(zip(EXPORT_TYPES, row, strict=True)) for row in interactions(config, query)]
    if options.json:
        print_json({"interactions": found})
        return 0
    show(f"{'at (UTC)':<25}{'device':<20}{'user':<20}{'item':<24}{'':<8}{'propensity':<12}bundle")
    for row in found:
        what = "chosen" if row["label"] else "shown"
        share = "-" if row["propensity"] is None else f"{row['propensity']:.3g}"
        at = utc(int(row["time"] * 1e9))
        show(f"{at:<25}{row['device']:<20}{row['user']:<20}{row['item']:<24}{what:<8}{share:<12}{row['bundle']}")
    if not found:
        inform("no interaction is like that")
    elif len(found) == query.limit:
        inform(f"the newest {query.limit}; --limit gives more, --out FILE all")
    return 0
