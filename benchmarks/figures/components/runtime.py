"""Tables of the runtime."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed, percent, times
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, table, verdict


@block("runtime.session", "session")
def session(found: Value) -> str:
    """What a session adds to the bare engine."""
    cycles, submit = found["reload_cycles"].number, found["submit_over_predict_us_p50"]
    rows = [
        ("a call of the smallest model", "bound `run_with_iobinding`", f"+{found['overhead_us_p50']:sig} µs"),
        (
            "a call of EfficientNet-Lite0 INT8 | `run` of the same `InferenceSession`"
            f" | +{found['overhead_share_lite0']:.2%}"
        ),
        (
            "a call of the shipped detector | `run` of the same `InferenceSession`"
            f" | +{found['overhead_share_detector']:.2%}"
        ),
        (
            f"process start to first inference, ms | {found['first_inference_ms']['bare']:spread}"
            f" | {found['first_inference_ms']['session']:spread}: {found['first_inference_ratio']:x}"
        ),
        (
            f"resident memory after 20 inferences, MB | {found['resident_mb']['bare']:.1f}"
            f" | {found['resident_mb']['session']:.1f}: +{found['resident_over_engine_mb']:.1f}"
        ),
        (
            f"growth of memory over {cycles:,.0f} loads, reloads and unloads"
            f" | {found['reload_growth_bare_engine']:.2%} | {found['reload_growth']:.2%}"
        ),
        (
            f"`submit` over `predict`, p50 | executor: +{submit['executor']:.1f} µs"
            f" | +{submit['submit']:.1f} µs, with a deadline +{submit['with_deadline']:.1f} µs"
        ),
        (
            f"first answer after a device is lost, ms, {found['fallback_calls']:,.0f} calls"
            f" | the standby's own inference: {found['fallback_standby_inference_ms']:spread}"
            f" | {found['fallback_to_first_answer_ms']:spread}: {found['fallback_ratio']:x}, from the kill "
            f"{found['fallback_ratio_from_kill']:x}; {found['fallback_lost']:.0f} lost, "
            f"{found['fallback_answered_twice']:.0f} answered twice, {found['fallback_wrong']:.0f} wrong"
        ),
    ]
    return table("what | baseline | lineside", rows)


@block("runtime.bench", "session")
def bench(found: Value) -> str:
    """What ``lineside bench`` reports, over a bare loop."""
    keys = {"latency": "bench_latency_over_outside", "frames a second": "bench_throughput_over_outside"}
    rows = [(name, f"{found[key]:x}") for name, key in keys.items()]
    return table("`lineside bench` over the bare loop | ratio", rows)


@block("runtime.cache", "session")
def cache(found: Value) -> str:
    """Hits and misses of the result cache."""
    device_us = 1000 * found["cache_device_ms"]["p50"].number
    hits = {"l2": "hit in host memory", "sqlite": "hit in SQLite", "redis": "hit in Redis on this host"}
    misses = {
        "l2": "miss, host memory only",
        "l2+sqlite": "miss, with SQLite",
        "l2+sqlite+redis": "miss, with SQLite and Redis",
    }
    rows = [
        (what, f"{found['cache_hit_us_spread'][key]:spread}", percent(found[f"{key}_hit_us"].number / device_us, 2))
        for key, what in hits.items()
    ]
    rows += [
        (what, f"{found['cache_miss_us'][key]:spread}", f"{found['cache_miss_share'][key]:.2%}")
        for key, what in misses.items()
    ]
    rows.append(("hash alone (xxh3_128)", f"{found['cache_floor_us']['xxh3_128']:spread}", ""))
    return table(" | µs | of the model's time", rows)


@block("cache_curve", "cache_curve")
def cache_curve(found: Value) -> str:
    """Latency and throughput over the share of hits, of each network."""
    rows = [
        (
            f"{name} | {point['hit_rate']:.0%} | {point['latency_ms_mean']:sig}"
            f" | {point['latency_ms_p99']:sig} | {point['latency_ratio']:x} | {point['computed_ratio']:x}"
            f" | {point['throughput_ratio']:x}"
        )
        for name, network in found["networks"].items()
        for point in network["curve"].values()
    ]
    head = "network | share of hits | ms, mean | ms, p99 | latency | latency, computed | throughput"
    return table(head, rows)


@block("engines", "engines")
def engines(found: Value) -> str:
    """The same networks on each engine."""
    return _engines(found["networks"])


@block("engines.avx2", "engines")
def engines_avx2(found: Value) -> str:
    """The same where the engines see AVX2 alone."""
    if "left_out" in found["avx2"]:
        return f"**Not measured**: {found['avx2']['left_out']}."
    return _engines(found["avx2"]["networks"])


def _engines(networks: Value) -> str:
    rows = [
        (
            "" if number else name,
            f"`{row['engine'].text}` {row['version'].text}",
            form.partition(" ")[2],
            f"{row['bytes']:.1MB}",
            f"{row['cpu_ms']:spread}",
            f"{row['speedup']:x}",
            f"{row['speedup_over_own_float']:x}" if "speedup_over_own_float" in row else "",
            f"{row['correlation']:.3f}",
        )
        for name, network in networks.items()
        for number, (form, row) in enumerate(network["rows"].items())
    ]
    return table("network | engine | form | MB | processor time, ms | speed | over own float | least correlation", rows)


SETS = {"neu-det": "strip", "deeppcb": "boards"}
SIZES = {"steel": "224 × 224", "pcb": "640 × 640"}


@block("variants", "variants")
def variants(found: Value) -> str:
    """Every variant of the shipped detector on every engine: size, speed and accuracy."""
    rows = [
        (
            f"`{row['engine'].text}` {row['version'].text}",
            _variant_name(name, row),
            f"{row['bytes']:.1MB}",
            *(f"{row[kind]['cpu_ms']['p50']:sig} ms, {row[kind]['speedup']:x}" for kind in SIZES),
            *_accuracy(row),
        )
        for name, row in found["rows"].items()
    ]
    sizes = [f"{size}: processor time, speed" for size in SIZES.values()]
    return table(["engine", "variant", "MB", *sizes, *_ACCURACY], rows)


@block("card.variants", "variants", ages=False)
def card_variants(found: Value) -> str:
    """Accuracy of each shipped variant on the engine that it is made for, and of each form that is made of one."""
    shipped = {name for name, row in found["rows"].items() if row["shipped"].truth}
    rows = [
        (f"{_variant_name(name, row)} on `{row['engine'].text}`", *_accuracy(row))
        for name, row in found["rows"].items()
        if name.partition(", ")[0] in shipped
    ]
    return table(["variant", *_ACCURACY], rows)


_ACCURACY = [
    head
    for data in SETS.values()
    for head in (f"{data}: mAP@0.5", f"{data}: bad parts missed", f"{data}: good ones rejected")
]


def _variant_name(name: str, row: Value) -> str:
    own = name.removeprefix(row["engine"].text).strip() or row["precision"].text
    return f"`{own}` (shipped)" if row["shipped"].truth else own


def _accuracy(row: Value) -> list[str]:
    cells: list[str] = []
    for name in SETS:
        data = row["sets"][name]
        low, high = data["map50_interval"].numbers
        missed = data["bad_parts"].number - data["bad_rejected"].number
        cells.append(f"{data['map50']:.3f} ({fixed(low, 3)} to {fixed(high, 3)})")
        cells.append(f"{missed:.0f} of {data['bad_parts']:.0f}")
        good = data["good_parts"].number
        cells.append(f"{data['good_rejected']:.0f} of {good:.0f}" if good else "")
    return cells


@block("isolation", "isolation")
def isolation(found: Value) -> str:
    """What an engine in a process of its own costs."""
    calls = {"tiny": "a call of a tiny model, ms", "lite0": "a call of EfficientNet-Lite0 INT8, ms"}
    rows = [
        (
            f"{what} | {found[key]['here_ms']:spread}"
            f" | {found[key]['child_ms']:spread}: +{found[key]['extra_us_p50']:sig} µs, {found[key]['ratio']:x}"
        )
        for key, what in calls.items()
    ]
    rows += [
        (
            f"load the model; in a child: start it first, ms | {found['load_here_ms']:spread}"
            f" | {found['start_child_ms']:spread}"
        ),
        (
            "memory of the child, MB | "
            f" | {found['child_resident_mb']:.1f} resident, {found['child_proportional_mb']:.1f} proportional"
        ),
        (
            "`kill -9` of the child to the first answer of a standby, ms"
            f" | the standby alone: {found['standby_alone_ms']:spread}"
            f" | {found['crash_to_answer_ms']:spread}: {found['crash_to_answer_ratio']:x}; "
            f"{found['answers_lost']:.0f} lost"
        ),
    ]
    return table("what | in this process | in a child", rows)


AS_CONFIGURED = "as configured"
MARKS = {"best": "best", "plan": "chosen"}
"""What a cell is marked with, to the key that names such a way."""

PATTERNS = {"one": "one frame at a time", "rate": "random times", "all": "always a next frame"}
NETWORKS = {"surface_12": "`surface-12`", "lite0": "EfficientNet-Lite0 INT8", "resnet50": "ResNet-50 float"}


@block("placement.ratios", "placement")
def placement_ratios(found: Value) -> str:
    """``Config()`` with and without a plan against the best way."""
    rows = []
    for key, network in found["networks"].items():
        for name, what in PATTERNS.items():
            of = network["patterns"][name]
            at = f" ({network['rate_hz']:.0f} a second)" if name == "rate" else ""
            best, chosen = of["best"].text, of["chosen"].text
            rows.append(
                (
                    NETWORKS.get(key, key),
                    what + at,
                    best,
                    "the best way" if chosen == best else chosen,
                    _to_best(of, "configured_over_best", AS_CONFIGURED, chosen),
                    _to_best(of, "config_over_best", chosen, AS_CONFIGURED),
                    f"{_ratio(of, 'next_over_config')}: {of['next'].text}" if "next" in of else "",
                    _ratio(of, "same_way_twice"),
                    f"≤ {found['bar']['config_over_best']:x}: {of['within_bar'].text}",
                )
            )
    head = (
        "network | frames come | best way | plan | `Config()` without a plan | `Config()` with its plan"
        " | fastest other way, over `Config()` with its plan | the plan's way again, the same"
        " | bar of `Config()` with its plan"
    )
    return table(head, rows)


def _to_best(of: Value, key: str, way: str, other: str) -> str:
    """Returns a ratio to the best way, and whether the way is the best one, or that of the other column."""
    if "intervals" in of and way == of["best"].text:
        return "it is the best way"
    return _ratio(of, key) + (" (same way)" if way == other else "")


def _ratio(of: Value, key: str) -> str:
    """Returns a ratio with its interval; older results have none."""
    if "intervals" not in of:
        return f"{of[key]:x}"
    interval = of["intervals"][key]
    return f"{of[key]:x} ({between(f'{interval[0]:sig}', f'{interval[1]:sig}')})"


@block("placement", "placement")
def placement(found: Value) -> str:
    """Every way of serving, by network and arrival pattern."""
    rows = [
        (NETWORKS.get(key, key), way, *_cells(network["patterns"], way))
        for key, network in found["networks"].items()
        for way in dict.fromkeys(way for one in PATTERNS for way, _ in network["patterns"][one]["ways"].items())
    ]
    return table(["network", "way", *PATTERNS.values()], rows)


def _cells(patterns: Value, way: str) -> list[str]:
    cells = []
    for name in PATTERNS:
        of = patterns[name]
        ways, marks = of["ways"], [word for word, key in MARKS.items() if way == of[key].text]
        cells.append(_frames(ways, way, marks) if name == "all" else _latency(ways, way, marks))
    return cells


def _latency(ways: Value, way: str, marks: list[str]) -> str:
    return _marked(f"{ways[way]['latency_ms']:spread} ms", marks) if way in ways else ""


def _frames(ways: Value, way: str, marks: list[str]) -> str:
    return _marked(f"{ways[way]['per_s']:.0f} a second", marks) if way in ways else ""


def _marked(text: str, marks: list[str]) -> str:
    return f"{text} ({', '.join(marks)})" if marks else text


@block("serve", "serve")
def serve(found: Value) -> str:
    """``lineside serve`` beside the session in the caller's process and a bare server."""
    ways = {
        "predict": "`Session.predict`",
        "rest": "REST",
        "rest_bare": "REST, bare server",
        "grpc": "gRPC",
        "grpc_bare": "gRPC, bare server",
        "tritonclient_http": "REST by `tritonclient`",
        "tritonclient_grpc": "gRPC by `tritonclient`",
    }
    rows = [
        (
            what,
            *(f"{found[model]['latency_ms'][way]:spread}" for model in ("tiny", "lite0")),
            *(_per_second(found[model]["calls_per_second_by_clients"], way) for model in ("tiny", "lite0")),
        )
        for way, what in ways.items()
    ]
    head = " | tiny, ms | EfficientNet-Lite0 INT8, ms | tiny, calls a second | EfficientNet-Lite0 INT8, calls a second"
    return table(head, rows)


