"""Studies of a gauge: repeatability and reproducibility (Gage R&R), Cg and Cgk, and Cp and Cpk of the process.

Sources: AIAG, "Measurement Systems Analysis", 4th edition (2010), chapter III B, for R&R by variance analysis and by
average and range; Bosch booklet 10 and Minitab for Cg and Cgk (20 % of the tolerance against 6 s); NIST/SEMATECH
e-Handbook of Statistical Methods, 6.1.6, for Cp and Cpk and their intervals.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.metrology.distributions import f_tail, mean_range, mean_square_range
from lineside_runtime.errors import ConfigError

Floats = npt.NDArray[np.float64]
Method = Literal["anova", "range"]

ALPHA = 0.05
"""Significance from which on the interaction of operator and part is part of the model."""

ACCEPTED, CONDITIONAL = 10.0, 30.0
"""Percent of R&R up to which a gauge is accepted, and accepted for some uses (AIAG)."""

LEAST_CATEGORIES = 5
LEAST_INDEX = 1.33
"""Least Cg, Cgk and Cpk of a capable gauge and process."""

_CATEGORIES = 1.41
_ROUNDING = 1e-12
"""Share of the total sum of squares below which another one is nothing but rounding."""

_STUDY_WIDTH = 6.0
_CG_SHARE = 0.2
_Z95 = 1.959964


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One source of variation.

    Attributes:
        name: ``repeatability``, ``operator``, ``interaction``, ``reproducibility``, ``R&R``, ``part`` or ``total``.
        sd: Standard deviation in the unit of the values.
        contribution_percent: Share of the total variance.
        study_percent: Share of the total standard deviation.
        tolerance_percent: Six standard deviations as a share of the tolerance; ``None`` without one.
    """

    name: str
    sd: float
    contribution_percent: float
    study_percent: float
    tolerance_percent: float | None = None


class VarianceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the analysis of variance.

    Attributes:
        f: Ratio to the mean square below it; ``None`` for the error and the total, and where that mean square is 0.
        p: Chance of so large a ratio; 0 where only the mean square below it is 0, ``None`` where both are.
    """

    source: str
    df: int
    ss: float
    ms: float | None = None
    f: float | None = None
    p: float | None = None


class RepeatabilityStudy(msgspec.Struct, frozen=True, kw_only=True, tag="repeatability", tag_field="study"):
    """Gage R&R: how much of the spread of values comes from the gauge and its operators.

    Attributes:
        method: ``anova`` or ``range``.
        operators: Number of operators; with one there is no reproducibility.
        trials: Times that each operator measured each part.
        tolerance: Width of the tolerance; ``None`` if not given.
        components: Sources of variation.
        categories: Number of distinct categories: how many groups of parts the gauge tells apart.
        anova: Rows of the analysis with all terms; empty for ``range``.
        pooled: Whether the interaction was not significant and went into the repeatability.
    """

    method: Method
    operators: int
    parts: int
    trials: int
    tolerance: float | None = None
    components: tuple[Component, ...]
    categories: int
    anova: tuple[VarianceRow, ...] = ()
    pooled: bool = False

    @property
    def rr_percent(self) -> float:
        """R&R in percent of the tolerance, or of the total variation without one."""
        rr = self.component("R&R")
        return rr.study_percent if rr.tolerance_percent is None else rr.tolerance_percent

    @property
    def verdict(self) -> str:
        """``accepted``, ``conditional`` or ``rejected``, by AIAG's limits.

        Without a tolerance the parts are the measure, so that the gauge must also tell enough groups of them apart.
        """
        categories = LEAST_CATEGORIES if self.tolerance is not None else self.categories
        if self.rr_percent > CONDITIONAL or categories < 2:
            return "rejected"
        return "accepted" if self.rr_percent <= ACCEPTED and categories >= LEAST_CATEGORIES else "conditional"

    def component(self, name: str) -> Component:
        """Returns a component by its name."""
        return next(one for one in self.components if one.name == name)


class GaugeCapability(msgspec.Struct, frozen=True, kw_only=True, tag="gauge", tag_field="study"):
    """Cg and Cgk: one part of known size, measured many times.

    Attributes:
        reference: Known size of the part.
        bias: Mean less reference.
        cg: 20 % of the tolerance over six standard deviations.
        cgk: Half of that, less the bias, over three standard deviations.
    """

    count: int
    reference: float
    tolerance: float
    mean: float
    sd: float
    bias: float
    cg: float
    cgk: float

    @property
    def verdict(self) -> str:
        """``accepted`` if both indices reach `LEAST_INDEX`."""
        return "accepted" if min(self.cg, self.cgk) >= LEAST_INDEX else "rejected"


class ProcessCapability(msgspec.Struct, frozen=True, kw_only=True, tag="process", tag_field="study"):
    """Cp and Cpk: many parts of a process, each measured once, against their limits.

    Attributes:
        lower: Lower limit; ``None`` for none.
        upper: Upper limit; ``None`` for none.
        sd: Of all values, so that slow changes of the process count (also called Pp and Ppk).
        cp: Tolerance over six standard deviations; ``None`` with one limit.
        cpk: Distance of the mean to the nearer limit over three standard deviations.
        cpk_interval: 95 % interval of ``cpk``.
    """

    count: int
    lower: float | None
    upper: float | None
    mean: float
    sd: float
    cp: float | None
    cpk: float
    cpk_interval: tuple[float, float]
    outside: int

    @property
    def verdict(self) -> str:
        """``accepted`` if Cpk reaches `LEAST_INDEX`."""
        return "accepted" if self.cpk >= LEAST_INDEX else "rejected"


Study = RepeatabilityStudy | GaugeCapability | ProcessCapability


def repeatability_by_anova(
    values: Floats, *, tolerance: float | None = None, alpha: float = ALPHA
) -> RepeatabilityStudy:
    """Analyses a crossed study by a two-way analysis of variance with random effects.

    Args:
        values: ``(operators, parts, trials)``.
        alpha: An interaction with a larger p goes into the repeatability.

    Raises:
        ConfigError: There are fewer than two parts or two trials, or all values are the same.
    """
    operators, parts, trials = _checked(values)
    mean = values.mean()
    of_operator, of_part, of_cell = values.mean(axis=(1, 2)), values.mean(axis=(0, 2)), values.mean(axis=2)
    ss_operator = parts * trials * float(((of_operator - mean) ** 2).sum())
    ss_part = operators * trials * float(((of_part - mean) ** 2).sum())
    ss_total = float(((values - mean) ** 2).sum())
    ss_error = _unrounded(float(((values - of_cell[..., None]) ** 2).sum()), ss_total)
    ss_both = _unrounded(ss_total - ss_operator - ss_part - ss_error, ss_total)
    df_operator, df_part = operators - 1, parts - 1
    df_both, df_error = df_operator * df_part, operators * parts * (trials - 1)
    ms_error = ss_error / df_error
    interaction = _row("interaction", df_both, ss_both, ms_error, df_error)
    pooled = df_both > 0 and (interaction.p is None or interaction.p > alpha)
    repeatability = (ss_both + ss_error) / (df_both + df_error) if pooled else ms_error
    ms_both = repeatability if pooled or not df_both else ss_both / df_both
    ms_operator = ss_operator / df_operator if df_operator else ms_both
    variances = {
        "repeatability": repeatability,
        "operator": max((ms_operator - ms_both) / (parts * trials), 0.0),
        "interaction": 0.0 if pooled else max((ms_both - ms_error) / trials, 0.0),
        "part": max((ss_part / df_part - ms_both) / (operators * trials), 0.0),
    }
    against = (ss_both / df_both, df_both) if df_both else (ms_error, df_error)
    rows = [
        _row("operator", df_operator, ss_operator, *against),
        _row("part", df_part, ss_part, *against),
        interaction,
        VarianceRow(source="repeatability", df=df_error, ss=ss_error, ms=ms_error),
        VarianceRow(source="total", df=values.size - 1, ss=ss_total),
    ]
    anova = tuple(row for row in rows if row.df)
    return _repeatability("anova", values.shape, variances, tolerance, anova=anova, pooled=pooled)


def repeatability_by_range(values: Floats, *, tolerance: float | None = None) -> RepeatabilityStudy:
    """Analyses a crossed study by averages and ranges, as on AIAG's form.

    Args:
        values: ``(operators, parts, trials)``.

    Raises:
        ConfigError: As `repeatability_by_anova`, or all averages are the same and no trial differs from another.
    """
    operators, parts, trials = _checked(values)
    repeatability = float(np.ptp(values, axis=2).mean()) / mean_range(trials)
    operator = 0.0
    if operators > 1:
        between = float(np.ptp(values.mean(axis=(1, 2)))) / math.sqrt(mean_square_range(operators))
        operator = math.sqrt(max(between**2 - repeatability**2 / (parts * trials), 0.0))
    part = float(np.ptp(values.mean(axis=(0, 2)))) / math.sqrt(mean_square_range(parts))
    if not repeatability and not operator and not part:
        raise ConfigError(
            "averages and ranges find no variation",
            expected="averages of parts or of operators, or trials, that differ",
            action="Analyse the study by the analysis of variance.",
        )
    variances = {"repeatability": repeatability**2, "operator": operator**2, "interaction": 0.0, "part": part**2}
    return _repeatability("range", values.shape, variances, tolerance)


def gauge_capability(values: Floats, *, reference: float, tolerance: float) -> GaugeCapability:
    """Returns Cg and Cgk of repeated measurements of one part.

    Args:
        values: ``(N,)``, 10 or more; 25 to 50 are usual.
        reference: Known size of the part.

    Raises:
        ConfigError: There are too few values, or all are the same.
    """
    mean, sd = _spread(values, least=10)
    bias = mean - reference
    half = _CG_SHARE * tolerance / 2
    return GaugeCapability(
        count=len(values),
        reference=reference,
        tolerance=tolerance,
        mean=mean,
        sd=sd,
        bias=bias,
        cg=half / (3 * sd),
        cgk=(half - abs(bias)) / (3 * sd),
    )


def process_capability(values: Floats, *, lower: float | None = None, upper: float | None = None) -> ProcessCapability:
    """Returns Cp and Cpk of single measurements of many parts.

    Args:
        values: ``(N,)``, 10 or more; 100 are usual.
        upper: Upper limit; one of both is needed.

    Raises:
        ConfigError: There are too few values, all are the same, or there is no limit.
    """
    if lower is None and upper is None:
        raise ConfigError(
            "capability needs a limit",
            expected="lower (--lower), upper (--upper) or both",
            action="Give the limits of the drawing's tolerance.",
        )
    mean, sd = _spread(values, least=10)
    sides = ([] if upper is None else [(upper - mean) / (3 * sd)]) + (
        [] if lower is None else [(mean - lower) / (3 * sd)]
    )
    cpk, count = min(sides), len(values)
    margin = _Z95 * math.sqrt(1 / (9 * count) + cpk**2 / (2 * (count - 1)))
    outside = sum(
        (lower is not None and value < lower) or (upper is not None and value > upper) for value in values.tolist()
    )
    return ProcessCapability(
        count=count,
        lower=lower,
        upper=upper,
        mean=mean,
        sd=sd,
        cp=None if lower is None or upper is None else (upper - lower) / (6 * sd),
        cpk=cpk,
        cpk_interval=(cpk - margin, cpk + margin),
        outside=outside,
    )


def _checked(values: Floats) -> tuple[int, int, int]:
    if values.ndim != 3 or values.shape[1] < 2 or values.shape[2] < 2 or not np.isfinite(values).all():
        raise ConfigError(
            "a study of repeatability",
            expected="2 or more parts, each measured 2 or more times by each operator; 10 parts and 3 times are usual",
            actual=f"operators, parts, trials {values.shape}",
            action="",
        )
    if not np.ptp(values):
        raise ConfigError("all values of the study are the same", expected="a gauge that resolves the parts", action="")
    operators, parts, trials = values.shape
    return operators, parts, trials


def _spread(values: Floats, *, least: int) -> tuple[float, float]:
    if len(values) < least or not np.isfinite(values).all():
        raise ConfigError(
            "too few values", expected=f"{least} or more", actual=len(values), action="Measure more often."
        )
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if not np.ptp(values):  # the mean of equal values is rounded, so that sd is not quite 0
        raise ConfigError("all values are the same", expected="a gauge that resolves the spread", action="")
    return mean, sd


def _row(source: str, df: int, ss: float, ms_against: float, df_against: int) -> VarianceRow:
    ms = ss / df if df else 0.0
    if not ms_against:
        return VarianceRow(source=source, df=df, ss=ss, ms=ms, p=0.0 if ms else None)
    return VarianceRow(source=source, df=df, ss=ss, ms=ms, f=ms / ms_against, p=f_tail(ms / ms_against, df, df_against))


def _unrounded(ss: float, ss_total: float) -> float:
    return ss if ss > _ROUNDING * ss_total else 0.0


def _repeatability(
    method: Method,
    shape: tuple[int, ...],
    variances: dict[str, float],
    tolerance: float | None,
    *,
    anova: tuple[VarianceRow, ...] = (),
    pooled: bool = False,
) -> RepeatabilityStudy:
    reproducibility = variances["operator"] + variances["interaction"]
    rr = variances["repeatability"] + reproducibility
    total = rr + variances["part"]
    named = {
        "R&R": rr,
        "repeatability": variances["repeatability"],
        "reproducibility": reproducibility,
        "operator": variances["operator"],
        "interaction": variances["interaction"],
        "part": variances["part"],
        "total": total,
    }
    components = tuple(
        Component(
            name=name,
            sd=math.sqrt(variance),
            contribution_percent=100 * variance / total,
            study_percent=100 * math.sqrt(variance / total),
            tolerance_percent=None if tolerance is None else 100 * _STUDY_WIDTH * math.sqrt(variance) / tolerance,
        )
        for name, variance in named.items()
    )
    categories = max(1, int(_CATEGORIES * math.sqrt(variances["part"] / rr))) if rr else LEAST_CATEGORIES
    operators, parts, trials = shape
    return RepeatabilityStudy(
        method=method,
        operators=operators,
        parts=parts,
        trials=trials,
        tolerance=tolerance,
        components=components,
        categories=categories,
        anova=anova,
        pooled=pooled,
    )
