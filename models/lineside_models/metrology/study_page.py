"""The report of a gauge study: lines for a terminal, and one HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from lineside_models.metrology.studies import (
    ACCEPTED,
    CONDITIONAL,
    LEAST_CATEGORIES,
    LEAST_INDEX,
    GaugeCapability,
    ProcessCapability,
    RepeatabilityStudy,
    Study,
    VarianceRow,
)
from lineside_models.metrology.study_data import StudyData
from lineside_runtime.reports import markup, svg
from lineside_runtime.wording import counted

_HEIGHT = 260
_BINS = 24

NOTES = {
    "repeatability": f"R&R up to {ACCEPTED:g} % is accepted, up to {CONDITIONAL:g} % for some uses, more is not; of "
    f"the tolerance where one is given, else of the total variation, with {LEAST_CATEGORIES} distinct categories or "
    "more (AIAG, Measurement Systems Analysis, 4th edition).",
    "gauge": f"Cg and Cgk are to be at least {LEAST_INDEX:g}: 20 % of the tolerance against six standard deviations.",
    "process": f"Cpk is to be at least {LEAST_INDEX:g}. The standard deviation is of all values, so that Cp and Cpk "
    "are those that are also called Pp and Ppk (NIST e-Handbook, 6.1.6). The interval holds for normally distributed "
    "values.",
}
"""What a reader must know of the limits, by the study's tag."""


def figures(study: Study) -> list[tuple[str, str]]:
    """Returns the figures that decide, each with its meaning, the verdict first."""
    if isinstance(study, RepeatabilityStudy):
        against = "total variation" if study.tolerance is None else "tolerance"
        return [
            (study.verdict, "verdict"),
            (f"{study.rr_percent:.1f} %", f"R&R of the {against}"),
            (str(study.categories), "distinct categories"),
        ]
    if isinstance(study, GaugeCapability):
        return [(study.verdict, "verdict"), (f"{study.cg:.2f}", "Cg"), (f"{study.cgk:.2f}", "Cgk")]
    low, high = study.cpk_interval
    cp = [] if study.cp is None else [(f"{study.cp:.2f}", "Cp")]
    return [(study.verdict, "verdict"), (f"{study.cpk:.2f}", f"Cpk, 95 % interval {low:.2f} to {high:.2f}"), *cp]


def facts(study: Study) -> dict[str, str]:
    """Returns the subject of the study and its other figures, as text."""
    if isinstance(study, RepeatabilityStudy):
        method = "analysis of variance" if study.method == "anova" else "average and range"
        term = "not significant: part of the repeatability" if study.pooled else "part of the model"
        return {
            "data": ", ".join(counted(getattr(study, f"{noun}s"), noun) for noun in ("operator", "part", "trial")),
            "method": method,
            "interaction": term if study.anova and study.operators > 1 else "",
            "tolerance": "" if study.tolerance is None else f"{study.tolerance:g}",
        }
    spread = {"values": str(study.count), "mean": f"{study.mean:.6g}", "standard deviation": f"{study.sd:.4g}"}
    if isinstance(study, GaugeCapability):
        bias = {"reference": f"{study.reference:g}", "bias": f"{study.bias:.4g}", "tolerance": f"{study.tolerance:g}"}
        return {**spread, **bias}
    limits = {name: f"{side:g}" for name, side in (("lower", study.lower), ("upper", study.upper)) if side is not None}
    return {**spread, **limits, "outside the limits": str(study.outside)}


def component_rows(study: RepeatabilityStudy) -> list[list[str]]:
    """Returns the rows of the table of components, below `component_heads`."""
    return [
        [
            one.name,
            f"{one.sd:.6g}",
            f"{one.contribution_percent:.2f}",
            f"{one.study_percent:.2f}",
            *([] if one.tolerance_percent is None else [f"{one.tolerance_percent:.2f}"]),
        ]
        for one in study.components
    ]


def component_heads(study: RepeatabilityStudy) -> list[str]:
    """Returns the heads of the table of components."""
    heads = ["source", "standard deviation", "% of variance", "% of total sd"]
    return heads if study.tolerance is None else [*heads, "% of tolerance"]


VARIANCE_HEADS = ("source", "df", "sum of squares", "mean square", "F", "p")


