"""Studies of a gauge against published results, and properties that hold for all data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lineside_models.metrology.distributions import f_tail, mean_range, mean_square_range
from lineside_models.metrology.studies import (
    gauge_capability,
    process_capability,
    repeatability_by_anova,
    repeatability_by_range,
)
from lineside_runtime.errors import ConfigError
from tests.models.metrology.aiag import VALUES


def test_average_and_range_of_the_published_example() -> None:
    """AIAG, Measurement Systems Analysis, 4th edition, figure III-B 16: the form's results, to its printed digits.

    The form multiplies rounded values by constants of four digits, so that its fifth digit is not ours.
    """
    study = repeatability_by_range(VALUES)
    sds = {one.name: one.sd for one in study.components}
    printed = {"repeatability": 0.20188, "operator": 0.22963, "R&R": 0.30575, "part": 1.10456, "total": 1.14610}
    for name, value in printed.items():
        assert sds[name] == pytest.approx(value, abs=1.2e-4), name
    percents = {one.name: one.study_percent for one in study.components}
    for name, value in {"repeatability": 17.62, "operator": 20.04, "R&R": 26.68, "part": 96.38}.items():
        assert percents[name] == pytest.approx(value, abs=0.011), name
    assert study.categories == 5 and study.verdict == "conditional"


def test_analysis_of_variance_of_the_published_example() -> None:
    """The same data, tables III-B 7 and 8 of the manual; and Minitab's F and variance components of
    GAGEAIAG.MTW. The manual's R&R is the root of two rounded squares."""
    study = repeatability_by_anova(VALUES)
    rows = {row.source: row for row in study.anova}
    printed = {
        "operator": (2, 3.1673, 1.58363, 79.41),
        "part": (9, 88.3619, 9.81799, 492.29),
        "interaction": (18, 0.3590, 0.01994, 0.434),
        "repeatability": (60, 2.7589, 0.04598, None),
        "total": (89, 94.6471, None, None),
    }
    for source, (df, ss, ms, f) in printed.items():
        row = rows[source]
        assert (row.df, round(row.ss, 4)) == (df, ss)
        assert ms is None or row.ms == pytest.approx(ms, abs=6e-6)
        assert f is None or row.f == pytest.approx(f, abs=6e-3 if f > 1 else 6e-4)
    assert rows["interaction"].p == pytest.approx(0.974, abs=5e-4) and study.pooled
    sds = {one.name: one.sd for one in study.components}
    for name, value in {"repeatability": 0.199933, "operator": 0.226838, "interaction": 0, "R&R": 0.302373}.items():
        assert sds[name] == pytest.approx(value, abs=2e-6), name
    assert sds["part"] == pytest.approx(1.042327, abs=6e-7)
    percents = {one.name: one.study_percent for one in study.components}
    assert [round(percents[name], 1) for name in ("repeatability", "operator", "R&R", "part")] == [
        18.4,
        20.9,
        27.9,
        96.0,
    ]
    variances = [round(sds[name] ** 2, 5) for name in ("R&R", "repeatability", "reproducibility", "part")]
    assert variances == [0.09143, 0.03997, 0.05146, 1.08645]


def test_capability_of_the_published_example() -> None:
    """NIST/SEMATECH e-Handbook, 6.1.6: limits 8 and 20, mean 16, s 2: Cp 1.0, Cpk 0.6667; interval for 50 values."""
    values = np.linspace(-1, 1, 50)
    values = 16 + 2 * (values - values.mean()) / values.std(ddof=1)
    found = process_capability(values, lower=8, upper=20)
    assert found.cp == pytest.approx(1.0) and found.cpk == pytest.approx(2 / 3)
    half = 1.959964 * math.sqrt(1 / (9 * 50) + (2 / 3) ** 2 / (2 * 49))
    assert found.cpk_interval == pytest.approx((2 / 3 - half, 2 / 3 + half))
    one_sided = process_capability(values, upper=20)
    assert one_sided.cp is None and one_sided.cpk == found.cpk


@pytest.mark.parametrize("seed", range(5))
def test_components_come_out_of_data_with_known_components(seed: int) -> None:
    """In the mean of many studies, by both methods, the components are those of the model."""
    rng = np.random.default_rng(seed)
    sds = {"repeatability": 0.3, "operator": 0.2, "interaction": 0.25, "part": 1.0}
    squares: dict[str, list[float]] = {name: [] for name in sds}
    for _ in range(300):
        values = (
            rng.normal(0, sds["operator"], (4, 1, 1))
            + rng.normal(0, sds["part"], (1, 12, 1))
            + rng.normal(0, sds["interaction"], (4, 12, 1))
            + rng.normal(0, sds["repeatability"], (4, 12, 3))
        )
        for one in repeatability_by_anova(values).components:
            if one.name in sds:
                squares[one.name].append(one.sd**2)
    for name, sd in sds.items():
        assert math.sqrt(np.mean(squares[name])) == pytest.approx(sd, rel=0.12), name


