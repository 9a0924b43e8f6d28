"""Tables of training."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed, percent, signed, times
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, table, verdict

CASES = {
    "torch ddp": "torch's DDP",
    "fp32": "`fp32`",
    "low-rank": "`low-rank`",
    "zero1 int8": "`zero1` with `int8`",
    "zero1 int4": "`zero1` with `int4`",
    "zero1 low-rank": "`zero1` with `low-rank`",
    "local": "`local`",
    "fsdp int8": "`fsdp` with `int8`",
}
WAITING_BARS = {"zero1 int4": 0.12, "local": 0.02}
ACCURACY_BAR_POINTS = 0.5


@block("training.wire", "training.wire")
def wire(found: Value) -> str:
    """Bytes of a step, memory, and the share of a step that waits for the link."""
    cases = found["cases"]
    batches = [(name, of["rate_mbit"].number) for name, of in found["batches"].items()]
    rows = [
        (
            what,
            fixed(cases[key]["interface_bytes_a_step"].number / 1e6, 3),
            f"{cases[key]['bytes_of_torch']:.4f}",
            f"{cases[key]['memory_mb']:.0f}",
            f"{cases[key]['added_cpu_ms']:.0f}",
            *(_waiting(cases[key], key, batch) for batch, _ in batches),
            percent(max(0.0, 1 - cases[key]["alone_ms"].number / cases[key]["step_ms"].number)),
        )
        for key, what in CASES.items()
        if key in cases
    ]
    shares = [f"waiting, {name} pictures, {rate:,.0f} Mbit/s" for name, rate in batches]
    head = ["case", "MB a step and worker", "of torch's", "memory, MB", "added processor time, ms", *shares]
    return table([*head, f"on the wall, {batches[0][0]} pictures"], rows)


def _waiting(case: Value, key: str, batch: str) -> str:
    share, bar = case[f"waiting_{batch}"].number, WAITING_BARS.get(key)
    cell = f"{percent(share)} ({percent(case[f'communicating_{batch}'].number)})"
    return cell if bar is None else f"{cell}; bar ≤ {percent(bar, 0)}: {verdict(share <= bar)}"


@block("training.workers", "training.wire")
def workers(found: Value) -> str:
    """What more workers send and wait, predicted from two, beside four that ran."""
    counts = [key for key, _ in next(of for _, of in found["predicted"].items()).items()]
    fewest = next(key for key, _ in found["batches"].items())
    rows = []
    for name, of in found["predicted"].items():
        sent = fixed(of["4"]["bytes_a_step"].number / 1e6, 3)
        waiting = {each: f"{of[each]['waiting_share']:.1%}" for each in counts}
        if "4 workers" in found:
            four = found["4 workers"]["cases"][name]
            sent += f", measured {fixed(four['interface_bytes_a_step'].number / 1e6, 3)}"
            waiting["4"] += f", from four's {four[f'waiting_{fewest}']:.1%}"
        rows.append((CASES[name], sent, *waiting.values()))
    return table(["case", "MB a step, four workers", *(f"waiting, {each}" for each in counts)], rows)


@block("training.rates", "training.wire")
def rates(found: Value) -> str:
    """What a step takes on slower and faster links."""
    links = list(found["rates"].items())
    rows = []
    for name in [key for key, _ in links[0][1].items()]:
        row = [CASES[name]]
        for _, of in links:
            plain, each = of["torch ddp"]["step_ms"].number, of[name]["step_ms"].number
            cell = f"{each / 1e3:.2f} s" + ("" if name == "torch ddp" else f", {times(plain / each)}")
            if "measured_ms" in of[name]:
                cell += f" (16 pictures, measured {of[name]['measured_ms'].number / 1e3:.2f} s)"
            row.append(cell)
        rows.append(tuple(row))
    return table(["case", *(f"{rate} Mbit/s" for rate, _ in links)], rows)


@block("training.accuracy", "training.accuracy")
def accuracy(found: Value) -> str:
    """Accuracy of each gradient scheme against float32."""
    rows = []
    for task, name, of in _trainings(found):
        points = of["points_against_fp32"].number
        base = name == "fp32"
        interval = "" if base else "one seed"
        if "interval_95" in of and not base:
            interval = between(*(signed(end, 2) for end in of["interval_95"].numbers))
        rows.append(
            (
                task,
                f"`{name}`",
                f"{len(of['seeds'].values())}",
                f"{of['mean']:.1%}",
                "" if base else signed(points, 2),
                interval,
                "" if base else f"≥ −{ACCURACY_BAR_POINTS:g}: {_accuracy_verdict(of)}",
            )
        )
    head = "network | gradients | seeds | top-1 or mAP@0.5 | points against `fp32` | 95 % interval | bar"
    return table(head, rows)


@block("training.times", "training.accuracy")
def training_times(found: Value) -> str:
    """The time of each of these trainings on a slower link, beside that of float32."""
    rates = [rate for rate, _ in found["classifier"]["fp32"]["seconds_at_mbit"].items()]
    rows = []
    for task, name, of in _trainings(found):
        row = [f"{task}, {of['steps']:.0f} steps", f"`{name}`", f"{of['bytes_a_step'].number / 1e6:.3f}"]
        for rate in rates:
            plain, each = (way["seconds_at_mbit"][rate].number for way in (found[task]["fp32"], of))
            row.append(f"{fixed(each / 60, 1)} min" + ("" if name == "fp32" else f", {times(plain / each)}"))
        rows.append(tuple(row))
    head = ["training", "gradients", "MB a step and worker after the first steps"]
    return table([*head, *(f"{rate} Mbit/s" for rate in rates)], rows)


def _trainings(found: Value) -> list[tuple[str, str, Value]]:
    return [(task, *each) for task in ("classifier", "detector") for each in found[task].items()]


def _accuracy_verdict(of: Value) -> str:
    """Returns the verdict of the interval, as the mean of a few seeds alone means little."""
    if "interval_95" not in of:
        return "not shown"
    low, high = of["interval_95"].numbers
    if low >= -ACCURACY_BAR_POINTS:
        return verdict(True)
    return verdict(False) if high < -ACCURACY_BAR_POINTS else "not shown"


@block("training.kills", "training.kills")
def kills(found: Value) -> str:
    """Trainings whose workers are killed."""
    same, local = found["same_losses"].truth, found["local"]
    lost, lost_local = found["lost_steps"].numbers, local["lost_steps"].numbers
    round_steps = local["round_steps"].number
    rows = [
        (
            f"`low-rank` | {found['kills']:.0f} | {found['restarts']:.0f} | {found['epoch_steps']:.0f}"
            f" | {fixed(max(lost, default=0), 0)}"
            f" | losses {'identical' if same else 'different'}: {verdict(same)}"
        ),
        (
            f"`local`, `--min-workers 1` | {len(lost_local)} | {local['restarts']:.0f}"
            f" | {local['epoch_steps']:.0f}, {round_steps:.0f} a round"
            f" | {fixed(max(lost_local, default=0), 0)}"
            f" | at most a round: {verdict(max(lost_local, default=0) <= round_steps + 2)}"
        ),
    ]
    return table("gradients | workers killed | restarts | steps an epoch | most steps repeated | ", rows)


@block("training.defaults", "training.defaults")
def defaults(found: Value) -> str:
    """What the defaults reach."""
    rows = []
    for kind, metric, val in (("classifier", "top-1", "val_top1"), ("segmenter", "mean IoU", "val_mean_iou")):
        of = found[kind]
        rows.append(
            f"`train {kind}` | {of['data'].text} | {of['side_px']:.0f} | {of['epochs']:.0f}"
            f" | {fixed(of['seconds'].number / 60, 1)} | {metric} | {of['held']:.3f} | {of[val]:.3f}"
        )
    head = "command | data | px | passes | minutes | metric | held-out share of train | val"
    return table(head, rows)


TASKS_BAR = 1.6
"""Of two workers on two cores; near-linear."""


@block("training.tasks", "training.tasks")
def tasks(found: Value) -> str:
    """Work as Ray tasks beside the plain loop."""
    cores = found["cores"].number
    counts = [key for key, _ in found["started_s"].items()]
    rows = []
    works = list(found["work"].items())
    for _, of in works:
        workers = of["workers"]
        alone = workers["1"]["seconds"].number
        row = [of["what"].text, f"{alone:.1f} s"]
        for count in counts[1:]:
            ratio = alone / workers[count]["seconds"].number
            cell = f"{workers[count]['seconds']:.1f} s, {times(ratio)}"
            if count == "2":
                cell += f"; bar ≥ {TASKS_BAR} ×: {verdict(ratio >= TASKS_BAR)}"
            row.append(cell)
        row.append("yes" if all(workers[count]["same"].truth for count in counts) else "**no**")
        rows.append(tuple(row))
    starts = tuple("" if count == "1" else f"{found['started_s'][count]:.0f} s" for count in counts)
    rows.append(("start of Ray and imports, once", *starts, ""))
    heads = [f"{count} at once, {cores:.0f} cores" for count in counts[1:]]
    return table(["work", "plain loop", *heads, "same result to the bit"], rows)
