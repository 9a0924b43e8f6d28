"""Selection and printing of results for ``lineside fleet results`` and ``lineside agent results``."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

from lineside.console import inform, one_line, show
from lineside.options import positive
from lineside_link.messages import MeasuredValue, ReadMark
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputError

VERDICTS = ("pass", "reject", "unsure", "fault")

SHOWN = 1000
"""Rows that are printed without ``--limit``; a file gets all."""


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose results and where they go."""
    parser.add_argument("--verdict", default="", choices=VERDICTS, help="only those with this verdict")
    parser.add_argument(
        "--defect",
        default="",
        metavar="TYPE",
        help="only those with a defect of this type, or a value of this rule that is not in tolerance",
    )
    parser.add_argument("--part", default="", metavar="ID", help="only results of this part")
    parser.add_argument("--bundle", default="", metavar="NAME[@VERSION]", help="only results of this bundle")
    add_period(parser, "captured")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to x.csv, x.parquet or x.jsonl instead")
    parser.add_argument("--with-frame", action="store_true", help="only results with a kept frame")
    parser.add_argument(
        "--unknown",
        action="store_true",
        help="also numbers that were reserved at a power cut and may have had no part",
    )
    parser.add_argument(
        "--frames",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="DIR",
        help="also copy the kept frames, named as in the column `frame`, to this folder (with --out: x-frames)",
    )


def add_period(parser: argparse.ArgumentParser, done: str) -> None:
    """Adds the options that choose a period and how many at most.

    Args:
        done: What happened at the time that counts.
    """
    when = "2026-11-24, 2026-11-24T06:00+01:00 (without an offset: UTC), or 90m, 2h, 7d ago"
    parser.add_argument("--since", metavar="TIME", help=f"{done} then or later: {when}")
    parser.add_argument("--until", metavar="TIME", help=f"{done} before")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help=f"the newest N (default: {SHOWN} on the screen, else all)"
    )


def period_of(options: argparse.Namespace) -> dict[str, int | None]:
    """Returns the period of `add_period` as fields of a query."""
    from lineside_link.result_table import moment

    return {
        "since_ns": moment(options.since) if options.since else None,
        "until_ns": moment(options.until) if options.until else None,
    }


def selection_of(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what `add_selection` gave, but the limit, as fields of a query."""
    return {
        "part_id": options.part,
        "verdict": options.verdict,
        "defect": options.defect,
        "bundle": options.bundle,
        **period_of(options),
        "with_frame": options.with_frame,
        "unknown": options.unknown,
    }


def limit_of(options: argparse.Namespace) -> int | None:
    """Returns how many results at most; ``None`` for all."""
    limit: int | None = options.limit
    return limit if limit is not None or options.out is not None else SHOWN


def frames_folder(options: argparse.Namespace) -> Path | None:
    """Returns the folder for the kept frames; ``None`` if they aren't asked for.

    Raises:
        InputError: Neither a folder nor a file beside which it would lie is given.
    """
    folder: Path | None = options.frames
    if folder != Path():
        return folder
    if options.out is None:
        raise InputError("--frames without a folder or --out", expected="the folder, or the file that it goes beside")
    beside: Path = options.out
    return beside.with_name(f"{beside.stem}-frames")


def print_results(found: list[dict[str, Any]], limit: int | None, *, device: bool) -> None:
    """Prints results as a table for people.

    Args:
        limit: How many were asked for.
        device: Whether to say which device saw the part.
    """
    name = f"{'device':<20}" if device else ""
    show(f"{'captured (UTC)':<25}{name}{'part':<24}{'verdict':<9}{'bundle':<28}{'frame':<10}found")
    for row in found:
        name = f"{row['device']:<20}" if device else ""
        frame = Path(row["frame"]).name[:8] or "-"
        judged = f"{one_line(row['part_id']):<24}{row['verdict']:<9}{row['bundle']:<28}{frame:<10}"
        show(f"{utc(row['captured_at_ns']):<25}{name}{judged}{one_line(row['error'] or _findings(row))}")
    if not found:
        inform("no result is like that")
    elif len(found) == limit:
        inform(f"the newest {limit}; --limit gives more, --out FILE all")


def utc(at_ns: int) -> str:
    """Returns a Unix time as a person reads it."""
    at = datetime.datetime.fromtimestamp(at_ns / 1e9, datetime.timezone.utc)
    return at.replace(tzinfo=None).isoformat(" ", "milliseconds")


def _findings(row: dict[str, Any]) -> str:
    """Returns the defects, the values out of tolerance and the marks that are not accepted."""
    values = decode_json(row["measurements"], type=list[MeasuredValue])
    out = [
        f"{one.name} {one.value:g} {one.unit}".rstrip()
        for one in values
        if one.value is not None and not one.in_tolerance
    ]
    marks = decode_json(row["readings"], type=list[ReadMark])
    wrong = [f"{one.name} {one.text or 'not read'}: {one.error}" for one in marks if not one.accepted]
    return ", ".join(filter(None, [_defects(row["detections"]), *out, *wrong]))


def _defects(detections: str) -> str:
    """Such as ``scratches 0.93 (2), pits 0.71``: the highest score of each type, and how many; the highest first."""
    scores: dict[str, list[float]] = {}
    for kind, score, *_ in decode_json(detections, type=list[tuple[str, float, Any, Any, Any, Any]]):
        scores.setdefault(kind, []).append(score)
    found = sorted(scores.items(), key=lambda one: -max(one[1]))
    named = (f"{kind} {max(all_):.2f}{f' ({len(all_)})' if len(all_) > 1 else ''}" for kind, all_ in found)
    return ", ".join(named)
