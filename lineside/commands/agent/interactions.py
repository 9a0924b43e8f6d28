"""``lineside agent interactions``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.console import print_json, show
from lineside.options import Actions, add_agent_config, add_json
from lineside_runtime.wording import counted


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "interactions",
        help="write what was recommended and chosen on this device to a file",
        description="Writes what was recommended on this device, with its propensity, and what was chosen, for "
        "`lineside train recommender`. What was shown and not chosen has label 0. Also works while the agent runs. "
        "With a hub, `lineside fleet interactions` has those of all devices.",
    )
    add_agent_config(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .csv, .parquet or .jsonl to write")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from lineside_agent.config import read_config
    from lineside_agent.recommendation.interaction_log import export
    from lineside_runtime.files import ensure_writable

    ensure_writable(options.out)
    rows = export(read_config(options.config).folder, options.out)
    if options.json:
        print_json({"file": options.out, "rows": rows})
    else:
        show(f"wrote {counted(rows, 'row')} to {options.out}")
    return 0
