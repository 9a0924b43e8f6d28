"""Tables of the quantum head."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, table, verdict

NAMES = {
    "quantum": "**quantum**",
    "bond_dimension_2": "bond dimension 2",
    "separable": "separable: no entanglement",
    "no_circuit": "no circuit",
    "mlp": "MLP",
    "logistic": "logistic regression",
    "rbf_svm": "RBF SVM",
}


def _title(row: Value) -> str:
    return row["set"].text


@block("quantum.winner", "quantum")
def winner(found: Value) -> str:
    """Says who wins."""
    won: list[str] = []
    lost: list[str] = []
    open_: list[str] = []
    for row in found["rows"].values():
        difference = row["quantum_minus"][row["best_classical"].text]
        place = won if difference["low"].number > 0 else lost if difference["high"].number < 0 else open_
        place.append(_title(row))
    ablations = [_title(row) for row in found["rows"].values() if row["quantum_minus"]["separable"]["low"].number > 0]
    count = len(won) + len(lost) + len(open_)
    sentences = [
        f"The quantum head beats the best classical head on {_list(won, count)}, loses to it on {_list(lost, count)}, "
        f"and shows no difference on {_list(open_, count)}.",
        f"It beats the same circuit without entanglement on {_list(ablations, count)}.",
    ]
    if not won:
        sentences.append("The quantum head wins nowhere: it stays an experiment.")
    elif lost or open_:
        sentences.append("No advantage in general follows from this.")
    return " ".join(sentences)


def _list(names: list[str], of: int) -> str:
    return f"{len(names)} of {of}" + (f" ({'; '.join(names)})" if names and len(names) < of else "")


@block("quantum.heads", "quantum")
def heads(found: Value) -> str:
    """Top-1 of each head on each set."""
    rows = []
    for key, name in NAMES.items():
        cells = [row["heads"][key] for row in found["rows"].values()]
        rows.append((name, *(f"{cell['top1']:.3f}" for cell in cells)))
    return table(["top-1 on val", *map(_title, found["rows"].values())], rows)


@block("quantum.differences", "quantum")
def differences(found: Value) -> str:
    """Difference of the quantum head from the others."""
    rows = []
    for row in found["rows"].values():
        best = row["best_classical"].text
        cells = []
        for key in (best, "separable", "bond_dimension_2"):
            of = row["quantum_minus"][key]
            shown = between(*(f"{of[end]:+.3f}" for end in ("low", "high")))
            cells.append(f"{of['mean']:+.3f} ({shown})")
        rows.append((_title(row), NAMES[best], *cells))
    head = "set | best classical by tuning | quantum minus it | minus separable | minus bond dimension 2"
    return table(head, rows)


@block("quantum.verdicts", "quantum")
def verdicts(found: Value) -> str:
    """Verdicts on parts of the set with good ones."""
    rows = []
    for row in found["rows"].values():
        if "escapes" not in row["heads"]["quantum"]:
            continue
        for key, name in NAMES.items():
            of = row["heads"][key]
            figures = (f"{of[what]:.3f}" for what in ("escapes", "false_rejects"))
            rows.append(
                (
                    _title(row),
                    name,
                    f"{of['parameters']:,.0f}" if of["parameters"].number else "support vectors",
                    *figures,
                )
            )
    return table("set | head | parameters | escapes | false rejects", rows)


@block("quantum.noise", "quantum")
def noise(found: Value) -> str:
    """Top-1 with shots and noise."""
    first = found["noise"][0]
    levels = [key for key in ("depolarizing_0", "depolarizing_0.001", "depolarizing_0.01") if key in first]
    shots = f"{first['shots']:,.0f} shots"
    head = ["set", "frames", "exact", *(f"{shots}, errors {key.removeprefix('depolarizing_')}" for key in levels)]
    rows = [
        (of["set"].text, f"{of['frames']:.0f}", *(f"{of[key]:.3f}" for key in ("exact", *levels)))
        for of in found["noise"].values()
    ]
    return table(head, rows)


@block("quantum.circuit", "quantum")
def circuit(found: Value) -> str:
    """What the exported circuit reaches."""
    of, goals = found["circuit"], found["goals"]
    difference, most = of["difference_from_pennylane"].number, goals["parity"].number
    p99, limit = of["ms"]["head"]["p99"].number, goals["head_ms"].number
    rows = [
        (
            f"difference of an expectation from PennyLane's | {difference:.1e} | ≤ {most:g}"
            f" | {verdict(difference <= most)}"
        ),
        ("head, one core, p99", f"{p99:.3f} ms", f"≤ {limit:g} ms", verdict(p99 <= limit)),
        ("head, median", f"{of['ms']['head']['p50']:.3f} ms", "", ""),
        ("INT8 trunk, median", f"{of['ms']['trunk']['p50']:.1f} ms", "", ""),
    ]
    rows += [
        (f"difference of a gradient from PennyLane's {way}", f"{of['gradient_difference'][way]:.1e}", "", "")
        for way in ("backprop", "parameter-shift")
    ]
    return table(" | measured | goal | ", rows)
