"""``lineside fleet results``."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.commands.output import add_json, print_json, say, show
from lineside.extras import needs
from lineside_runtime.errors import InputError

if TYPE_CHECKING:
    from lineside_hub.config import HubConfig
    from lineside_hub.queries import Query

SHOWN = 1000
"""Rows that are printed without ``--limit``; a file gets all."""


def add(actions: Any) -> None:
    """Adds the action."""
    parser = actions.add_parser(
        "results",
        help="what the line saw: by part, device, bundle and time; into a file with --out",
        description="Prints results, oldest first, or writes them into a file.",
    )
    parser.add_argument("--hub", type=Path, required=True, metavar="DIR", help="the hub's folder, with its hub.toml")
    parser.add_argument("--part", default="", metavar="ID", help="only of this part")
    parser.add_argument("--device", default="", help="only of this device")
    parser.add_argument("--bundle", default="", metavar="NAME[@VERSION]", help="only those that it judged")
    when = "2026-11-24, 2026-11-24T06:00+01:00 (without an offset: UTC), or 90m, 2h, 7d ago"
    parser.add_argument("--since", metavar="TIME", help=f"captured then or later: {when}")
    parser.add_argument("--until", metavar="TIME", help="captured before")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"the newest N (default: {SHOWN} on the screen, else all)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write into x.csv or x.parquet instead")
    parser.add_argument("--with-frame", action="store_true", help="only those of which a frame was kept")
    parser.add_argument(
        "--frames",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="DIR",
        help="the kept frames too, named as in the column `frame`, into this folder (with --out: x-frames)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints or exports."""
    with needs("convert"):
        from lineside_hub.config import load_config
        from lineside_hub.queries import COLUMNS, Query, moment, results
        from lineside_hub.secure import CONFIG_NAME
    config = load_config(options.hub / CONFIG_NAME)
    limit = options.limit if options.limit is not None or options.out is not None else SHOWN
    query = Query(
        part_id=options.part,
        device=options.device,
        bundle=options.bundle,
        since_ns=moment(options.since) if options.since else None,
        until_ns=moment(options.until) if options.until else None,
        limit=limit,
        with_frame=options.with_frame,
    )
    if options.frames == Path() and options.out is None:
        raise InputError("--frames without a folder or --out", expected="the folder, or the file that it goes beside")
    if options.out is not None or options.frames is not None:
        return _export(options, config, query)
    found = [dict(zip(COLUMNS, row, strict=True)) for row in results(config, query)]
    if options.json:
        print_json({"results": found})
        return 0
    _print(found, query)
    return 0


def _export(options: argparse.Namespace, config: HubConfig, query: Query) -> int:
    from lineside_hub.queries import export, export_frames

    made: dict[str, Any] = {}
    if options.out is not None:
        made = {"rows": export(config, query, options.out), "file": options.out}
    frames = export_frames(config, query, _frames_folder(options)) if options.frames is not None else None
    if options.json:
        print_json(made | ({"frames": frames} if frames is not None else {}))
        return 0
    if made:
        say(f"{made['rows']} results in {options.out}")
    if frames is not None:
        gone = f"; {frames.missing} more are gone" if frames.missing else ""
        say(f"{frames.frames} frames in {frames.folder}{gone}")
    return 0


def _frames_folder(options: argparse.Namespace) -> Path:
    named: Path = options.frames
    beside: Path | None = options.out
    return beside.with_name(f"{beside.stem}-frames") if beside is not None and named == Path() else named


def _print(found: list[dict[str, Any]], query: Query) -> None:
    show(f"{'captured (UTC)':<25}{'device':<20}{'part':<24}{'verdict':<9}{'bundle':<28}{'frame':<10}detections")
    for row in found:
        at = datetime.datetime.fromtimestamp(row["captured_at_ns"] / 1e9, datetime.timezone.utc)
        when = at.replace(tzinfo=None).isoformat(" ", "milliseconds")
        said = row["error"] or row["detections"]
        judged = f"{row['part_id']:<24}{row['verdict']:<9}{row['bundle']:<28}{row['frame'][:8] or '-':<10}"
        show(f"{when:<25}{row['device']:<20}{judged}{said}")
    if len(found) == query.limit:
        say(f"the newest {query.limit}; --limit gives more, --out FILE all")
