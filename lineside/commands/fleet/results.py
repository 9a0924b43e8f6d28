"""``lineside fleet results``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.console import inform, print_json
from lineside.extras import needs
from lineside.options import add_hub, add_json
from lineside.result_listing import add_selection, frames_folder, limit_of, print_results, selection_of
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside_hub.config import HubConfig
    from lineside_hub.results.queries import Query


def add(actions: Any) -> None:
    parser = actions.add_parser(
        "results",
        help="results by part, device, bundle, verdict, defect and time; into a file with --out",
        description="Prints results, oldest first, or writes them into a file.",
    )
    add_hub(parser)
    parser.add_argument("--device", default="", help="only of this device")
    add_selection(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.fleet.listing import check_known
        from lineside_hub.results.queries import Query, results
    from lineside_link.result_table import COLUMNS

    config = folder_config(options.hub)
    if options.device:
        check_known(config, options.device)
    query = Query(**selection_of(options), device=options.device, limit=limit_of(options))
    folder = frames_folder(options)
    if options.out is not None or folder is not None:
        return _export(options, config, query, folder)
    found = [dict(zip(COLUMNS, row, strict=True)) for row in results(config, query)]
    if options.json:
        print_json({"results": found})
        return 0
    print_results(found, query.limit, device=True)
    return 0


def _export(options: argparse.Namespace, config: HubConfig, query: Query, folder: Path | None) -> int:
    from lineside_hub.results.queries import export, export_frames

    made: dict[str, Any] = {}
    if options.out is not None:
        made = {"rows": export(config, query, options.out), "file": options.out}
    frames = export_frames(config, query, folder) if folder is not None else None
    if options.json:
        print_json(made | ({"frames": frames} if frames is not None else {}))
        return 0
    if made:
        inform(f"{counted(made['rows'], 'result')} in {options.out}")
    if frames is not None:
        gone = f"; {frames.missing} more are gone" if frames.missing else ""
        inform(f"{counted(frames.frames, 'frame')} in {frames.folder}{gone}")
    return 0
