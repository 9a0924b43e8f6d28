"""Tables of the agent."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed, percent, significant
from benchmarks.figures.results import Value
from benchmarks.figures.tables import table, verdict

BUNDLES = {"surface-12": "`surface-12`", "surface-12_one_look": "`surface-12`, variant `onnx-int8`"}


@block("line_io", "line_io")
def line_io(found: Value) -> str:
    """Trigger to reject over Modbus TCP."""
    bar = found["bar_ms"]
    limits = f"p50 ≤ {bar['p50']:g}, p99 ≤ {bar['p99']:g}"
    rows = []
    for key, what in BUNDLES.items():
        for rate, name in {"belt_20_hz": "20 parts a second", "as_fast_as_answered": "as fast as answered"}.items():
            of = found[key][rate]
            reached = all(of[f"{each}_ms"].number <= bar[each].number for each in ("p50", "p99"))
            rows.append(
                (
                    f"{what}, {name}",
                    *(f"{of[each]:sig}" for each in ("p50_ms", "p99_ms", "max_ms")),
                    f"{of['lost']:.0f} of {of['triggers']:,.0f}",
                    f"{of['twice']:.0f}",
                    limits,
                    verdict(reached and not of["lost"].number and not of["twice"].number),
                )
            )
    return table("trigger to reject, ms | p50 | p99 | most | lost | twice | bar | ", rows)


@block("screen", "screen")
def screen(found: Value) -> str:
    """Cost of the operator screen."""
    bars, attacked = found["bars"], "attack" in found
    states = {"off": "without the screen", "on": "with three clients"}
    states |= {"attacked": "and hostile clients"} if attacked else {}
    rows = [
        (
            f"trigger to reject, {share}, ms",
            *(significant(found[f"trigger_to_reject_{share}_ms"][name].number) for name in states),
            "",
            "",
        )
        for share in ("p50", "p99")
    ]
    extra, shown = found["extra_rss_mb"].number, found["capture_to_image_p95_ms"].number
    missing = [found["lost"][name].number for name in states]
    unrecorded = [found["records_missing"][name].number for name in ("off", "on")]
    lost = [missing[0] + unrecorded[0], missing[1] + unrecorded[1], *missing[2:]]
    rows += [
        (
            "resident memory, MB",
            *(f"{found['rss_mb'][name]:.1f}" for name in ("off", "on")),
            *([f"{found['attack']['rss_mb']:.1f}"] if attacked else []),
            f"at most {bars['extra_rss_mb']:g} more",
            verdict(extra <= bars["extra_rss_mb"].number),
        ),
        (
            f"parts without an answer or a record, of {found['triggers']['on']:,.0f}",
            *(f"{one:.0f}" for one in lost),
            "0",
            verdict(not any(lost[1:])),
        ),
        (
            "capture to the image at a client, p95, ms",
            "",
            significant(shown),
            *([""] if attacked else []),
            f"at most {bars['capture_to_image_p95_ms']:g}",
            verdict(shown <= bars["capture_to_image_p95_ms"].number),
        ),
    ]
    return table(["", *states.values(), "bar", ""], rows)


@block("hot_swap", "hot_swap")
def hot_swap(found: Value) -> str:
    """Bundles swapped while parts come."""
    reached = (
        found["latest_of_a_swap_in_usual_p99s"].number <= found["bar_in_usual_p99s"].number
        and not found["lost"].number
        and not found["twice"].number
    )
    head = "swaps | triggers | lost | twice | p99, ms | p99 during swaps, ms | latest during swaps | bar | "
    row = (
        f"{found['swaps']:.0f} | {found['triggers']:,.0f} | {found['lost']:.0f} | {found['twice']:.0f}"
        f" | {found['usual_ms']['p99']:sig} | {found['during_swaps_ms']['p99']:sig}"
        f" | {found['latest_of_a_swap_in_usual_p99s']:x} the p99 without a swap"
        f" | 0 lost, ≤ {found['bar_in_usual_p99s']:g} × | {verdict(reached)}"
    )
    return table(head, [row])


@block("device_loss", "device_loss")
def device_loss(found: Value) -> str:
    """An engine that is killed while parts come."""
    reached = not found["late_after"].number and not found["without_verdict"].number
    head = "kills | parts | late before the kill | late after it | no verdict | on the other device | p50, ms | p99, ms"
    head += " | first part after the kill, most, ms | back after, s | bar | "
    row = (
        f"{found['trials']:.0f} | {found['parts']:,.0f} | {found['late_before']:.0f}"
        f" | {found['late_after']:.0f} | {found['without_verdict']:.0f} | {found['on_another_device']:,.0f}"
        f" | {found['usual_ms']['p50']:sig} | {found['usual_ms']['p99']:sig}"
        f" | {found['first_after_kill_ms']['most']:sig} | {found['back_after_s']:sig}"
        f" | 0 later than {found['deadline_ms']:g} ms | {verdict(reached)}"
    )
    return table(head, [row])


@block("agent_start", "agent_start")
def agent_start(found: Value) -> str:
    """Start of the process to the first verdict."""
    bars = found["bar"]
    of_most = bars["first_verdict_s"].number
    of_median = bars["first_verdict_median_s"].number
    rows = []
    for key, what in BUNDLES.items():
        for size in ("200x200", "640x480"):
            of = found[f"{key}_{size}"]["first_verdict_s"]
            median, most = of["median"].number, of["most"].number
            reached = verdict(median <= of_median and most <= of_most)
            bar = f"median ≤ {of_median:g}, most ≤ {of_most:g}"
            rows.append((f"{what}, {size}", fixed(median, 2), fixed(most, 2), bar, reached))
    return table("start to first verdict, s | median | most | bar | ", rows)


@block("agent_memory", "agent_memory")
def agent_memory(found: Value) -> str:
    """Resident memory of the agent's process."""
    bar = found["bar"]["resident_bytes"].number / 1e6
    rows = []
    for key, what in BUNDLES.items():
        for size in ("200x200", "640x480"):
            for suffix, hub in (("", ""), ("_hub", ", with a hub")):
                of = found[f"{key}_{size}{suffix}"]
                resident = of["resident"].number / 1e6
                rows.append(
                    (
                        f"{what}, {size}{hub}",
                        *(f"{of[each]:.1MB}" for each in ("resident", "most", "anonymous", "proportional")),
                        f"≤ {bar:.0f}",
                        verdict(resident <= bar),
                    )
                )
    return table("MB | resident | most | anonymous | proportional | bar | ", rows)