def variance_rows(rows: Sequence[VarianceRow]) -> list[list[str]]:
    """Returns the rows of the table of the analysis of variance."""
    return [
        [
            row.source,
            str(row.df),
            f"{row.ss:.6g}",
            *("" if value is None else f"{value:.{digits}g}" for value, digits in ((row.ms, 6), (row.f, 5))),
            "" if row.p is None else f"{row.p:.4f}",
        ]
        for row in rows
    ]


def lines(study: Study) -> Iterator[str]:
    """Yields the lines of the report for a terminal."""
    yield from (f"{name}: {value}" for name, value in facts(study).items() if value)
    if isinstance(study, RepeatabilityStudy):
        yield ""
        yield from _aligned(component_heads(study), component_rows(study))
        if study.anova:
            yield ""
            yield from _aligned(VARIANCE_HEADS, variance_rows(study.anova))
    yield ""
    yield from (f"{meaning}: {figure}" for figure, meaning in figures(study))


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        first, *rest = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join((first, *rest)).rstrip()


def page(study: Study, data: StudyData, title: str, made_at: str) -> str:
    """Returns the report as one HTML page.

    Args:
        made_at: When the study was analysed.
    """
    charts = _repeatability_charts(study, data) if isinstance(study, RepeatabilityStudy) else [_spread(study, data)]
    body = [
        markup.header(f"Gauge study: {title}", made_at),
        markup.tiles(figures(study)),
        markup.section("Study", markup.facts(facts(study)), NOTES[str(study.__struct_config__.tag)]),
        *charts,
    ]
    return markup.document(f"Gauge study: {title}", "\n".join(body))


def _repeatability_charts(study: RepeatabilityStudy, data: StudyData) -> Iterator[str]:
    shown = [one for one in study.components if one.name in ("R&R", "repeatability", "reproducibility", "part")]
    bars = svg.bars([(one.name, one.study_percent, f"{one.study_percent:.1f} %") for one in shown], "Components")
    table = markup.table(component_heads(study), component_rows(study))
    yield markup.section(
        "Where the variation comes from",
        bars + table,
        "Bars: share of the total standard deviation; they do not add up to 100 %.",
    )
    names = markup.legend(data.operators) if len(data.operators) > 1 else ""
    yield markup.section(
        "Values by part", names + _values(data), "One dot a value. The curve joins the means of an operator."
    )
    yield markup.section(
        "Ranges by part",
        names + _ranges(data),
        "Largest less smallest value of an operator on a part. A range above the dashed line is unlikely if all trials "
        "repeat equally well: look for its cause and repeat these trials.",
    )
    if study.anova:
        table = markup.table(VARIANCE_HEADS, variance_rows(study.anova))
        yield markup.section("Analysis of variance", table, "With all terms, operators and parts as random effects.")


def _values(data: StudyData) -> str:
    parts = len(data.parts)
    low, high = svg.widened(float(data.values.min()), float(data.values.max()))
    plot = svg.Plot((-0.5, parts - 0.5), (low, high), bottom=_HEIGHT - 40)
    drawn = [plot.rows(svg.round_marks(low, high, 6)), *_part_names(plot, data)]
    count = len(data.operators)
    for operator, name in enumerate(data.operators):
        colour = operator % svg.COLOURS
        aside = (operator - (count - 1) / 2) * 0.5 / count
        drawn.append(
            plot.curve(((p + aside, float(data.values[operator, p].mean())) for p in range(parts)), f"l{colour}")
        )
        for part in range(parts):
            for value in data.values[operator, part].tolist():
                words = f"{name} {data.parts[part]}: {value:g}".strip()
                drawn.append(svg.dot(plot.x(part + aside), plot.y(value), f"c{colour}", 3.2, words))
    return svg.svg(_HEIGHT, "Values by part", drawn)


