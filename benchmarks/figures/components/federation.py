"""Tables of federated training."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed, spread
from benchmarks.figures.results import Value
from benchmarks.figures.tables import Row, table, verdict


@block("federated", "federated")
@block("federated.boards", "federated.boards")
def federated(found: Value) -> str:
    """Accuracy of federated training beside pooled training and plants alone."""
    bars, pooled = found["bars"], found["pooled"]
    rows: list[Row] = [("all frames together", _spread(pooled), "", "", "", "")]
    for split, ways in found["splits"].items():
        alone = ways["alone"]
        rows.append((f"{split}: each plant alone, mean", _spread(alone["map50"]), "", _lacked(split, alone), "", ""))
        for name, row in ways.items():
            if name in ("pictures", "alone"):
                continue
            share = row["of_pooled"]["mean"].number
            size = max(each["bytes_of_weights"].number for each in row["runs"].values())
            good = share >= bars["of_pooled"].number and size <= bars["bytes_of_weights"].number
            if split == "by type":
                above = row["lacked_ap50"]["mean"].number - alone["lacked_ap50"]["mean"].number
                good = good and above >= bars["above_alone_on_lacked"].number
            rows.append(
                f"{split}: federated, {name} | {_spread(row['map50'])} | {_spread(row['of_pooled'])}"
                f" | {_lacked(split, row)} | {fixed(size, 2)} | {verdict(good)}"
            )
    goal = (
        f"≥ {bars['of_pooled']:g} of all together",
        f"≥ {bars['above_alone_on_lacked']:g} above alone",
        f"≤ {bars['bytes_of_weights']:g}",
    )
    rows.append(("goal", "", goal[0], goal[1], goal[2], ""))
    return table(
        (
            "validation fold | mAP@0.5 | of all together | AP@0.5 of types that a plant lacks"
            " | bytes a round and plant, of the weights | "
        ),
        rows,
    )


def _lacked(split: str, row: Value) -> str:
    return _spread(row["lacked_ap50"]) if split == "by type" else ""


def _spread(value: Value) -> str:
    """A mean, its standard deviation and the values by seed; of one seed its value."""
    if "sd" not in value:
        return fixed(value["mean"].number, 3)
    return spread(value["mean"].number, value["sd"].number, value["per_seed"].numbers)


@block("federated.sums", "federated")
def sums(found: Value) -> str:
    """Sums of long vectors with drop-outs."""
    rows = [
        (
            f"{name} | {int(row['exact'].number)} of {int(row['rounds'].number)} | {row['cpu_s']:sig}"
            f" | {int(row['bytes_of_a_plant'].number):,}"
        )
        for name, row in found["sums"].items()
    ]
    count = int(found["sizes"]["numbers_of_a_sum"].number)
    return table(f"{count:,} numbers of 16 bits | exact | processor seconds, all together | bytes, a plant", rows)


@block("pool.privacy", "pool")
def privacy(found: Value) -> str:
    """Epsilon of private trainings, and the noise that it costs."""
    rows, plants = [], [name for name, _ in found["private_training"][0]["noise_of_mean"].items()]
    for row in found["private_training"].values():
        noise = (f"{row['noise_of_mean'][name]:sig} ×" for name in plants)
        rows.append((f"{row['noise']:g}", f"{row['epsilon']:sig}", *noise))
    first = found["private_training"][0]
    head = f"epsilon of {first['rounds']:.0f} rounds, delta {first['delta']:g}"
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
            f"{row['map50']:.3f}",
            f"{row['bytes_of_weights']:.2f}",
            "the sum alone" if name == "lineside" else "each plant's weights",
        )
        for name, row in found["rows"].items()
    ]
    head = "split by type | rounds | mAP@0.5 | bytes a round and plant, of the weights | what the server sees"
    return table(head, rows)