@block("pipeline", "pipeline")
def pipeline(found: Value) -> str:
    """Frames a second of the agent against the roofline."""
    bar = found["bar_share"].number
    names = {
        "workers_2": "two workers",
        "workers_2_images": "two workers, the image of each frame kept as PNG",
        "threads_2": "one worker, two threads in the engine",
        "workers_1": "one worker",
    }
    rows = []
    for key, what in names.items():
        of = found["agent"][key]
        rows.append(
            (
                what,
                f"{of['frames_a_second']:.1f}",
                f"{of['bare_loops_frames_a_second']:.1f}",
                f"{of['processor_ms_a_frame']:.1f}",
                *(
                    _shares(of[each])
                    for each in ("share_of_roofline", "share_of_bare_loops", "share_by_processor_time")
                ),
                _by_run(bar, found["share_of_roofline_by_run"]) if key == "workers_2" else "",
            )
        )
    head = (
        "agent | frames a second | bare loop on each core | processor time a frame, ms | of the roofline"
        " | of the bare loops | by processor time | bar: of the roofline, median of each run"
    )
    return table(head, rows)


def _by_run(bar: float, shares: Value) -> str:
    every = ", ".join(f"{share:.1%}" for share in shares.values())
    return f"{every}; ≥ {percent(bar, 0)} in each: {verdict(min(share.number for share in shares.values()) >= bar)}"


