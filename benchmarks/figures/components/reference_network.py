"""Tables of what compares with a reference: the classical difference and the detector."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, table, verdict

GOOD = ("drawn", "repaired")
WORSE = 4 / 3
CONDITIONS = {"aligned": "as photographed", "displaced": "±5 px, ±2°, brightness ±10 %"}


HEAD = (
    "boards | mAP@0.5 | mAP@0.33 | bad found | drawn good rejected | repaired good rejected | AUROC"
    " | ms, compose + infer | "
)


@block("reference_network", "reference_network")
def reference_network(found: Value) -> str:
    """Designs that were not trained on: mAP and verdicts, as photographed and displaced."""
    return f"{_parts(found)}\n\n{table(HEAD, _conditions(found, found['bars']))}"


@block("reference", "reference")
def reference(found: Value) -> str:
    """The classical difference: verdicts by design, what `learn-reference` promises, and registration."""
    learned, registration = found["learned"], found["registration"]
    error, same = registration["error_px"], registration["same_place"]
    facts = [
        ("`learn-reference`: good boards learned at each place", f"{learned['good_frames']:.0f}"),
        ("`learn-reference`: other good boards rejected; 1 % is promised", _rate(learned["false_rejects"])),
        ("`learn-reference`: bad boards found", _rate(learned["found"])),
        ("`learn-reference`: processor time of a frame", f"{learned['frame_ms']:.0f} ms"),
        ("registration: error at the worst corner, median and 99 %", f"{error['p50']:.2f} px, {error['p99']:.2f} px"),
        ("registration: least correlation of two photographs of one place", f"{same['least']:.2f}"),
        (
            "registration: greatest correlation of photographs of two designs",
            f"{registration['other_design']['most']:.2f}",
        ),
    ]
    verdicts = table(HEAD, _conditions(found["difference"], found["bars"]))
    return f"{verdicts}\n\n{table(['measured', ''], facts)}"


def _conditions(found: Value, bars: Value) -> list[tuple[str, ...]]:
    reached = {"aligned": _reached(found["aligned"], bars), "displaced": _little_worse(found)}
    rows = []
    for name, title in CONDITIONS.items():
        of = found[name]
        rows.append(
            (
                title,
                f"{of['map50']:.3f}",
                f"{of['map33']:.3f}",
                _rate(of["found"]),
                *(_rate(of["false_rejects"][kind]) for kind in GOOD),
                fixed(min(of["auroc"][kind].number for kind in GOOD), 4),
                f"{of['compose_ms']:.0f} + {of['infer_ms']:.0f}",
                verdict(reached[name]),
            )
        )
    return rows


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
            f"{part['trained_on']['train']:.0f}",
            f"{part['steps']:.0f}",
            f"{part['minutes']:.0f}",
            f"{part['map50_aligned']:.3f}",
            f"{part['map50_displaced']:.3f}",
        )
        for part in found["parts"].values()
    ]
    return table("designs judged | boards trained on | steps | minutes | mAP@0.5 | displaced", rows)


def _rate(of: Value) -> str:
    low, high = (f"{of[end]:.1%}" for end in ("low", "high"))
    return f"{of['count']:.0f} of {of['of']:.0f} ({between(low, high)})"
