"""Writes a GENERATED history of lines: changes, defects, and the countermeasures that were tried.

It is made up, to show the format and to try `lineside train recommender` without data of your own: nothing in it says
anything about a real line.

    python examples/countermeasures.py history.csv

Each line has troubles one after the other. A trouble begins with a change or without one, shows some defects, and ends
with the countermeasure that helped (label 1). One that was tried before and did not help has label 0.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

CAUSES = {
    "dirty-roller": ("", ("scratch", "scratch", "stain"), "clean-roller"),
    "worn-die": ("", ("burr", "burr", "crack"), "change-die"),
    "wrong-oil": ("new-oil", ("stain", "stain", "scratch"), "flush-oil"),
    "soft-coil": ("new-coil", ("dent", "crack", "dent"), "lower-force"),
    "misaligned": ("new-coil", ("burr", "scratch", "burr"), "realign-guide"),
    "cold-start": ("long-stop", ("crack", "dent", "crack"), "warm-up"),
}
"""Cause to the change before it, the defects that it shows, and the countermeasure that helps."""

ATTRIBUTES = {
    "clean-roller": "roller|minutes",
    "change-die": "die|hours",
    "flush-oil": "oil|hours",
    "lower-force": "press|minutes",
    "realign-guide": "guide|minutes",
    "warm-up": "press|minutes",
}

LINES, TROUBLES, SEED = 60, 25, 7
WRONG_FIRST, OTHER_DEFECT = 0.35, 0.15


def rows(rng: random.Random) -> list[tuple[str, str, int, int, str]]:
    """Returns the rows ``(line, event, time, label, attributes)``."""
    defects = sorted({defect for _, shown, _ in CAUSES.values() for defect in shown})
    found = []
    for line in range(LINES):
        events: list[tuple[str, int, str]] = []
        for _ in range(TROUBLES):
            change, shown, right = CAUSES[rng.choice(list(CAUSES))]
            if change:
                events.append((f"change:{change}", 1, "change"))
            for defect in rng.sample(shown, rng.randint(2, 3)):
                seen = rng.choice(defects) if rng.random() < OTHER_DEFECT else defect
                events.append((f"defect:{seen}", 1, "defect"))
            if rng.random() < WRONG_FIRST:
                wrong = rng.choice([measure for measure in ATTRIBUTES if measure != right])
                events.append((f"measure:{wrong}", 0, f"measure|{ATTRIBUTES[wrong]}"))
            events.append((f"measure:{right}", 1, f"measure|{ATTRIBUTES[right]}"))
        found += [(f"line-{line}", event, time, label, about) for time, (event, label, about) in enumerate(events)]
    return found


def main() -> None:
    """Writes the file that the command line names."""
    with Path(sys.argv[1]).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "item", "time", "label", "attributes"))
        writer.writerows(rows(random.Random(SEED)))


if __name__ == "__main__":
    main()
