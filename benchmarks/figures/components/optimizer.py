"""Tables of the optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed, percent, signed, spread, times
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, table, verdict

Row = Sequence[str]


CONTROL = "unpruned_taught"
"""Begins the names of the forms that were not pruned; no bar holds for them."""


@block("optimizer.level1", "optimizer.level1")
def level1(found: Value) -> str:
    """Level 1 against the float file in ONNX Runtime."""
    rows: list[Row] = []
    for key, model in {"lite0": "EfficientNet-Lite0", "resnet50": "ResNet-50"}.items():
        of, bars = found[key], found["bars"][key]
        speedup = of["speedup"].number
        bar = bars["speedup"].number
        rows.append((f"{model}: faster by", times(speedup), f"≥ {bar:g} ×", verdict(speedup >= bar)))
        if "drop" in of:
            drop, bar = of["drop"].number, bars["drop"].number
            rows.append(
                (f"{model}: {of['metric'].text}, drop in points", _drop(of), f"≤ {100 * bar:g}", verdict(drop <= bar))
            )
        for ratio, what in {"size_ratio": "file", "memory_ratio": "peak memory"}.items():
            value = of[ratio].number
            judged = (f"≤ {bars[ratio]:g} ×", verdict(value <= bars[ratio].number)) if ratio in bars else ("", "")
            rows.append((f"{model}: {what}", times(value), *judged))
    return table("what | measured | bar | ", rows)


def _drop(of: Value) -> str:
    """Returns a drop in points with its interval; negative is better than before."""
    low, high = (signed(100 * end, 1) for end in of["ci"].numbers)
    return f"{signed(100 * of['drop'].number, 2)} ({between(low, high)})"


@block("optimizer.text_encoder", "optimizer.text_encoder")
def text_encoder(found: Value) -> str:
    """Dynamic INT8 of a text encoder."""
    cosine, drop = found["cosine"]["mean"].number, found["drop"].number
    limits = [float(found["bars"][key].text.split()[-1]) for key in ("cosine", "drop")]
    rows = [
        ("cosine with float, mean", fixed(cosine, 4), f"≥ {limits[0]:g}", verdict(cosine >= limits[0])),
        ("accuracy, drop in points", _drop(found), f"< {100 * limits[1]:g}", verdict(drop < limits[1])),
        ("faster by", f"{found['speedup']:x}", "", ""),
        ("file", f"{found['size_ratio']:x}", "", ""),
    ]
    made = table("what | measured | bar | ", rows)
    return f"{made}\n\n{found['network'].text}, {found['clauses']:,.0f} clauses."


@block("optimizer.others", "optimizer.others")
def others(found: Value) -> str:
    """Level 1 beside Olive and NNCF."""
    names = {
        "float": "float",
        "lineside": "lineside",
        "olive": "Olive, default pass",
        "olive_tuned": "Olive, tuned for x86",
        "nncf": "NNCF",
    }
    rows = []
    for key, model in {"lite0": "EfficientNet-Lite0", "resnet50": "ResNet-50"}.items():
        for name, who in names.items():
            of = found[key]["rows"][name]
            accuracy = (
                f"top-1 {of['top1']:.1%}" + ("" if name == "float" else f", drop {_drop(of)}")
                if "top1" in of
                else f"cosine of logits {of['cosine']:.4f}"
            )
            rows.append(
                f"{model} | {who} | {of['engine'].text} | {of['ms']:spread} | {of['speedup']:x}"
                f" | {of['size_ratio']:x} | {accuracy}"
            )
    made = table("model | tool | engine | ms | faster by | file | accuracy", rows)
    versions = ", ".join(f"{name} {each.text}" for name, each in found["versions"].items())
    judged = " and ".join(f"{found[key]['judged_on']:.0f}" for key in ("lite0", "resnet50"))
    return f"{made}\n\nEvaluated on {judged} photos; {versions}."


@block("pruning.detector", "pruning.detector")
def detector(found: Value) -> str:
    """Level 2 of the shipped detector."""
    of = found
    bars = of["bars"]
    means = of["speed"]["geometric mean"]
    shapes = [name for name, _ in of["speed"].items() if name != "geometric mean"]
    rows = []
    for form, mean in means.items():
        limit, drop_limit = (
            (bars["float"], bars["float_drop"]) if "float" in form else (bars["int8"], bars["int8_drop"])
        )
        speeds = [f"{of['speed'][shape][form]['speedup']:x}" for shape in shapes]
        if form == "float":
            rows.append((form, *speeds, f"{mean['speedup']:x}", *([""] * (len(shapes) + 2))))
            continue
        drops = [of["accuracy_val"][name][form] for name, _ in of["accuracy_val"].items()]
        fast = mean["speedup"].number >= limit.number
        exact = all(each["drop_points"].number <= drop_limit.number for each in drops)
        has_bar = not form.startswith(CONTROL)
        rows.append(
            (
                _form(form),
                *speeds,
                f"{mean['speedup']:x}",
                *(_points(each) for each in drops),
                f"≥ {limit.number:g} ×, ≤ {drop_limit.number:g} points" if has_bar else "",
                f"speed {verdict(fast)}, accuracy {verdict(exact)}" if has_bar else "",
            )
        )
    best = of["speedup_int8"]["geometric mean"].number
    head = ["form", *shapes, "geometric mean", *(f"mAP {name}" for name, _ in of["accuracy_val"].items()), "bar", ""]
    return (
        f"{table(head, rows)}\n\nFastest INT8 form of each shape: {times(best)}, bar ≥ {bars['int8']:g} ×: "
        f"{verdict(best >= bars['int8'].number)}."
    )


def _form(name: str) -> str:
    return name.replace(CONTROL, "not pruned, taught as long:")


def _points(of: Value) -> str:
    """Returns accuracy before and after, and the drop in points with its interval; negative is better than before."""
    low, high = (signed(end, 1) for end in of["interval_points"].numbers)
    return f"{of['before']:.3f} → {of['after']:.3f}, drop {signed(of['drop_points'].number, 1)} ({between(low, high)})"


@block("pruning.classifier", "pruning.classifier")
def classifier(found: Value) -> str:
    """Level 2 of a ResNet-18."""
    of = found
    bar, drop_bar = of["bars"]["int8"].number, of["bars"]["drop"].number
    rows = []
    for form, mean in of["speed"]["geometric mean"].items():
        speedup = mean["speedup"].number
        if form not in of["accuracy_val"]:
            rows.append((form, times(speedup), "", "", ""))
            continue
        accuracy = of["accuracy_val"][form]
        reached = speedup >= bar, accuracy["drop_points"].number <= drop_bar
        judged = f"speed {verdict(reached[0])}, accuracy {verdict(reached[1])}"
        has_bar = "int8" in form and not form.startswith(CONTROL)
        rows.append(
            (
                _form(form),
                times(speedup),
                _points(accuracy),
                f"≥ {bar:g} ×, ≤ {drop_bar:g} points" if has_bar else "",
                judged if has_bar else "",
            )
        )
    return table("form | faster by | top-1 on the validation folds | bar | ", rows)


@block("pruning.distilling", "pruning.distilling")
def distilling(found: Value) -> str:
    """A student with and without a teacher."""
    of = found
    share, bar = of["share_of_teacher"].number, of["bars"]["share_of_teacher"].number
    gain = of["gain_points"].number
    top1 = {name: ", ".join(percent(each) for each in of["top1"][name].numbers) for name in ("taught", "alone")}
    size = of["student_macs"].number / of["teacher_macs"].number
    rows = [
        ("teacher, top-1", f"{of['teacher_top1']:.1%}", "", ""),
        (f"student of {times(size)} the multiplications, taught", top1["taught"], "", ""),
        ("the same student alone", top1["alone"], "", ""),
        ("mean of the student over the teacher", percent(share), f"≥ {percent(bar, 0)}", verdict(share >= bar)),
        ("gain by the teacher, points", signed(gain, 2), "> 0", verdict(gain > 0)),
    ]
    return table("what | measured | bar | ", rows)


@block("search.slimmable", "search.slimmable")
def slimmable(found: Value) -> str:
    """Several widths of one training against a training of each."""
    bars, cost, of = found["bars"], found["cost"]["ratio"].number, found["sizes"]
    rows = []
    for row in found["widths"].values():
        apart, low, high = (row[name].number for name in ("points", "low", "high"))
        what = f"top-1 at width {row['width']:g}"
        measured = f"{row['slimmable_top1']:.1%}, alone {row['own_top1']:.1%}"
        reached = verdict(apart >= -bars["points"].number)
        rows.append((what, measured, f"{apart:+.1f} points ({low:+.1f} to {high:+.1f})", "≥ -1 point", reached))
    rows.append(("cost", "", times(cost), f"≤ {bars['cost']:g} ×", verdict(cost <= bars["cost"].number)))
    for key, what in {"file_ratio": "INT8 files on disk", "sent_ratio": "INT8 files, compressed"}.items():
        size = found[key].number
        rows.append((what, "", times(size), f"≤ {bars['size']:g} ×", verdict(size <= bars["size"].number)))
    made = table("what | measured | difference or ratio | bar | ", rows)
    return (
        f"{made}\n\n{of['side_px']:.0f} pixels, {of['epochs']:.0f} epochs, "
        f"{of['judged']:.0f} judged pictures in {of['folds']:.0f} folds; intervals of 95 %, paired. "
        "Cost: processor time of the training against an ordinary training of the whole network. Sizes: against the "
        "widest network alone."
    )


@block("search.front", "search.front")
def search_front(found: Value) -> str:
    """Level 3 with annotated data against level 3 without, and against random search."""
    areas, budget, shipped, limit = found["hypervolume"], found["budget"], found["shipped"], found["compute_max"].number
    rows: list[tuple[str, ...]] = []
    for each in found["compared"].values():
        names, ratio, compute = (
            (each["search"].text, each["baseline"].text),
            each["ratio"].number,
            each["compute"].number,
        )
        good = verdict(ratio >= each["bar"].number and compute <= limit)
        rows.append(
            (
                *names,
                *(_area(areas[name]) for name in names),
                times(ratio),
                f"≥ {each['bar']:g} ×",
                times(compute),
                good,
            )
        )
    count = found["dominating"].number
    made = table(
        f"search | baseline | its hypervolume | the baseline's | ratio | bar | processor time (≤ {limit:g} ×) | ", rows
    )
    made += (
        f"\n\nNetworks of a search with data that are faster than the source and no worse: {count:.0f}, bar ≥ 1: "
        f"{verdict(count >= 1)}. From several widths against from the ordinary training: "
        f"{times(found['widths_against_ordinary'].number)}."
    )
    points = table(
        "search | seed | ms | error | network",
        [("the source, INT8", "", f"{shipped['ms']:.3f}", f"{shipped['error']:.1%}", "")]
        + [
            (row["series"].text, f"{row['seed']:g}", f"{row['ms']:.3f}", f"{row['error']:.1%}", row["what"].text)
            for row in found["points"].values()
            if row["front"].truth or row["dominates_shipped"].truth
        ],
    )
    longer = ""
    if "finished_epochs" in budget:
        epochs, usual = (budget[name].number for name in ("finished_epochs", "form_epochs"))
        longer = f" Trained for longer: {epochs:.0f} epochs of the slowest network in place of {usual:.0f}."
    seconds = ", ".join(
        f"{name} {sum(each.numbers) / len(each.numbers):.0f} s" for name, each in found["cpu_s"].items()
    )
    return (
        f"{made}\n\n{budget['side_px']:.0f} pixels, {len(found['seeds'].values())} seeds. Processor time of a "
        f"search: {seconds}.{longer} Error: share of wrong answers on parts that no search has seen."
        f" The front of all networks, and those that are faster than the source and no worse:\n\n{points}"
    )


def _area(of: Value) -> str:
    """Returns the mean hypervolume of several seeds, its standard deviation and each value."""
    return spread(of["mean"].number, of["sd"].number, of["per_seed"].numbers)


@block("pruning.detector_control", "pruning.detector")
def detector_control(found: Value) -> str:
    """What pruning itself costs a detector."""
    return _control({} if "cost_of_pruning_val" not in found else dict(found["cost_of_pruning_val"].items()))


@block("pruning.classifier_control", "pruning.classifier")
def classifier_control(found: Value) -> str:
    """What pruning itself costs a classifier."""
    return _control({} if "cost_of_pruning_val" not in found else {"validation folds": found["cost_of_pruning_val"]})


def _control(sets: dict[str, Value]) -> str:
    """Returns the pruned network beside an unpruned one after as many steps with the same teacher."""
    if not sets:
        return "The control (an unpruned network, taught as long by the same teacher) was not measured yet."
    rows = [(data, form, _points(cost)) for data, each in sets.items() for form, cost in each.items()]
    return table("data | form | unpruned and taught → pruned and taught", rows)


@block("yolo11n", "yolo11n")
def yolo(found: Value) -> str:
    """Accuracy and speed of the same networks, after the same time of training, from two kinds of start."""
    rows: list[tuple[str, ...]] = []
    for start, of in found["starts"].items():
        for name, what in {"lineside": "`surface-12`'s network", "yolo11n": "YOLO11n"}.items():
            row = of[name]
            if "left_out" in row:
                rows.append((start, what, f"left out: {row['left_out'].text}", "", "", "", ""))
                continue
            speeds = [format(each[f"{name}_int8_ms"], "spread") for _, each in of["speed"].items()]
            accuracy = [f"{row[key]:.3f}" for key in ("map50_float", "map50_int8")]
            rows.append((start, f"{what}, from {row['start'].text}", f"{row['processor_s']:,.0f}", *accuracy, *speeds))
    sizes = [f"INT8, ms, {size}" for size, _ in next(iter(found["starts"].items()))[1]["speed"].items()]
    head = ["start", "network", "processor time of the training, s", "mAP@0.5 float", "INT8", *sizes]
    return table(head, rows)