def _shares(found: Value) -> str:
    middle, low, high = (f"{found[name]:.1%}" for name in ("median", "least", "most"))
    return f"{middle} ({low} to {high})"


@block("pipeline.stages", "pipeline")
def stages(found: Value) -> str:
    """Processor time of each stage in a bare loop."""
    names = {"decode": "decode JPEG", "preprocess": "pre-process", "infer": "engine", "postprocess": "post-process"}
    rows = [(what, f"{found['bare_ms'][key]:sig}") for key, what in names.items()]
    return table("stage | processor time, ms", rows)


@block("wear", "wear")
def wear(found: Value) -> str:
    """Bytes written to disk."""
    rows = [
        (
            f"{what} | {of['records_a_second']:.1f} | {of['bytes_a_record']:,.0f}"
            f" | {of['megabytes_a_day']:,.0f} | {of['commit_every_s']:g} s"
        )
        for what, of in found["agents"].items()
    ]
    return table("agent | records a second | bytes a record | MB a day | records that a power cut takes", rows)


@block("wear.note", "wear")
def wear_note(found: Value) -> str:
    """Time that a verdict waits for its record in memory."""
    took = found["note_us"]
    return table(
        "noting a record, µs | median | p99",
        [("before the line is told", *(f"{took[key]:.1f}" for key in ("median", "p99")))],
    )


@block("drift.cost", "drift")
def drift_cost(found: Value) -> str:
    """Processor time of drift detection."""
    bar = found["bar_ms"].number
    rows = [
        (size, f"{of['drift']:.2f}", f"{of['drift p95']:.2f}", f"≤ {bar:g}", verdict(of["drift"].number <= bar))
        for size, of in found["cpu_ms_a_frame"].items()
    ]
    return table("processor time a frame, ms | median | p95 | bar | ", rows)


@block("drift.delay", "drift")
def drift_delay(found: Value) -> str:
    """Frames to the first alarm."""
    rows = [
        (what, f"{of['median']:.0f}", f"{of['worst']:.0f}", of["never"].text)
        for what, of in found["frames_to_the_alarm"].items()
    ]
    clean = found["clean"]
    made = table("what happens | frames to the alarm, median | worst | no alarm", rows)
    return (
        f"{made}\n\nFalse alarms in {clean['frames']:,.0f} clean frames: {clean['false_alarms']:.0f}; "
        f"promised is a chance of {clean['chance_promised_at_most']:.0%} at most."
    )


@block("soak", "soak")
def soak(found: Value) -> str:
    """Two hours at full speed."""
    names = {
        "rss_bytes": "resident memory, MB",
        "anonymous_bytes": "anonymous memory, MB",
        "pss_bytes": "proportional memory, MB (not judged)",
    }
    rows = []
    for key, what in names.items():
        of = found[key]
        start, end = (f"{of[each]:.1MB}" for each in ("after_warm_up", "at_the_end"))
        rows.append((what, start, end, f"{of['drift']:.1%}"))
    for key in ("handles", "threads"):
        of = found[key]
        start, end, most = (f"{of[each]:.0f}" for each in ("after_warm_up", "at_the_end", "most"))
        rows.append((key, start, end, f"at most {most}"))
    problems = [each.text for each in found["problems"].values()]
    agent = found["agent"]
    return (
        f"{table(['', 'after the warm-up', 'at the end', ''], rows)}\n\n"
        f"{found['seconds']:,.0f} s, {agent['inspected']:,.0f} frames, "
        f"{found['frames_a_second']:.1f} a second, {agent['lost']:.0f} lost, "
        f"{agent['faults']:.0f} faults. Bar, growth of at most 2 %: "
        f"{'reached' if not problems else '**missed**: ' + '; '.join(problems)}."
    )