def _per_second(found: Value, way: str) -> str:
    if way not in found:
        return ""
    return "; ".join(f"{each:,.0f} with {clients}" for clients, each in found[way].items())


@block("others", "others")
def others(found: Value) -> str:
    """Other runtimes with the same network, frame and core."""
    columns = {
        "ultralytics": ("ultralytics, YOLOv8n", "ultralytics_memory_floor_ratio"),
        "model_api": ("openvino-model-api, EfficientNet-Lite0 INT8", "model_api_memory_floor_ratio"),
        "model_api_same_engine": ("the same, ours on OpenVINO", ""),
        "model_api_yolov8n": ("openvino-model-api, YOLOv8n", "model_api_yolov8n_memory_floor_ratio"),
        "model_api_yolov8n_same_engine": ("the same, ours on OpenVINO", ""),
    }
    kinds = {
        "latency": "latency",
        "memory": "resident memory",
        "peak_memory": "peak memory",
        "start": "start to first answer",
    }
    rows = [
        (f"{what}, ours over theirs", *(times(found[f"{key}_{kind}_ratio"].number) for key in columns))
        for kind, what in kinds.items()
    ]
    rows.append(
        (
            "resident memory of a bare ONNX Runtime with OpenCV, over theirs",
            *(f"{found[floor]:x}" if floor else "" for _, floor in columns.values()),
        )
    )
    rows.append(("answers that both give", *(percent(found[f"{key}_same_answer"].number, 0) for key in columns)))
    return table(["", *(name for name, _ in columns.values())], rows)


