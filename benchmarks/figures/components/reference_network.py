"""Table of the detector that compares with a reference."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, fixed, percent, table, verdict

GOOD = ("drawn", "repaired")
WORSE = 4 / 3
CONDITIONS = {"aligned": "as photographed", "displaced": "±5 px, ±2°, brightness ±10 %"}


@block("reference_network", "reference_network")
def reference_network(found: Value) -> str:
    """Designs that were not trained on: mAP and verdicts, as photographed and displaced."""
    reached = {"aligned": _reached(found["aligned"], found["bars"]), "displaced": _little_worse(found)}
    rows = []
    for name, title in CONDITIONS.items():
        of = found[name]
        rows.append(
            (
                title,
                fixed(of["map50"].number, 3),
                fixed(of["map33"].number, 3),
                _rate(of["found"]),
                *(_rate(of["false_rejects"][kind]) for kind in GOOD),
                fixed(min(of["auroc"][kind].number for kind in GOOD), 4),
                f"{of['compose_ms'].number:.0f} + {of['infer_ms'].number:.0f}",
                verdict(reached[name]),
            )
        )
    head = [
        "boards",
        "mAP@0.5",
        "mAP@0.33",
        "bad found",
        "drawn good rejected",
        "repaired good rejected",
        "AUROC",
        "ms, compose + infer",
        "",
    ]
    return f"{_parts(found)}\n\n{table(head, rows)}"


def _reached(of: Value, bars: Value) -> bool:
    return (
        of["map50"].number >= bars["map50"].number
        and all(of["false_rejects"][kind]["share"].number <= bars["false_rejects"].number for kind in GOOD)
        and of["found"]["share"].number >= bars["found"].number
    )


def _little_worse(found: Value) -> bool:
    """Returns whether what is lost on displaced boards is at most a third more."""
    pairs = [
        (1 - found[name]["map50"].number, *(found[name]["false_rejects"][kind]["share"].number for kind in GOOD))
        for name in CONDITIONS
    ]
    return all(displaced <= aligned * WORSE for aligned, displaced in zip(*pairs, strict=True))


def _parts(found: Value) -> str:
    rows = [
        (
            ", ".join(each.text for each in part["designs"].values()),
            f"{part['trained_on']['train'].number:.0f}",
            f"{part['steps'].number:.0f}",
            fixed(part["map50_aligned"].number, 3),
            fixed(part["map50_displaced"].number, 3),
        )
        for part in found["parts"].values()
    ]
    return table(["designs judged", "boards trained on", "steps", "mAP@0.5", "displaced"], rows)


def _rate(of: Value) -> str:
    low, high = (percent(of[end].number) for end in ("low", "high"))
    return f"{of['count'].number:.0f} of {of['of'].number:.0f} ({between(low, high)})"
