"""Tables of the runtime."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.results import Value
from benchmarks.figures.tables import fixed, megabytes, percent, significant, spread, table, times, verdict


@block("runtime.session", "session")
def session(found: Value) -> str:
    """What a session adds to the bare engine."""
    cycles = found["reload_cycles"].number
    rows = [
        (
            "a call of the smallest model",
            "bound `run_with_iobinding`",
            f"+{significant(found['overhead_us_p50'].number)} µs",
        ),
        (
            "a call of EfficientNet-Lite0 INT8",
            "`run` of the same `InferenceSession`",
            f"+{percent(found['overhead_share_lite0'].number, 2)}",
        ),
        (
            "a call of the shipped detector",
            "`run` of the same `InferenceSession`",
            f"+{percent(found['overhead_share_detector'].number, 2)}",
        ),
        (
            "process start to first inference, ms",
            f"{spread(found['first_inference_ms']['bare'])}",
            f"{spread(found['first_inference_ms']['session'])}: {times(found['first_inference_ratio'].number)}",
        ),
        (
            "resident memory after 20 inferences, MB",
            fixed(found["resident_mb"]["bare"].number, 1),
            f"{fixed(found['resident_mb']['session'].number, 1)}: +{fixed(found['resident_over_engine_mb'].number, 1)}",
        ),
        (
            f"growth of memory over {cycles:,.0f} loads, reloads and unloads",
            percent(found["reload_growth_bare_engine"].number, 2),
            percent(found["reload_growth"].number, 2),
        ),
        (
            "`submit` over `predict`, p50",
            f"executor: +{fixed(found['submit_over_predict_us_p50']['executor'].number, 1)} µs",
            f"+{fixed(found['submit_over_predict_us_p50']['submit'].number, 1)} µs, with a deadline "
            f"+{fixed(found['submit_over_predict_us_p50']['with_deadline'].number, 1)} µs",
        ),
        (
            f"first answer after a device is lost, ms, {found['fallback_calls'].number:,.0f} calls",
            f"the standby's own inference: {spread(found['fallback_standby_inference_ms'])}",
            f"{spread(found['fallback_to_first_answer_ms'])}: {times(found['fallback_ratio'].number)}, from the kill "
            f"{times(found['fallback_ratio_from_kill'].number)}; {found['fallback_lost'].number:.0f} lost, "
            f"{found['fallback_answered_twice'].number:.0f} answered twice, {found['fallback_wrong'].number:.0f} wrong",
        ),
    ]
    return table(["what", "baseline", "lineside"], rows)


@block("runtime.bench", "session")
def bench(found: Value) -> str:
    """What ``lineside bench`` reports, over a bare loop."""
    keys = {"latency": "bench_latency_over_outside", "frames a second": "bench_throughput_over_outside"}
    rows = [(name, times(found[key].number)) for name, key in keys.items()]
    return table(["`lineside bench` over the bare loop", "ratio"], rows)


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
        (what, spread(found["cache_hit_us_spread"][key]), percent(found[f"{key}_hit_us"].number / device_us, 2))
        for key, what in hits.items()
    ]
    rows += [
        (what, spread(found["cache_miss_us"][key]), percent(found["cache_miss_share"][key].number, 2))
        for key, what in misses.items()
    ]
    rows.append(("hash alone (xxh3_128)", spread(found["cache_floor_us"]["xxh3_128"]), ""))
    return table(["", "µs", "of the model's time"], rows)


@block("cache_curve", "cache_curve")
def cache_curve(found: Value) -> str:
    """Latency and throughput over the share of hits, of each network."""
    rows = [
        (
            name,
            percent(point["hit_rate"].number, 0),
            significant(point["latency_ms_mean"].number),
            significant(point["latency_ms_p99"].number),
            times(point["latency_ratio"].number),
            times(point["computed_ratio"].number),
            times(point["throughput_ratio"].number),
        )
        for name, network in found["networks"].items()
        for point in network["curve"].values()
    ]
    head = ["network", "share of hits", "ms, mean", "ms, p99", "latency", "latency, computed", "throughput"]
    return table(head, rows)


@block("engines", "engines")
def engines(found: Value) -> str:
    """The same networks on each engine."""
    rows = [
        (
            "" if number else name,
            f"`{row['engine'].text}` {row['version'].text}",
            form.partition(" ")[2],
            fixed(megabytes(row["bytes"]), 1),
            spread(row["cpu_ms"]),
            times(row["speedup"].number),
            fixed(row["correlation"].number, 3),
        )
        for name, network in found["networks"].items()
        for number, (form, row) in enumerate(network["rows"].items())
    ]
    return table(["network", "engine", "form", "MB", "processor time, ms", "speed", "least correlation"], rows)


SETS = {"neu-det": "strip", "deeppcb": "boards"}
SIZES = {"steel": "224 × 224", "pcb": "640 × 640"}


@block("variants", "variants")
def variants(found: Value) -> str:
    """Every variant of the shipped detector on every engine: size, speed and accuracy."""
    rows = [
        (
            f"`{row['engine'].text}` {row['version'].text}",
            _variant_name(name, row),
            fixed(megabytes(row["bytes"]), 1),
            *(
                f"{significant(row[kind]['cpu_ms']['p50'].number)} ms, {times(row[kind]['speedup'].number)}"
                for kind in SIZES
            ),
            *_accuracy(row),
        )
        for name, row in found["rows"].items()
    ]
    sizes = [f"{size}: processor time, speed" for size in SIZES.values()]
    return table(["engine", "variant", "MB", *sizes, *_ACCURACY], rows)


@block("card.variants", "variants", ages=False)
def card_variants(found: Value) -> str:
    """Accuracy of each shipped variant on the engine that it is made for."""
    rows = [
        (f"{_variant_name(name, row)} on `{row['engine'].text}`", *_accuracy(row))
        for name, row in found["rows"].items()
        if row["shipped"].truth
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
        cells.append(f"{fixed(data['map50'].number, 3)} ({fixed(low, 3)} to {fixed(high, 3)})")
        cells.append(f"{missed:.0f} of {data['bad_parts'].number:.0f}")
        good = data["good_parts"].number
        cells.append(f"{data['good_rejected'].number:.0f} of {good:.0f}" if good else "")
    return cells


@block("isolation", "isolation")
def isolation(found: Value) -> str:
    """What an engine in a process of its own costs."""
    calls = {"tiny": "a call of a tiny model, ms", "lite0": "a call of EfficientNet-Lite0 INT8, ms"}
    rows = [
        (
            what,
            spread(found[key]["here_ms"]),
            f"{spread(found[key]['child_ms'])}: +{significant(found[key]['extra_us_p50'].number)} µs, "
            f"{times(found[key]['ratio'].number)}",
        )
        for key, what in calls.items()
    ]
    rows += [
        (
            "load the model; in a child: start it first, ms",
            spread(found["load_here_ms"]),
            spread(found["start_child_ms"]),
        ),
        (
            "memory of the child, MB",
            "",
            f"{fixed(found['child_resident_mb'].number, 1)} resident, "
            f"{fixed(found['child_proportional_mb'].number, 1)} proportional",
        ),
        (
            "`kill -9` of the child to the first answer of a standby, ms",
            f"the standby alone: {spread(found['standby_alone_ms'])}",
            f"{spread(found['crash_to_answer_ms'])}: {times(found['crash_to_answer_ratio'].number)}; "
            f"{found['answers_lost'].number:.0f} lost",
        ),
    ]
    return table(["what", "in this process", "in a child"], rows)


PATTERNS = {"one": "one frame at a time", "rate": "random times", "all": "always a next frame"}
NETWORKS = {"surface_12": "`surface-12`", "lite0": "EfficientNet-Lite0 INT8", "resnet50": "ResNet-50 float"}


@block("placement.ratios", "placement")
def placement_ratios(found: Value) -> str:
    """``Config()`` with and without a plan against the best way."""
    rows = []
    for key, network in found["networks"].items():
        for name, what in PATTERNS.items():
            of = network["patterns"][name]
            at = f" ({network['rate_hz'].number:.0f} a second)" if name == "rate" else ""
            rows.append(
                (
                    NETWORKS.get(key, key),
                    what + at,
                    of["best"].text,
                    of["chosen"].text,
                    times(of["configured_over_best"].number),
                    times(of["config_over_best"].number),
                )
            )
    head = ["network", "frames come", "best way", "plan", "`Config()` without a plan", "`Config()` with its plan"]
    return table(head, rows)


@block("placement", "placement")
def placement(found: Value) -> str:
    """Every way of serving, by network and arrival pattern."""
    rows = [
        (NETWORKS.get(key, key), f"**{way}**" if way == "Config()" else way, *_cells(network["patterns"], way))
        for key, network in found["networks"].items()
        for way in dict.fromkeys(way for one in PATTERNS for way, _ in network["patterns"][one]["ways"].items())
    ]
    return table(["network", "way", *PATTERNS.values()], rows)


def _cells(patterns: Value, way: str) -> list[str]:
    cells = []
    for name in PATTERNS:
        ways, best = patterns[name]["ways"], patterns[name]["best"].text
        cells.append(_frames(ways, way, best=best) if name == "all" else _latency(ways, way, best=best))
    return cells


def _latency(ways: Value, way: str, *, best: str) -> str:
    return _best(f"{spread(ways[way]['latency_ms'])} ms", way == best) if way in ways else ""


def _frames(ways: Value, way: str, *, best: str) -> str:
    return _best(f"{ways[way]['per_s'].number:.0f} a second", way == best) if way in ways else ""


def _best(text: str, best: bool) -> str:
    return f"{text} (best)" if best else text


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
            *(spread(found[model]["latency_ms"][way]) for model in ("tiny", "lite0")),
            *(_per_second(found[model]["calls_per_second_by_clients"], way) for model in ("tiny", "lite0")),
        )
        for way, what in ways.items()
    ]
    head = [
        "",
        "tiny, ms",
        "EfficientNet-Lite0 INT8, ms",
        "tiny, calls a second",
        "EfficientNet-Lite0 INT8, calls a second",
    ]
    return table(head, rows)


def _per_second(found: Value, way: str) -> str:
    if way not in found:
        return ""
    return "; ".join(f"{each.number:,.0f} with {clients}" for clients, each in found[way].items())


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
            *(times(found[floor].number) if floor else "" for _, floor in columns.values()),
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
        (what, *(spread(found["sizes"][key][each]) for each in keys), times(found["sizes"][key]["speedup_int8"].number))
        for key, what in names.items()
    ]
    made = table(["ms", "INT8", "float parent", "pre-processing", "decode and NMS", "INT8 faster by"], rows)
    return f"{made}\n\nThe INT8 bundle has {times(found['file_ratio'].number)} the bytes of the float bundle."


@block("privacy", "privacy")
def privacy(found: Value) -> str:
    """A head on encrypted features, beside its goals."""
    trial, goals = found["trial"], found["goals"]
    queries, equal = int(trial["queries"].number), int(trial["equal"].number)
    rows: list[tuple[str, str, str]] = [
        ("answers equal to the INT8 engine's sums", f"{equal:,} of {queries:,}", verdict(equal == queries)),
        (
            "head, ms of processor time, median (p95)",
            f"{fixed(trial['head_ms'].number, 1)} ({fixed(trial['head_p95_ms'].number, 1)})",
            verdict(trial["head_p95_ms"].number <= goals["head_ms"].number),
        ),
        (
            "query, bytes",
            f"{int(trial['up_bytes'].number):,}",
            verdict(trial["up_bytes"].number <= goals["up_bytes"].number),
        ),
        (
            "answer, bytes",
            f"{int(trial['down_bytes'].number):,}",
            verdict(trial["down_bytes"].number <= goals["down_bytes"].number),
        ),
        ("evaluation keys, bytes, once", f"{int(trial['key_bytes'].number):,}", ""),
        (
            "encryption, decryption, ms",
            f"{fixed(trial['encrypt_ms'].number, 1)}, {fixed(trial['decrypt_ms'].number, 1)}",
            "",
        ),
        ("least noise budget, bits", str(int(trial["noise_budget_bits"].number)), ""),
        (
            f"accuracy on {int(found['frames'].number)} frames, classifier and encrypted",
            f"{fixed(found['accuracy']['classifier'].number, 3)}, {fixed(found['accuracy']['encrypted'].number, 3)}",
            "",
        ),
    ]
    return table(["", "measured", "goal"], rows)
