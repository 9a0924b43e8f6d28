"""Tables of few labelled defects, and of the frames that are labelled."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed, percent
from benchmarks.figures.results import Value
from benchmarks.figures.tables import table, verdict

METHODS = {
    "good": "`learn-good`, good parts only",
    "learn-good": "`learn-good --bad`",
    "classifier": "`train classifier`, ImageNet's weights",
    "detector": "`train detector`, from `surface-12`",
    "starter": "`train detector`, from `surface-starter`",
    "segmenter": "`train segmenter`, ImageNet's trunk",
    "patchcore": "anomalib's PatchCore, good parts only",
    "supersimplenet": "anomalib's SuperSimpleNet",
    "yolox": "YOLOX-Nano, random weights at the start",
}


@block("few_defects.labels", "few_defects.labels")
def labels(found: Value) -> str:
    """Escapes by number of marked defects."""
    return _rows(found)


@block("few_defects.fine_tuning", "few_defects.fine_tuning")
def fine_tuning(found: Value) -> str:
    """The same of fine-tuned networks."""
    return _rows(found)


@block("few_defects.peers", "few_defects.peers")
def peers(found: Value) -> str:
    """The same of other projects' models."""
    return _rows(found)


def _rows(found: Value) -> str:
    """Returns escapes of each method by number of labelled defects."""
    rows = []
    for of in found["rows"].values():
        count, escapes = of["count"].number, of["escapes_each"].numbers
        method = METHODS[of["method"].text if count or of["method"].text == "patchcore" else "good"]
        rows.append(
            (
                of["kind"].text.removeprefix("MT_"),
                f"{count:.0f}" if count == of["labels"].number else f"{count:.0f} ({of['labels']:.0f} there)",
                method,
                f"{of['escapes']:.0%} ({percent(min(escapes), 0)} to {percent(max(escapes), 0)})",
                f"{of['auroc']:.3f}",
                "" if of["method"].text == "classifier" else f"{of['met']:.0%}",  # its find is the frame
                f"{of['seconds']:.0f} s",
            )
        )
    head = (
        "kind | labelled | method | escapes at 1 % false rejects (lowest to highest) | AUROC"
        " | strongest find meets the defect | processor time"
    )
    return table(head, rows)


@block("few_defects.own", "few_defects.labels")
def own(found: Value) -> str:
    """Verdicts at the thresholds that learn-good chose."""
    rows = [
        (
            of["kind"].text.removeprefix("MT_"),
            f"{of['count']:.0f}",
            f"{of['own_escapes']:.0%}",
            f"{of['own_false_rejects']:.1%}",
        )
        for of in found["rows"].values()
        if "own_escapes" in of
    ]
    return table("kind | labelled | escapes | good frames rejected, 1 % stated", rows)


@block("few_defects.named", "few_defects.labels")
def named(found: Value) -> str:
    """Names of the types."""
    rows = [
        (
            f"{count} | {of['frames']:.0f} | {percent(of['named'].number / of['frames'].number, 0)}"
            f" | {percent(of['right'].number / max(1, of['named'].number), 0)}"
        )
        for count, of in found["named"].items()
    ]
    return table("labelled, of all kinds | judged bad frames | named | of these rightly", rows)


@block("relabel_selection", "relabel_selection")
def relabel_selection(found: Value) -> str:
    """Labels that a chosen order saves."""
    bar, of_share = found["bars"]["share"].number, found["bars"]["of"].number
    rows = []
    for name, of in found["sets"].items():
        shares = of["shares"].numbers
        at = [fixed(of[how].numbers[shares.index(bar)], 3) for how in ("random", "informative")]
        reached = of["reached_at"].number if "reached_at" in of else None
        shown = "not reached" if reached is None else percent(reached, 0)
        rows.append(
            (
                f"`{name}`, {of['frames']:,.0f} frames, {of['types']:.0f} types",
                *at,
                f"{of['wanted']:.3f}",
                f"{shown}; bar ≤ {percent(bar, 0)}: {verdict(reached is not None and reached <= bar)}",
            )
        )
    head = (
        f"data set | random, {percent(bar, 0)} of the labels | `informative`, {percent(bar, 0)}"
        f" | random, {percent(of_share, 0)} | `informative` reaches that with"
    )
    return table(head, rows)