def test_properties_of_all_studies() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers((1, 2, 2), (5, 8, 5)))
        values = rng.normal(size=shape) + 3 * rng.normal(size=(1, shape[1], 1))
        for analyse in (repeatability_by_anova, repeatability_by_range):
            study = analyse(values, tolerance=10.0)
            one = {each.name: each for each in study.components}
            assert one["total"].sd ** 2 == pytest.approx(one["R&R"].sd ** 2 + one["part"].sd ** 2)
            assert one["R&R"].sd ** 2 == pytest.approx(one["repeatability"].sd ** 2 + one["reproducibility"].sd ** 2)
            assert one["R&R"].tolerance_percent == pytest.approx(60 * one["R&R"].sd)
            assert sum(one[name].contribution_percent for name in ("R&R", "part")) == pytest.approx(100)
            moved = analyse(5 - 2 * values, tolerance=20.0)  # another unit and origin change nothing that is relative
            assert moved.component("R&R").study_percent == pytest.approx(one["R&R"].study_percent)
            assert moved.rr_percent == pytest.approx(study.rr_percent)
            order = rng.permutation(shape[1])
            assert analyse(values[:, order], tolerance=10.0).rr_percent == pytest.approx(study.rr_percent)
        assert shape[0] > 1 or one["reproducibility"].sd == 0
        rows = {row.source: row for row in repeatability_by_anova(values).anova}
        total = rows.pop("total")
        assert sum(row.ss for row in rows.values()) == pytest.approx(total.ss)
        assert sum(row.df for row in rows.values()) == total.df


def test_indices_of_a_gauge() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=50)
    values = 10.002 + 0.001 * (values - values.mean()) / values.std(ddof=1)
    found = gauge_capability(values, reference=10.0, tolerance=0.1)
    assert found.cg == pytest.approx(0.2 * 0.1 / (6 * 0.001))
    assert found.cgk == pytest.approx((0.1 * 0.1 - 0.002) / (3 * 0.001))
    assert found.bias == pytest.approx(0.002) and found.verdict == "accepted"
    centred = gauge_capability(values - found.bias, reference=10.0, tolerance=0.1)
    assert centred.cgk == pytest.approx(centred.cg)


def test_distributions_against_scipy_and_printed_tables() -> None:
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for f, a, b in zip(rng.uniform(0.01, 50, 200), rng.integers(1, 200, 200), rng.integers(1, 200, 200), strict=True):
        assert f_tail(f, int(a), int(b)) == pytest.approx(scipy.f.sf(f, a, b), rel=1e-9, abs=1e-300)
    # Duncan, Quality Control and Industrial Statistics, table D3: d2 for many subgroups, d2* for one.
    assert [round(mean_range(count), 3) for count in (2, 3, 4, 5, 10)] == [1.128, 1.693, 2.059, 2.326, 3.078]
    stars = [round(math.sqrt(mean_square_range(count)), 3) for count in (2, 3, 4, 5, 10)]
    assert stars == [1.414, 1.912, 2.239, 2.481, 3.179]


def test_values_of_a_coarse_display_repeat_exactly_and_rounding_counts_as_nothing() -> None:
    """A display in whole hundredths shows the same value in all trials: nothing is left of repeatability."""
    cells = 10.0 + np.array([[0.01, 0.02, 0.05], [0.02, 0.01, 0.05]])  # operators disagree on parts 1 and 2 alone
    study = repeatability_by_anova(np.repeat(cells[..., None], 3, axis=2))
    rows = {row.source: row for row in study.anova}
    assert rows["repeatability"].ss == 0 and rows["interaction"].ss > 0
    assert rows["interaction"].f is None and rows["interaction"].p == 0 and not study.pooled
    assert study.component("repeatability").sd == 0 and study.component("interaction").sd > 0
    additive = repeatability_by_anova(np.repeat((cells[:1] + np.array([[0.1], [0.3]]))[..., None], 3, axis=2))
    rows = {row.source: row for row in additive.anova}
    assert rows["interaction"].ss == rows["repeatability"].ss == 0 and rows["interaction"].p is None
    assert rows["operator"].f is None and rows["operator"].p == 0 and additive.component("R&R").sd > 0
    with pytest.raises(ConfigError, match=r"find no variation.*analysis of variance"):
        repeatability_by_range(np.repeat(np.array([[1.0, 2.0], [2.0, 1.0]])[..., None], 2, axis=2))


@pytest.mark.parametrize("value", [0.1, 12.3, 1e5 / 3])
def test_values_that_are_all_the_same_have_no_capability(value: float) -> None:
    for count in (10, 11, 49, 50):
        with pytest.raises(ConfigError, match="all values are the same"):
            gauge_capability(np.full(count, value), reference=value, tolerance=1.0)
        with pytest.raises(ConfigError, match="all values are the same"):
            process_capability(np.full(count, value), upper=2 * value)


def test_data_that_are_no_study_are_refused() -> None:
    for values in (np.ones((3, 10, 3)), np.zeros((3, 1, 3)), np.zeros((3, 10, 1)), np.full((2, 3, 2), np.nan)):
        with pytest.raises(ConfigError):
            repeatability_by_anova(values)
    with pytest.raises(ConfigError, match=r"needs a limit.*--lower.*--upper"):
        process_capability(np.arange(20.0))
    with pytest.raises(ConfigError, match="too few"):
        gauge_capability(np.arange(5.0), reference=1.0, tolerance=1.0)
