"""Tables of federated training."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.results import Value
from benchmarks.figures.tables import fixed, significant, table, verdict


@block("federated", "federated")
def federated(found: Value) -> str:
    """Accuracy of federated training beside pooled training and plants alone."""
    bars, pooled = found["bars"], found["pooled"]["map50"].number
    rows = []
    for split, ways in found["splits"].items():
        alone = ways["alone"]
        rows.append((f"{split}: all frames together", fixed(pooled, 3), "", "", "", ""))
        rows.append(
            (f"{split}: each plant alone, mean", fixed(alone["map50"].number, 3), "", _lacked(split, alone), "", "")
        )
        for name in [each for each in ("plain average", "outer rate 1.73", "local norms") if each in ways]:
            row = ways[name]
            share, size = row["of_pooled"].number, row["bytes_of_weights"].number
            good = share >= bars["of_pooled"].number and size <= bars["bytes_of_weights"].number
            if split == "by type":
                above = row["lacked_ap50"].number - alone["lacked_ap50"].number
                good = good and above >= bars["above_alone_on_lacked"].number
            rows.append(
                (
                    f"{split}: federated, {name}",
                    fixed(row["map50"].number, 3),
                    fixed(share, 3),
                    _lacked(split, row),
                    fixed(size, 2),
                    verdict(good),
                )
            )
    goal = (
        f"≥ {bars['of_pooled'].number:g} of all together",
        f"≥ {bars['above_alone_on_lacked'].number:g} above alone",
        f"≤ {bars['bytes_of_weights'].number:g}",
    )
    rows.append(("goal", "", goal[0], goal[1], goal[2], ""))
    return table(
        [
            "validation fold",
            "mAP@0.5",
            "of all together",
            "AP@0.5 of types that a plant lacks",
            "bytes a round and plant, of the weights",
            "",
        ],
        rows,
    )


def _lacked(split: str, row: Value) -> str:
    return fixed(row["lacked_ap50"].number, 3) if split == "by type" else ""


@block("federated.sums", "federated")
def sums(found: Value) -> str:
    """Sums of long vectors with drop-outs."""
    rows = [
        (
            name,
            f"{int(row['exact'].number)} of {int(row['rounds'].number)}",
            significant(row["cpu_s"].number),
            f"{int(row['bytes_of_a_plant'].number):,}",
        )
        for name, row in found["sums"].items()
    ]
    count = int(found["sizes"]["numbers_of_a_sum"].number)
    return table([f"{count:,} numbers of 16 bits", "exact", "processor seconds, all together", "bytes, a plant"], rows)


@block("pool.privacy", "pool")
def privacy(found: Value) -> str:
    """Epsilon of private trainings, and the noise that it costs."""
    rows, plants = [], [name for name, _ in found["private_training"][0]["noise_of_mean"].items()]
    for row in found["private_training"].values():
        noise = (f"{significant(row['noise_of_mean'][name].number)} ×" for name in plants)
        rows.append((f"{row['noise'].number:g}", significant(row["epsilon"].number), *noise))
    first = found["private_training"][0]
    head = f"epsilon of {first['rounds'].number:.0f} rounds, delta {first['delta'].number:g}"
    return table(["`--noise`", head, *(f"noise of the mean, {name} plants" for name in plants)], rows)


@block("federated_peer", "federated_peer")
def federated_peer(found: Value) -> str:
    """The same training by Flower."""
    version = found["versions"]["flwr"].text
    names = {"lineside": "lineside: masked sums over MQTT", "Flower": f"Flower {version}: FedAvg over HTTP"}
    rows = [
        (
            names[name],
            str(int(row["rounds"].number)),
            fixed(row["map50"].number, 3),
            fixed(row["bytes_of_weights"].number, 2),
            "the sum alone" if name == "lineside" else "each plant's weights",
        )
        for name, row in found["rows"].items()
    ]
    head = ["split by type", "rounds", "mAP@0.5", "bytes a round and plant, of the weights", "what the server sees"]
    return table(head, rows)
