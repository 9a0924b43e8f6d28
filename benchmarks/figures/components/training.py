"""Tables of training."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.results import FiguresError, Value
from benchmarks.figures.tables import between, fixed, percent, signed, significant, table, times, verdict

CASES = {
    "torch ddp": "torch's DDP",
    "fp32": "`fp32`",
    "int8": "`int8`",
    "low-rank": "`low-rank`",
    "zero1 fp32": "`zero1` with `fp32`",
    "zero1 int8": "`zero1` with `int8`",
    "zero1 int4": "`zero1` with `int4`",
    "zero1 low-rank": "`zero1` with `low-rank`",
    "local": "`local`",
    "torch fsdp": "torch's FSDP2",
    "fsdp int8": "`fsdp` with `int8`",
}
WAITING_BARS = {"zero1 int4": 0.12, "local": 0.02}
ACCURACY_BAR_POINTS = 0.5
LOOP_BAR = 1.02


@block("training.wire", "training.wire")
def wire(found: Value) -> str:
    """Bytes of a step, memory, and the share of a step that waits for the link."""
    batches = [(name, of) for name, of in found.items() if name.endswith("pictures")]
    if not batches:
        raise FiguresError("no batch was measured")
    cases = batches[0][1]["cases"]
    rows = [
        (
            what,
            fixed(cases[key]["interface_bytes_a_step"].number / 1e6, 3),
            fixed(cases[key]["bytes_of_torch"].number, 4),
            fixed(cases[key]["memory_mb"].number, 0),
            *(_waiting(each["cases"], key) for _, each in batches),
        )
        for key, what in CASES.items()
        if key in cases
    ]
    shares = [f"waiting, {name}, {of['rate_mbit'].number:,.0f} Mbit/s" for name, of in batches]
    return table(["case", "MB a step and worker", "of torch's", "memory, MB", *shares], rows)


def _waiting(cases: Value, key: str) -> str:
    share, bar = cases[key]["unloaded_share"].number, WAITING_BARS.get(key)
    seen = max(0.0, cases[key]["communication_share"].number)
    said = f"{percent(share)} ({percent(seen)})"
    return said if bar is None else f"{said}; bar ≤ {percent(bar, 0)}: {verdict(share <= bar)}"


@block("training.workers", "training.wire")
def workers(found: Value) -> str:
    """What more workers wait, predicted from two."""
    rows = []
    for name, of in found["predicted"].items():
        counts = [each for each in (key for key, _ in of.items()) if each != "measured"]
        measured = of["measured"]["unloaded_share"].number
        predicted = [percent(of[each]["waiting_share"].number) for each in counts]
        rows.append((CASES[name], f"{predicted[0]} (measured {percent(measured)})", *predicted[1:]))
    return table(["case", *(f"{each} workers" for each in counts)], rows)


@block("training.rates", "training.wire")
def rates(found: Value) -> str:
    """What a step takes on slower and faster links."""
    links = list(found["rates"].items())
    rows = []
    for name in [key for key, _ in links[0][1].items()]:
        row = [CASES[name]]
        for _, of in links:
            plain, each = of["torch ddp"]["step_ms"].number, of[name]
            said = f"{each['step_ms'].number / 1e3:.2f} s"
            if "measured_ms" in each:
                said += f" (measured {each['measured_ms'].number / 1e3:.2f})"
            row.append(said if name == "torch ddp" else f"{said}, {times(plain / each['step_ms'].number)}")
        rows.append(tuple(row))
    return table(["case", *(rate for rate, _ in links)], rows)


@block("training.accuracy", "training.accuracy")
def accuracy(found: Value) -> str:
    """Accuracy of each gradient scheme against float32."""
    rows = []
    tasks = [(task, *each) for task in ("classifier", "detector") for each in found[task].items()]
    for task, name, of in tasks:
        points = of["points_against_fp32"].number
        low, high = (signed(end, 2) for end in of["interval_95"].numbers)
        base = name == "fp32"
        rows.append(
            (
                task,
                f"`{name}`",
                f"{len(of['seeds'].values())}",
                percent(of["mean"].number),
                "" if base else signed(points, 2),
                "" if base else between(low, high),
                "" if base else f"≥ −{ACCURACY_BAR_POINTS:g}: {verdict(points >= -ACCURACY_BAR_POINTS)}",
            )
        )
    head = ["network", "gradients", "seeds", "top-1 or mAP@0.5", "points against `fp32`", "95 % interval", "bar"]
    return table(head, rows)


@block("training.loop", "training.loop")
def loop(found: Value) -> str:
    """The loop beside a bare torch loop."""
    ratio = found["median_ratio"].number
    row = (
        f"{found['steps'].number:.0f}",
        *(significant(found[key].number) for key in ("ours_ms", "bare_ms")),
        times(ratio),
        f"≤ {LOOP_BAR} ×",
        verdict(ratio <= LOOP_BAR),
    )
    return table(["pairs of steps", "lineside, ms", "bare torch, ms", "median ratio", "bar", ""], [row])


@block("training.kills", "training.kills")
def kills(found: Value) -> str:
    """Trainings whose workers are killed."""
    same, local = found["same_losses"].truth, found["local"]
    lost, lost_local = found["lost_steps"].numbers, local["lost_steps"].numbers
    round_steps = local["round_steps"].number
    rows = [
        (
            "`low-rank`",
            f"{found['kills'].number:.0f}",
            f"{found['restarts'].number:.0f}",
            f"{found['epoch_steps'].number:.0f}",
            fixed(max(lost, default=0), 0),
            f"losses {'identical' if same else 'different'}: {verdict(same)}",
        ),
        (
            "`local`, `--min-workers 1`",
            f"{len(lost_local)}",
            f"{local['restarts'].number:.0f}",
            f"{local['epoch_steps'].number:.0f}, {round_steps:.0f} a round",
            fixed(max(lost_local, default=0), 0),
            f"at most a round: {verdict(max(lost_local, default=0) <= round_steps + 2)}",
        ),
    ]
    return table(["gradients", "workers killed", "restarts", "steps an epoch", "most steps repeated", ""], rows)


@block("training.defaults", "training.defaults")
def defaults(found: Value) -> str:
    """What the defaults reach."""
    rows = []
    for kind, metric, val in (("classifier", "top-1", "val_top1"), ("segmenter", "mean IoU", "val_mean_iou")):
        of = found[kind]
        rows.append(
            (
                f"`train {kind}`",
                of["data"].text,
                fixed(of["side_px"].number, 0),
                fixed(of["epochs"].number, 0),
                fixed(of["seconds"].number / 60, 1),
                metric,
                fixed(of["held"].number, 3),
                fixed(of[val].number, 3),
            )
        )
    head = ["command", "data", "px", "passes", "minutes", "metric", "held-out share of train", "val"]
    return table(head, rows)