def _ranges(data: StudyData) -> str:
    from lineside_models.metrology.distributions import mean_range, mean_square_range

    ranges = np.ptp(data.values, axis=2)
    trials, parts = data.values.shape[2], len(data.parts)
    width = mean_range(trials)
    above = 3 * math.sqrt(mean_square_range(trials) - width**2) / width
    limit = float(ranges.mean()) * (1 + above)  # D4 of the control charts
    high = svg.widened(0.0, max(float(ranges.max()), limit))[1]
    plot = svg.Plot((-0.5, parts - 0.5), (0.0, high), bottom=_HEIGHT - 40)
    drawn = [plot.rows(svg.round_marks(0.0, high, 5)), *_part_names(plot, data)]
    drawn.append(svg.line(plot.left, plot.y(limit), plot.right, plot.y(limit), "limit", f"limit {limit:.4g}"))
    for operator, name in enumerate(data.operators):
        colour = operator % svg.COLOURS
        points = [(float(part), float(ranges[operator, part])) for part in range(parts)]
        drawn.append(plot.curve(points, f"l{colour}"))
        for part, value in points:
            words = f"{name} {data.parts[int(part)]}: {value:g}".strip()
            drawn.append(svg.dot(plot.x(part), plot.y(value), f"c{colour}", 3.5, words))
    return svg.svg(_HEIGHT, "Ranges by part", drawn)


def _part_names(plot: svg.Plot, data: StudyData) -> Iterator[str]:
    every = max(1, math.ceil(len(data.parts) / 25))
    for place, name in enumerate(data.parts[::every]):
        yield svg.text(plot.x(place * every), plot.bottom + 18, name, anchor="middle")
    yield svg.text((plot.left + plot.right) / 2, plot.bottom + 36, "part", anchor="middle")


def _spread(study: GaugeCapability | ProcessCapability, data: StudyData) -> str:
    values = data.values.ravel()
    if isinstance(study, GaugeCapability):
        half = 0.1 * study.tolerance
        limits = {"reference - 10 % of tolerance": study.reference - half, "+ 10 %": study.reference + half}
    else:
        limits = {
            name: side
            for name, side in (("lower limit", study.lower), ("upper limit", study.upper))
            if side is not None
        }
    ends = [*limits.values(), float(values.min()), float(values.max())]
    low, high = svg.widened(min(ends), max(ends))
    counts, edges = np.histogram(values, bins=min(_BINS, max(6, round(math.sqrt(len(values))))))
    plot = svg.Plot((low, high), (0.0, 1.15 * float(counts.max())), bottom=_HEIGHT - 40)
    drawn = [plot.columns(svg.round_marks(low, high, 8)), plot.rows(svg.round_marks(0, float(counts.max()), 5))]
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        width = max(1.0, plot.x(right) - plot.x(left) - 1)
        top = plot.y(count)
        drawn.append(
            svg.column(plot.x(left), top, width, plot.bottom - top, "bar", f"{count} from {left:g} to {right:g}")
        )
    for name, value in limits.items():
        drawn.append(plot.upright(value, "limit", f"{name} {value:g}"))
        drawn.append(svg.text(plot.x(value), plot.top - 2, f"{value:g}", anchor="middle", css="limit"))
    drawn.append(plot.upright(study.mean, "strong", f"mean {study.mean:g}"))
    run = markup.section("Values in their order", _run_chart(values.tolist(), limits, study.mean))
    note = f"Dashed: {escape(' and '.join(limits))}. Line: the mean."
    return markup.section("Distribution", svg.svg(_HEIGHT, "Distribution of the values", drawn), note) + run


def _run_chart(values: Sequence[float], limits: dict[str, float], mean: float) -> str:
    low, high = svg.widened(min([*values, *limits.values()]), max([*values, *limits.values()]))
    plot = svg.Plot((0.0, len(values) + 1.0), (low, high), bottom=_HEIGHT - 40)
    drawn = [plot.rows(svg.round_marks(low, high, 6)), plot.columns(svg.round_marks(1, max(2, len(values)), 10))]
    drawn += [svg.line(plot.left, plot.y(side), plot.right, plot.y(side), "limit") for side in limits.values()]
    drawn.append(svg.line(plot.left, plot.y(mean), plot.right, plot.y(mean), "strong", f"mean {mean:g}"))
    drawn.append(plot.curve(enumerate(values, 1), "l0"))
    drawn += [svg.dot(plot.x(number), plot.y(value), "c0", 3, f"{value:g}") for number, value in enumerate(values, 1)]
    return svg.svg(_HEIGHT, "Values in their order", drawn)
