"""Table of how exactly boxes on steel agree."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.results import Value
from benchmarks.figures.tables import table


@block("box_agreement", "box_agreement")
def box_agreement(found: Value) -> str:
    """By type: average precision at several overlaps, area in common, agreement of two networks."""
    rows = [
        (
            name,
            f"{of['boxes']:.0f}",
            *(f"{of['ap'][overlap]:.2f}" for overlap in ("0.3", "0.4", "0.5", "0.75")),
            f"{of['area']['recall']:.2f}",
            f"{of['area']['precision']:.2f}",
            *(f"{of['networks'][overlap]:.2f}" for overlap in ("0.3", "0.5")),
        )
        for name, of in found["types"].items()
    ]
    head = "type | boxes | AP@0.3 | AP@0.4 | AP@0.5 | AP@0.75 | annotated area found | found area annotated"
    return table(head + " | AP@0.3 against the parent's boxes | AP@0.5 against the parent's boxes", rows)
