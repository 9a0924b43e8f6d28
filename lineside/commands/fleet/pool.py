"""``lineside fleet pool key|run|compare|join``."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_hub, add_json, add_pool, positive
from lineside_runtime.errors import ConfigError
from lineside_runtime.files import ensure_writable, write_atomic

if TYPE_CHECKING:
    from lineside_hub.federation.pool_config import PoolConfig
    from lineside_hub.federation.quality_counts import QualityQuestion, QualityReport

BAR_WIDTH = 30
COMPARED = {
    "reject-rate": "share of rejected parts",
    "false-reject-rate": "share of false rejects among reviewed ones",
    "type": "number of parts",
}


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pool = actions.add_parser(
        "pool",
        help="add up counts of several plants without showing them",
        description="Adds up verdicts, defect types, reviews and scores of several plants' hubs. Nobody, the "
        "coordinator included, learns more than the sums. docs/privacy.md describes pool.toml and what leaks anyway.",
    )
    kinds = pool.add_subparsers(metavar="ACTION", required=True)
    key = kinds.add_parser("key", help="make the key of a plant or of the coordinator, and print its public part")
    key.add_argument("--out", type=Path, required=True, metavar="FILE", help="for the private key")
    key.set_defaults(run=_key)
    join = kinds.add_parser("join", help="answer the coordinator's rounds for this plant, until Ctrl-C")
    add_pool(join)
    join.add_argument("--plant", required=True, metavar="NAME", help="of this plant, as in pool.toml")
    join.add_argument("--rounds", type=positive, metavar="N", help="end after so many answered rounds")
    add_hub(join)
    join.set_defaults(run=_join)
    run = kinds.add_parser("run", help="ask the plants for the sums of some days, as the coordinator")
    _add_question(run)
    run.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="so long each of five steps waits for plants that do not answer (default: %(default)g)",
    )
    run.add_argument("--out", type=Path, metavar="FILE", help="write the report as JSON, too")
    add_json(run)
    run.set_defaults(run=_run)
    compare = kinds.add_parser(
        "compare",
        help="ask which plant or type is worst, without any count, as the coordinator",
        description="All plants compute together which of them, or which defect type, is worst. Nobody learns a count, "
        "the coordinator included; every plant learns the answer. All plants of pool.toml must be there.",
    )
    _add_question(compare)
    compare.add_argument(
        "--by",
        required=True,
        choices=["reject-rate", "false-reject-rate", "type"],
        help="the plant with the largest share of rejects, or of false rejects among reviewed ones; or the type of "
        "most parts of all plants",
    )
    compare.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="wait so long for the plants (default: %(default)g)",
    )
    add_json(compare)
    compare.set_defaults(run=_compare)


def _add_question(parser: argparse.ArgumentParser) -> None:
    add_pool(parser)
    parser.add_argument("--since", type=_day, required=True, metavar="YYYY-MM-DD", help="first day, UTC")
    parser.add_argument("--days", type=positive, default=7, metavar="N", help="default: %(default)s")


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a day such as 2026-11-01, not {text!r}") from error


def _key(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_link.aggregation.identity import make_key, public_hex, write_key
    if options.out.exists():
        raise ConfigError(
            "--out", expected="a new file", actual=options.out, action="Keep the old key, or name another file."
        )
    made = make_key()
    write_key(made, options.out)
    show(public_hex(made))
    inform(f"private key in {options.out}; the line above goes into pool.toml")
    return 0


def _join(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.federation.pool_config import load_pool
        from lineside_hub.federation.pool_rounds import PlantService
        from lineside_link.aggregation.identity import read_key
    service = PlantService(
        load_pool(options.pool), folder_config(options.hub), options.plant, read_key(options.key), on_progress=inform
    )
    service.start()
    inform(f"{options.plant} waits for rounds")
    try:
        service.wait(options.rounds or 1 << 62)
    finally:
        service.close()
    return 0


def _run(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.federation.pool_config import load_pool
        from lineside_hub.federation.pool_rounds import run_round
        from lineside_link.aggregation.identity import read_key
    if options.out is not None:
        ensure_writable(options.out)
    pool = load_pool(options.pool)
    question = _question(options, pool)
    report = run_round(pool, read_key(options.key), question, step_timeout_s=options.timeout, on_progress=inform)
    if options.out is not None:
        write_atomic(options.out, msgspec.json.format(msgspec.json.encode(report), indent=1))
    if options.json:
        print_json(report)
    else:
        _print(report)
    return 0


def _compare(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.federation.comparison.rounds import run_comparison
        from lineside_hub.federation.pool_config import load_pool
        from lineside_link.aggregation.identity import read_key
    pool = load_pool(options.pool)
    found = run_comparison(
        pool,
        read_key(options.key),
        _question(options, pool),
        options.by,
        timeout_s=options.timeout,
        on_progress=inform,
    )
    if options.json:
        print_json(found)
    else:
        show(f"{found.worst} has the largest {COMPARED[options.by]} of {len(found.plants)} plants")
    return 0


def _question(options: argparse.Namespace, pool: PoolConfig) -> QualityQuestion:
    from lineside_hub.federation.quality_counts import DAYS_MAX, QualityQuestion

    if options.days > DAYS_MAX:
        action = "Ask for fewer days, several times."
        raise ConfigError("--days", expected=f"at most {DAYS_MAX}", actual=options.days, action=action)
    return QualityQuestion(since=options.since, days=options.days, types=pool.types)


def _print(report: QualityReport) -> None:
    show(f"{len(report.plants)} plants: {', '.join(report.plants)}")
    show(f"{report.parts} parts, {report.rejected} rejected ({_percent(report.reject_rate)}), {report.faults} faults")
    show(f"false rejects: {_percent(report.false_reject_share)} of {report.reviews['rejects reviewed']} reviewed")
    show(f"escapes: {_percent(report.escape_share)} of {report.reviews['passes reviewed']} reviewed")
    show("day          parts  rejected            limits")
    for day in report.days:
        limits = f"{_percent(day.low)} to {_percent(day.high)}"
        mark = "" if day.in_control else "  outside the limits"
        show(f"{day.day}  {day.parts:>7}  {_percent(day.rate):>8}  {limits:>16}{mark}")
    most = max(1, *(row.parts for row in report.types))
    for row in report.types:
        bar = "#" * round(BAR_WIDTH * row.parts / most)
        show(f"{row.type:<20} {row.parts:>8} {_percent(row.cumulative):>8}  {bar}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
