"""Tables of the link and the hub."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed, percent, significant, times
from benchmarks.figures.results import Value
from benchmarks.figures.tables import Row, table, verdict

GOODPUT_BAR = 0.8
BYTES_BAR = 1.1
RESULTS_BAR = 0.7


@block("transfer", "transfer")
def transfer(found: Value) -> str:
    """Goodput over loopback and a bad line, and bytes to many devices."""
    rows: list[Row] = []
    loopback = found["loopback"]
    ratio = loopback["goodput_ratio"].number
    trials = loopback["ratios"].numbers
    rows.append(
        f"{loopback['bytes']:.0MB} MB over loopback, goodput over bare paho of the same bytes"
        f" | {times(ratio)} ({significant(min(trials))} to {significant(max(trials))}); "
        f"{loopback['fetch_mb_s']:.0f} of {loopback['bare_mb_s']:.0f} MB a second"
        f" | ≥ {GOODPUT_BAR} × | {verdict(ratio >= GOODPUT_BAR)}"
    )
    rows.append(("the same over bare paho with QoS 1", f"{loopback['goodput_ratio_qos1']:x}", "", ""))
    line = "2 Mbit/s, 100 ms, 2 % loss, broken every 7 s: goodput over rate × share of time up"
    bad = found["bad_line"]
    if "left_out" in bad:
        rows.append((line, f"not measured: {bad['left_out'].text}", "", ""))
    else:
        ratio = bad["goodput_ratio"].number
        seen = f"{times(ratio)}, {bad['connections']:.0f} connections, {bad['congestion_control'].text}"
        rows.append((line, seen, f"≥ {GOODPUT_BAR} ×", verdict(ratio >= GOODPUT_BAR)))
    many = found["multicast"]
    if "left_out" in many:
        rows.append(("multicast", f"not measured: {many['left_out'].text}", "", ""))
    else:
        ratio = many["ratio"].number
        rows.append(
            f"{many['bundle_bytes']:.0MB} MB to {many['devices']:.0f} devices: bytes from the hub's "
            f"interface over one device's | {fixed(ratio, 3)} ×, {many['asked_for_bytes']:,.0f} bytes "
            f"requested again"
            f" | ≤ {BYTES_BAR} × | {verdict(ratio <= BYTES_BAR)}"
        )
    return table("what | measured | bar | ", rows)


@block("transfer.cores", "transfer")
def cores(found: Value) -> str:
    """Processor time of a push over loopback."""
    names = {"ours": "lineside", "bare_qos0": "bare paho, QoS 0", "bare_qos1": "bare paho, QoS 1"}
    rows = []
    for key, what in names.items():
        parts = {part: each.number for part, each in found["loopback"]["core_ms"][key].items()}
        shown = [f"{part} {value:.0f}" for part, value in parts.items()]
        rows.append((what, ", ".join(shown), f"{sum(parts.values()):.0f}"))
    return table(" | processor time, ms | sum", rows)


@block("fleet", "fleet")
def fleet(found: Value) -> str:
    """A rollout to a simulated fleet."""
    devices, right = found["devices"].number, found["right_state"].number
    memory, bar = (found[name].number / 1e6 for name in ("hub_rss_bytes", "hub_rss_bar"))
    rows = [
        (
            f"devices in the right state; {found['failing']:.0f} fail, {found['away']:.0f} are away",
            f"{right:,.0f} of {devices:,.0f}, {found['wrong_state']:.0f} wrong",
            "all",
            verdict(right == devices and not found["wrong_state"].number),
        ),
        ("resident memory of the hub, MB", f"{memory:.0f}", f"≤ {bar:.0f}", verdict(memory <= bar)),
        (
            "duration, s, beside the broker's own fan-out of whole bundles"
            f" | {found['seconds']:.1f} beside {found['fan_out_seconds']:.1f} |  | "
        ),
        ("bytes sent a device", f"{found['bytes_sent_a_device']:,.0f}", "", ""),
    ]
    return table("what | measured | bar | ", rows)


@block("results_in", "results_in")
def results_in(found: Value) -> str:
    """Results a second into the hub's database."""
    rows = []
    for key, what in {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.items():
        if key in found:
            of = found[key]
            ratio, trials = of["ratio"].number, of["ratios"].numbers
            rows.append(
                f"{what} | {of['rows_s']:,.0f} | {of['bare_rows_s']:,.0f}"
                f" | {times(ratio)} ({significant(min(trials))} to {significant(max(trials))})"
                f" | ≥ {RESULTS_BAR} × | {verdict(ratio >= RESULTS_BAR)}"
            )
    return table("database | results a second | bare batched inserts | ratio | bar | ", rows)


@block("deltas", "deltas")
def deltas(found: Value) -> str:
    """Bytes of a patch between two versions of one network."""
    names = {
        "unchanged": "nothing",
        "head": "the classification layers",
        "recalibrated": "the calibration",
        "all_a_little": "all layers a little",
    }
    bars = found["bars"]
    rows = []
    for key, what in names.items():
        of = found["cases"][key]
        ratio = of["ratio"].number
        sizes = [f"{of[each]:,.0f}" for each in ("sent_bytes", "whole_zstd_19_bytes")]
        judged = (f"≤ {bars[key]:.0%}", verdict(ratio <= bars[key].number)) if key in bars else ("", "")
        rows.append((what, *sizes, percent(ratio, 2), *judged))
    return table("changed | bytes sent | whole file, zstd-19 | ratio | bar | ", rows)


@block("boards", "boards")
def boards(found: Value) -> str:
    """Images for boards."""
    figures, bars = found["figures"], found["bars"]
    names = {
        "prepare_beyond_copy_s": "prepare a card, beyond copying it, s",
        "write_and_verify_to_dd_and_cmp": "write and verify, over `dd` and `cmp`",
        "t2_power_to_message_s": "power to a message, minimal image, s",
        "carried_mb": "payload carried, MB",
        "installed_mb": "payload installed, MB",
    }
    rows = []
    for key, what in names.items():
        value, bar = figures[key].number, bars[key].number
        rows.append((what, significant(value), f"≤ {bar:g}", verdict(value <= bar)))
    rows.append(("size of the card's image, MB", f"{figures['image_mb']:,.0f}", "", ""))
    return table("what | measured | bar | ", rows)


@block("pool", "pool")
def pool(found: Value) -> str:
    """Secure aggregation of counts, with and without plants that drop out."""
    goal_s, goal_plants = found["goal"]["cpu_s"].number, f"{int(found['goal']['plants'].number)} plants"
    rows = []
    for name, row in found["rows"].items():
        bar = ""
        if name.partition(",")[0] == goal_plants:
            bar = f"; bar ≤ {goal_s:g}: {verdict(row['cpu_s'].number <= goal_s)}"
        rows.append(
            f"{name} | {int(row['exact'].number)} of {int(row['rounds'].number)} | {row['cpu_s']:sig}{bar}"
            f" | {int(row['bytes_of_a_plant'].number):,}"
        )
    head = f"{int(found['counters'].number):,} counters | exact | processor seconds, all together | bytes, a plant"
    return table(head, rows)


@block("pool_comparison", "pool_comparison")
def pool_comparison(found: Value) -> str:
    """Comparisons of plants without their counts."""
    rows = [
        (
            name.replace("type", f"type of {int(found['types'].number)}"),
            f"{int(row['right'].number)} of {int(row['questions'].number)}",
            f"{row['cpu_s']:sig}",
            f"{row['wall_s']:sig}",
            f"{int(row['bytes_of_a_plant'].number):,}",
        )
        for name, row in found["rows"].items()
    ]
    head = "question | right | processor seconds, all together | seconds, the slowest | bytes, a plant"
    return table(head, rows)


_PAGES = {
    "fleet": "first page: all devices",
    "pareto": "Pareto of defect types over all results",
    "quality": "page of quality: trend, Pareto, control chart, reviews",
    "control_chart": "control chart by the hour",
    "comparison": "comparison of two lines",
    "search_newest": "search: the newest results",
    "search_rare_type": "search: a rare defect type of one device",
    "search_part": "search: one part",
    "alarms": "page of alarms",
    "metrics": "`/metrics` of the fleet",
}


@block("dashboard", "dashboard")
def dashboard(found: Value) -> str:
    """Pages of the dashboard over PostgreSQL, and hostile clients."""
    return _dashboard(found, found["postgresql"])


@block("dashboard_sqlite", "dashboard_sqlite")
def dashboard_sqlite(found: Value) -> str:
    """Pages of the dashboard over SQLite, and hostile clients."""
    return _dashboard(found, found["sqlite"])


def _live_rows(live: Value, bars: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    """Pages while simulated devices inspect and report."""
    count, rate = live["devices"].number, live["results_a_second"].number
    beside = f"beside {count:,.0f} live devices"
    rows = [(f"results a second that the hub acknowledged {beside}", f"{rate:,.0f}", "", "")]
    for page in ("fleet", "pareto"):
        took = live["pages"][page]
        p95 = took["p95_ms"].number
        figures = f"{took['median_ms']:,.0f} / {p95:,.0f} ms"
        rows.append((f"{_PAGES[page]}, {beside}", figures, f"p95 ≤ {bars[page]:,.0f} ms", verdict(p95 <= bars[page])))
    return rows


def _dashboard(found: Value, of: Value) -> str:
    bars = {"fleet": found["bars"]["fleet_page_p95_ms"].number, "pareto": found["bars"]["pareto_p95_ms"].number}
    rows: list[Row] = [("results", f"{of['rows']:,.0f}", "", "")]
    for page, what in _PAGES.items():
        took = of["pages"][page]
        p95, bar = took["p95_ms"].number, bars.get(page)
        spent = took["processor_ms"].number
        figures = f"{took['median_ms']:,.0f} / {p95:,.0f} ms ({spent:,.0f} ms processor)"
        reached = ("", "") if bar is None else (f"p95 ≤ {bar:,.0f} ms", verdict(p95 <= bar))
        rows.append((what, figures, *reached))
    hostile = of["hostile"]
    rows += _live_rows(of["live"], bars) if "live" in of else []
    memory = max(one["hub_rss_bytes"].number for one in (of, hostile, *([of["live"]] if "live" in of else []))) / 1e6
    bar_mb = found["bars"]["hub_rss_bytes"].number / 1e6
    refused, usual = hostile["usual_requests_refused"].number, hostile["usual_requests"].number
    rows += [
        ("the same Pareto by one pass over the results", f"{of['pass_over_results_ms']:,.0f} ms", "", ""),
        ("counting the results at the first start", f"{of['count_seconds']:,.0f} s", "", ""),
        ("memory of the hub at its highest", f"{memory:.0f} MB", f"≤ {bar_mb:.0f} MB", verdict(memory <= bar_mb)),
        (
            f"usual requests refused beside {hostile['connections']:,.0f} hostile connections of one address"
            f" | {refused:.0f} of {usual:.0f} |  | "
        ),
    ]
    return table("what | median / p95 over HTTP | bar | ", rows)