@block("detector", "detector")
def detector(found: Value) -> str:
    """The shipped detector in the engine."""
    names = {"steel": "strip, 224 px", "pcb": "boards, 640 px"}
    keys = ("int8_ms", "float_ms", "preprocess_ms", "decode_nms_ms")
    rows = [
        (what, *(f"{found['sizes'][key][each]:spread}" for each in keys), f"{found['sizes'][key]['speedup_int8']:x}")
        for key, what in names.items()
    ]
    made = table("ms | INT8 | float parent | pre-processing | decode and NMS | INT8 faster by", rows)
    return f"{made}\n\nThe INT8 bundle has {found['file_ratio']:x} the bytes of the float bundle."


@block("privacy", "privacy")
def privacy(found: Value) -> str:
    """A head on encrypted features, beside its goals."""
    trial, goals = found["trial"], found["goals"]
    queries, equal = int(trial["queries"].number), int(trial["equal"].number)
    rows: list[tuple[str, str, str]] = [
        ("answers equal to the INT8 engine's sums", f"{equal:,} of {queries:,}", f"all: {verdict(equal == queries)}"),
        (
            "head, ms of processor time, median (p95)",
            f"{trial['head_ms']:.1f} ({trial['head_p95_ms']:.1f})",
            _at_most(trial["head_p95_ms"], goals["head_ms"]),
        ),
        (
            "query, bytes",
            f"{int(trial['up_bytes'].number):,}",
            _at_most(trial["up_bytes"], goals["up_bytes"]),
        ),
        (
            "answer, bytes",
            f"{int(trial['down_bytes'].number):,}",
            _at_most(trial["down_bytes"], goals["down_bytes"]),
        ),
        ("evaluation keys, bytes, once", f"{int(trial['key_bytes'].number):,}", ""),
        ("encryption, decryption, ms", f"{trial['encrypt_ms']:.1f}, {trial['decrypt_ms']:.1f}", ""),
        ("least noise budget, bits", str(int(trial["noise_budget_bits"].number)), ""),
        (
            f"accuracy on {int(found['frames'].number)} frames, classifier and encrypted",
            f"{found['accuracy']['classifier']:.3f}, {found['accuracy']['encrypted']:.3f}",
            "",
        ),
    ]
    return table(" | measured | goal", rows)


def _at_most(found: Value, goal: Value) -> str:
    return f"≤ {int(goal.number):,}: {verdict(found.number <= goal.number)}"
