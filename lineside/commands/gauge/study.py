"""``lineside gauge study``."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.commands.gauge.measure import add_rules
from lineside.console import inform, print_json, show, show_frames
from lineside.options import add_json
from lineside_runtime.errors import ConfigError

if TYPE_CHECKING:
    from lineside_models.metrology.studies import Study
    from lineside_models.metrology.study_data import Reading, StudyData
    from lineside_models.verdict.rules import Rules

HELP = "analyse repeatability: Gage R&R, Cg and Cgk, Cp and Cpk"
DESCRIPTION = (
    "Analyses values of a CSV file with the columns part, value and, where there are several, operator; or frames in "
    "folders PART/ or OPERATOR/PART/ that a rule measures. Several parts, each measured several times: Gage R&R. One "
    "part: Cg and Cgk, with --reference and a tolerance. Many parts, each measured once: Cp and Cpk, with limits."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a CSV file, or a folder of frames with --rules and --rule")
    add_rules(parser, required=False)
    parser.add_argument("--rule", metavar="NAME", help="rule that measures the frames; its limits are the tolerance")
    parser.add_argument("--lower", type=float, metavar="X", help="lower limit of the tolerance")
    parser.add_argument("--upper", type=float, metavar="X", help="upper limit of the tolerance")
    parser.add_argument("--reference", type=float, metavar="X", help="known size of the part, for Cg and Cgk")
    parser.add_argument(
        "--method",
        choices=("anova", "range"),
        default="anova",
        help="Gage R&R by analysis of variance, or by averages and ranges as on AIAG's form (default: %(default)s)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.05,
        metavar="P",
        help="an interaction with a larger p is not part of the model (default: %(default)s; AIAG: 0.05)",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the values of frames as a CSV file")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Analyses and prints the report."""
    from lineside_models.metrology import study_page
    from lineside_models.metrology.study_data import crossed
    from lineside_runtime.files import ensure_writable, write_atomic

    for place in filter(None, (options.html, options.csv)):
        ensure_writable(place)
    readings, title = _readings(options)
    data = crossed(readings)
    study = _study(options, data)
    if options.csv is not None:
        write_atomic(options.csv, _csv(readings).encode())
    if options.html is not None:
        made_at = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        write_atomic(options.html, study_page.page(study, data, title, made_at).encode())
        inform(f"wrote {options.html}")
    if options.json:
        print_json({"verdict": study.verdict, "result": study})
    else:
        for line in study_page.lines(study):
            show(line)
    return 0


def _readings(options: argparse.Namespace) -> tuple[list[Reading], str]:
    """Returns the values and what was measured; the limits of a rule become those of the options."""
    from lineside_models.metrology.study_data import measured_readings, read_readings

    if not options.source.is_dir():
        return read_readings(options.source), options.source.stem
    rules = _rule(options)
    rule = rules.measure[0]
    if options.lower is None and options.upper is None:
        options.lower, options.upper = rule.min, rule.max
    progress = show_frames if sys.stderr.isatty() else lambda done, count: None
    return measured_readings(options.source, rules.measured, on_frame=progress), rule.name


def _rule(options: argparse.Namespace) -> Rules:
    """Returns the rules with the one that measures."""
    import msgspec

    from lineside.commands.gauge.measure import read_rules_file
    from lineside_models.metrology.rules import rule_named

    if options.rules is None:
        raise ConfigError("a folder of frames", expected="--rules FILE with the rule that measures them", action="")
    rules = read_rules_file(options.rules)
    if options.rule is None and len(rules.measure) > 1:
        expected = ", ".join(rule.name for rule in rules.measure)
        raise ConfigError("--rule", expected=f"one of {expected}", actual="nothing", action="")
    rule = rules.measure[0] if options.rule is None else rule_named(rules.measure, options.rule)
    return msgspec.structs.replace(rules, measure=(rule,))


def _study(options: argparse.Namespace, data: StudyData) -> Study:
    from lineside_models.metrology import studies

    operators, parts, trials = data.values.shape
    lower, upper = options.lower, options.upper
    both = lower is not None and upper is not None
    if both and lower >= upper:
        raise ConfigError(
            "--lower and --upper", expected="lower below upper", actual=f"{lower:g}, {upper:g}", action=""
        )
    tolerance = upper - lower if both else None
    if parts == 1:
        if options.reference is None or tolerance is None:
            expected = "--reference, --lower and --upper for one part"
            raise ConfigError("Cg and Cgk", expected=expected, action="For Gage R&R measure several parts.")
        return studies.gauge_capability(data.values.ravel(), reference=options.reference, tolerance=tolerance)
    if operators == trials == 1:
        return studies.process_capability(data.values.ravel(), lower=lower, upper=upper)
    if options.method == "range":
        return studies.repeatability_by_range(data.values, tolerance=tolerance)
    return studies.repeatability_by_anova(data.values, tolerance=tolerance, alpha=options.alpha)


def _csv(readings: list[Reading]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("operator", "part", "value"))
    writer.writerows(readings)
    return text.getvalue()
