"""Tables of the recommender."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, table, verdict

KINDS = {"uniform": "uniform", "popular": "popular"}
ROWS = {
    "attention": "**DINModel**",
    "mean": "the same network, mean pooling",
    "torch_rechub": "torch-rechub's DIN, one seed",
    "sum": "sum of the three below",
    "item_knn": "item-kNN",
    "overlap": "overlap of attributes",
    "popularity": "popularity",
}


@block("recommendation.rankings", "recommendation")
def rankings(found: Value) -> str:
    """GAUC, AUC and full ranking of each way."""
    rows = []
    for key, name in ROWS.items():
        if key not in found["rows"]:
            continue
        of = found["rows"][key]
        full = of["full"] if "full" in of else None  # noqa: SIM401  a Value has no get
        rows.append(
            (
                name,
                *(f"{of[kind][what]:.4f}" for kind in KINDS for what in ("gauc", "auc")),
                "–" if full is None else f"{full['hit_rate_10']:.4f}",
                "–" if full is None else f"{full['ndcg_10']:.4f}",
            )
        )
    head = "ranking | GAUC uniform | AUC uniform | GAUC popular | AUC popular | hit rate, first ten of all | NDCG"
    return table(head, rows)


@block("recommendation.goals", "recommendation")
def goals(found: Value) -> str:
    """What was to be reached."""
    bars, rows = found["goals"], []
    for key, name in (("over_mean_pooling", "mean pooling"), ("over_best_simple", "the best simple ranking")):
        for kind in KINDS:
            of, least = found[key][kind], bars[key].number
            shown = between(*(f"{of[end]:+.4f}" for end in ("low", "high")))
            reached = of["difference"].number >= least and of["low"].number > 0
            rows.append((f"GAUC over {name}, {kind}", f"{of['difference']:+.4f} ({shown})", f"≥ +{least:g}", reached))
    for kind in KINDS:
        drop, most = found["int8"][kind]["drop"].number, bars["int8_drop"].number
        rows.append((f"GAUC lost by INT8, {kind}", fixed(drop, 4), f"≤ {most:g}", drop <= most))
    for count in ("200", "1000"):
        p99, most = found["latency"][count]["p99_ms"].number, bars["p99_ms"][count].number
        rows.append((f"p99, {count} candidates, one core", f"{fixed(p99, 1)} ms", f"≤ {most:g} ms", p99 <= most))
    sent, most = found["patch"]["patch_bytes"].number, bars["patch_bytes"].number
    what = f"patch after {found['patch']['choices']:.0f} choices"
    rows.append((what, f"{sent / 1e3:.0f} KB", f"≤ {most / 1e3:.0f} KB", sent <= most))
    return table(" | measured | goal | ", [(*cells, verdict(reached)) for *cells, reached in rows])


@block("recommendation.cold", "recommendation")
def cold(found: Value) -> str:
    """Items that nobody had chosen."""
    of = found["cold"]
    rows = [
        (ROWS[key], *(f"{of[key][kind]:.4f}" for kind in KINDS))
        for key in ("attention", "overlap", "item_knn", "popularity")
    ]
    return table("ranking | GAUC uniform | GAUC popular", rows)
