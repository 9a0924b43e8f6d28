"""Tables of training."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.results import FiguresError, Value
from benchmarks.figures.tables import between, fixed, percent, signed, significant, table, times, verdict

CASES = {
    "torch ddp": "torch's DDP",
    "fp32": "`fp32`",
    "bf16": "`bf16`",
    "int8": "`int8`",
    "low-rank": "`low-rank`",
    "zero1 low-rank": "`zero1` with `low-rank`",
    "torch fsdp": "torch's FSDP2",
    "fsdp int8": "`fsdp` with `int8`",
}
BYTES_BARS = {"int8": 0.25, "low-rank": 0.02, "fsdp int8": 0.35}
SHARE_CASE, SHARE_BAR = "low-rank", 0.12
ACCURACY_BAR_POINTS = 0.5
LOOP_BAR = 1.02


@block("training.wire", "training.wire")
def wire(found: Value) -> str:
    """Bytes of a step, and the share of a step spent communicating."""
    batches = [(name, of) for name, of in found.items() if "cases" in of]
    if not batches:
        raise FiguresError("no batch was measured")
    cases = batches[0][1]["cases"]
    rows = []
    for key, what in CASES.items():
        if key not in cases:
            continue
        of = cases[key]
        share = of["bytes_of_torch"].number
        bar = BYTES_BARS.get(key)
        rows.append(
            (
                what,
                fixed(of["interface_bytes_a_step"].number / 1e6, 3),
                fixed(of["reported_bytes_a_step"].number / 1e6, 3) if of["reported_bytes_a_step"].number else "",
                fixed(share, 4),
                "" if bar is None else f"≤ {bar:g}: {verdict(share <= bar)}",
                *(_communication(each["cases"], key) for _, each in batches),
            )
        )
    shares = [f"share of a step, {name}, {of['rate_mbit'].number:,.0f} Mbit/s" for name, of in batches]
    return table(["case", "MB a step and worker", "as reported", "of torch's", "bar", *shares], rows)


def _communication(cases: Value, key: str) -> str:
    if key not in cases:
        return ""
    share = cases[key]["communication_share"].number
    return percent(share) + (
        f", bar ≤ {percent(SHARE_BAR, 0)}: {verdict(share <= SHARE_BAR)}" if key == SHARE_CASE else ""
    )


@block("training.accuracy", "training.accuracy")
def accuracy(found: Value) -> str:
    """Top-1 of each gradient scheme against float32."""
    rows = []
    for name, of in found["schemes"].items():
        points = of["points_against_fp32"].number
        low, high = (signed(end, 2) for end in of["interval_95"].numbers)
        base = name == "fp32"
        rows.append(
            (
                f"`{name}`",
                f"{len(of['seeds'].values())}",
                percent(of["mean_top1"].number),
                "" if base else signed(points, 2),
                "" if base else between(low, high),
                "" if base else f"≥ −{ACCURACY_BAR_POINTS:g}: {verdict(points >= -ACCURACY_BAR_POINTS)}",
            )
        )
    return table(["gradients", "seeds", "top-1", "points against `fp32`", "95 % interval", "bar"], rows)


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
    """A training whose workers are killed."""
    lost = found["lost_steps"].numbers
    same = found["same_losses"].truth
    row = (
        f"{found['kills'].number:.0f}",
        f"{found['restarts'].number:.0f}",
        f"{found['epoch_steps'].number:.0f}",
        fixed(max(lost, default=0), 0),
        f"{'identical' if same else 'different'}: {verdict(same)}",
    )
    head = ["workers killed", "restarts", "steps an epoch", "most steps repeated", "losses against an unbroken run"]
    return table(head, [row])


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
