"""Tables of the inspector and of the shipped detectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed, percent, signed
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, table, verdict

SETS = {"neu-det": "NEU-DET", "deeppcb": "DeepPCB"}
SHIPPED, ONCE, PARENT, STARTER = "surface-12", "surface-12, onnx-int8", "surface-12-float", "surface-starter"
DETECTORS = {
    SHIPPED: "`surface-12`",
    ONCE: "`surface-12`, variant `onnx-int8`",
    PARENT: "`surface-12-float`",
    STARTER: "`surface-starter`",
}
PREDICT_BAR = 0.9
MEASURED_BY = ("scale alone: rms px; R&R", "contour, rectangle or area", "contour, upright box")
THRESHOLDS = {"shipped": "the bundle's own", "at_0.9": "0.9"}


def _sets(found: Value, detector: str) -> Iterator[tuple[str, str, Value]]:
    for key, name in SETS.items():
        yield key, name, found["detectors"][detector]["sets"][key]


def _rate(of: Value, what: str, digits: int = 3) -> str:
    """Returns a rate and its interval."""
    if what not in of:
        return "–"
    low, high = (fixed(end, digits) for end in of[f"{what}_interval"].numbers)
    return f"{fixed(of[what].number, digits)} ({between(low, high)})"


def _share(of: Value, what: str) -> str:
    """Returns a rate with its counts: right ones of all that are found (precision) or there (recall)."""
    whole = of["right"].number + of["wrong" if what == "precision" else "missed"].number
    return f"{_rate(of, what, 2)}, {of['right']:.0f} of {whole:.0f}"


def _rejected(of: Value) -> str:
    low, high = (percent(end) for end in of["interval"].numbers)
    return f"{of['rejected']:g} of {of['parts']:g} ({between(low, high)})"


def _summary(found: Value, detectors: Sequence[str], *, bars: bool) -> str:
    rows = []
    for detector in detectors:
        for key, name, of in _sets(found, detector):
            map50, f1 = of["map50"].number, of["shipped"]["images"]["f1"].number
            limits = [found["bars"][what][key].number for what in ("map50", "f1_images")]
            judged = [
                f" ≥ {limit:g}: {verdict(value >= limit)}" for value, limit in zip((map50, f1), limits, strict=True)
            ]
            cells = (_rate(of, "map50"), _rate(of["shipped"]["images"], "f1"))
            shown = [
                f"{cell}; bar{end}" if bars and detector == SHIPPED else cell
                for cell, end in zip(cells, judged, strict=True)
            ]
            rows.append(
                (DETECTORS[detector], f"{name}, {of['frames']:.0f} frames", *shown, _rate(of["shipped"]["boxes"], "f1"))
            )
    return table("detector | validation fold | mAP@0.5 | image F1 | box F1", rows)


def _thresholds(found: Value, detector: str) -> str:
    rows = []
    for _, name, of in _sets(found, detector):
        for key, what in THRESHOLDS.items():
            at = of[key]
            rows.append(
                (
                    name,
                    what,
                    *(_share(at["boxes"], rate) for rate in ("precision", "recall")),
                    *(_share(at["images"], rate) for rate in ("precision", "recall")),
                )
            )
    head = (
        "validation fold | threshold | precision of boxes | recall of boxes | precision, image and type"
        " | recall, image and type"
    )
    return table(head, rows)


def _parts(found: Value, detector: str, *, bars: bool) -> str:
    rows = []
    for key, name, of in _sets(found, detector):
        bar = found["bars"]["false_reject_rate"][key].number
        ways = {what: of[each]["parts"] for each, what in THRESHOLDS.items()}
        chosen = of["at_99_recall"]
        factor = f"{chosen['factor']:.2f}"
        ways[f"the bundle's own × {factor}, for 99 % recall on {chosen['chosen_on'].text}"] = chosen["parts"]
        for what, parts in ways.items():
            good = [f"{each['source'].text}: {_rejected(each)}" for each in parts["good"].values()]
            rates = [each["rate"].number for each in parts["good"].values()]
            judged = f"; bar ≤ {percent(bar, 0)}: {verdict(max(rates) <= bar)}" if bars and "recall" in what else ""
            rows.append((name, what, _rejected(parts["bad"]), "; ".join(good) + judged))
    return table("validation fold | threshold | bad parts rejected | good parts rejected", rows)


def _types(found: Value, detector: str) -> str:
    rows = []
    for _, _, of in _sets(found, detector):
        for name, own in of["shipped"]["types"].items():
            high = of["at_0.9"]["types"][name]
            rows.append(
                (
                    name,
                    f"{of['ap50'][name]:.3f}" if name in of["ap50"] else "–",
                    *(_share(own["boxes"], rate) for rate in ("precision", "recall")),
                    _rate(own["images"], "f1", 2),
                    *(_share(high["boxes"], rate) for rate in ("precision", "recall")),
                    *(_share(high["images"], rate) for rate in ("precision", "recall")),
                )
            )
    head = (
        "type | AP@0.5 | precision | recall | image F1 | precision of boxes at 0.9 | recall of boxes at 0.9"
        " | precision of images at 0.9 | recall of images at 0.9"
    )
    return table(head, rows)


@block("accuracy.summary", "accuracy")
def summary(found: Value) -> str:
    """Every shipped detector, with the bars."""
    return _summary(found, tuple(DETECTORS), bars=True)


@block("accuracy.readme", "accuracy")
def readme(found: Value) -> str:
    """The shipped detector at its own thresholds and at 0.9, and the parts that these reject."""
    tables = (_summary(found, [SHIPPED], bars=False), _thresholds(found, SHIPPED), _parts(found, SHIPPED, bars=False))
    return "\n\n".join(tables)


@block("verdicts", "verdicts")
def verdicts(found: Value) -> str:
    """Escapes and false rejects on boards."""
    rows = [_verdicts("thresholds with the best F1 of types (2.1.0)", found["best_f1"], found)]
    for share, each in found["tolerated"].items():
        rows.append(_verdicts(f"chosen on the other boards for {percent(float(share))} false rejects", each, found))
    rows.append(_verdicts("as shipped, chosen on the train fold, on the validation fold", found["shipped"], found))
    head = "thresholds | good boards rejected | bad boards missed |  | single types missed"
    return table(head, rows)


@block("verdicts.calibration", "verdicts")
def calibration(found: Value) -> str:
    """How often scores are right, calibrated on other parts."""
    rows = []
    for data, of in found["calibration"].items():
        for each in of["bins"].values():
            low, high, count = (each[key].number for key in ("low", "high", "candidates"))
            shares = (f"{each[key]:.2f}" for key in ("score", "right"))
            rows.append((SETS[data], f"{low:.1f} to {high:.1f}", f"{count:.0f}", *shares))
    return table("train fold | best score of a type in a frame | frames | mean score | show the type", rows)


def _verdicts(name: str, of: Value, found: Value) -> tuple[str, ...]:
    false, missed = of["false_rejects"], of["missed"]
    reached = (
        false["share"].number <= found["bars"]["false_rejects"].number
        and missed["share"].number <= 1 - found["bars"]["found"].number
    )
    return name, _of_parts(false), _of_parts(missed), verdict(reached), _of_parts(of["types_missed"])


def _of_parts(of: Value) -> str:
    count, total = of["count"].number, of["of"].number
    return f"{count:.0f} of {total:.0f} ({of['low']:.1%} to {of['high']:.1%})"


@block("accuracy.parts", "accuracy")
def parts(found: Value) -> str:
    """Rejected parts, bad and good, with the bars."""
    return _parts(found, SHIPPED, bars=True)


@block("accuracy.types", "accuracy")
def types(found: Value) -> str:
    """Every type of the shipped detector."""
    return _types(found, SHIPPED)


@block("card.surface-12", "accuracy", ages=False)
def card(found: Value) -> str:
    """The model card of the shipped detector."""
    return _card(found, (SHIPPED, ONCE))


@block("card.surface-12-float", "accuracy", ages=False)
def card_of_parent(found: Value) -> str:
    """The model card of its float parent."""
    return _card(found, (PARENT,))


@block("card.surface-starter", "accuracy", ages=False)
def card_of_starter(found: Value) -> str:
    """The model card of the detector that learned drawn frames alone."""
    return _card(found, (STARTER,))


def _card(found: Value, detectors: Sequence[str]) -> str:
    first = detectors[0]
    tables = (
        _summary(found, detectors, bars=False),
        _thresholds(found, first),
        _parts(found, first, bars=False),
        _types(found, first),
    )
    return "\n\n".join(tables)


PROTOCOLS = {
    "published": "published: good images divided at random",
    "by_tile": "by tile: no judged tile was learned",
}


@block("learn_good", "learn_good")
def learn_good(found: Value) -> str:
    """Anomaly detection learned from good parts, by both protocols."""
    bars = found["bars"]
    rows = []
    for key, name in PROTOCOLS.items():
        of, bar = found[key], bars["by_tile" if key == "by_tile" else "published"].number
        rates = of["false_rejects"].number
        rows.append(
            f"{name} | {max(of['learned'].numbers):.0f}, {max(of['entries'].numbers):,.0f}"
            f" | {_rate(of, 'auroc')}; bar ≥ {bar:g}: {verdict(of['auroc'].number >= bar)}"
            f" | {of['auroc_pixels']:.3f}; bar ≥ {bars['pixels']:g}: "
            f"{verdict(of['auroc_pixels'].number >= bars['pixels'].number)}"
            f" | {_percents(of, 'false_rejects')}; bar ≤ {bars['false_rejects']:.1%}: "
            f"{verdict(rates <= bars['false_rejects'].number)}"
            f" | {_percents(of, 'recall')}"
        )
    head = (
        "protocol | frames learned, entries | AUROC of frames | AUROC of pixels"
        " | good frames rejected, 1 % stated | bad frames found"
    )
    return table(head, rows)


@block("learn_good.types", "learn_good")
def learn_good_types(found: Value) -> str:
    """AUROC by kind of defect, of frames and of pixels."""
    kinds = [(kind, of["frames"].number) for kind, of in found["by_tile"]["types"].items()]
    rows = [
        (f"{name}, {what}", *(f"{found[key]['types'][kind][figure]:.2f}" for kind, _ in kinds))
        for figure, what in (("auroc", "frames"), ("auroc_pixels", "pixels"))
        for key, name in PROTOCOLS.items()
    ]
    return table(["AUROC", *(f"{kind.removeprefix('MT_')}, {count:.0f} frames" for kind, count in kinds)], rows)


@block("learn_good.peaks", "learn_good")
def learn_good_peaks(found: Value) -> str:
    """AUROC by the number of cells that make a frame's score."""
    counts = [count for count, _ in found["by_tile"]["auroc_peaks"].items()]
    rows = [
        (PROTOCOLS[key], *(f"{found[key]['auroc_peaks'][count]:.3f}" for count in counts))
        for key in ("published", "by_tile")
    ]
    return table(["AUROC by the greatest cells that are averaged", *counts], rows)


@block("learn_good.few", "learn_good")
def learn_good_few(found: Value) -> str:
    """Few good frames, bad ones among them."""
    rows = []
    for frames, cases in found["frames"].items():
        for name, of in cases.items():
            share, _, how = name.partition(" bad")
            named = f"{of['bad_named']:.0f} of {of['bad_learned']:.0f}"
            rows.append(
                (
                    frames + how,
                    ", ".join(f"{parts:.0f}" for parts in of["parts"].numbers),
                    f"{of['entries']:,.0f}",
                    percent(float(share), 0),
                    named if of["bad_learned"].number else "",
                    _rate(of, "auroc"),
                    _percents(of, "false_rejects"),
                    _percents(of, "recall"),
                )
            )
    head = (
        "frames learned | tiles, each draw | entries | bad ones among them | bad ones named | AUROC by tile"
        " | good frames rejected, 1 % stated | bad frames found"
    )
    return table(head, rows)


@block("learn_good.more", "learn_good")
def learn_good_more(found: Value) -> str:
    """Five frames shown, and marked bad parts."""
    shown, bars = found["shown"], found["bars"]
    cases = [
        ("the tiles of the next row, before", shown["before"], None),
        ("five good frames of the tile shown (`--add`)", shown["after"], bars["shown"].number),
        ("all tiles, good frames only", found["by_tile"], bars["by_tile"].number),
    ]
    for count, of in found["marked"].items():
        cases.append((f"{count} bad frames marked (`--bad`)", of, bars["marked"][count].number))
    rows = []
    for name, of, bar in cases:
        judged = "" if bar is None else f"; bar ≥ {bar:g}: {verdict(of['auroc'].number >= bar)}"
        counts = f"{of['good']:.0f} good, {of['bad']:.0f} bad"
        rows.append(
            (name, counts, _rate(of, "auroc") + judged, _percents(of, "false_rejects"), _percents(of, "recall"))
        )
    return table("by tile | judged | AUROC | good frames rejected, 1 % stated | bad frames found", rows)


@block("learn_good.speed", "learn_good")
def learn_good_speed(found: Value) -> str:
    """Seconds of learning and milliseconds a frame."""
    speed, bars = found["speed"], found["bars"]
    frames, most = speed["frames"].number, max(found["published"]["learned"].numbers)
    small, large = (speed[name] for name in ("smallest", "largest"))
    seconds = {frames: speed["learning_s"].number, most: found["published"]["learning_s"].number}
    rows = [
        (
            f"{count:.0f} | {of['entries']:,.0f} | {of['bundle_bytes']:.1MB} MB"
            f" | {fixed(seconds[count], 1)} s; bar ≤ {bars['learning_s']:g} s: "
            f"{verdict(seconds[count] <= bars['learning_s'].number)}"
            f" | {of['latency_ms']:spread} ms; bar ≤ {bars['latency_ms']:g} ms: "
            f"{verdict(of['latency_ms']['p50'].number <= bars['latency_ms'].number)}"
        )
        for count, of in ((frames, small), (most, large))
    ]
    return table("frames learned | entries a scale | bundle | learning | a frame", rows)


@block("bank_quantization", "bank_quantization")
def bank_quantization(found: Value) -> str:
    """Forms of the bank, and ways to search it."""
    rows = []
    for most, bank in found["banks"].items():
        for form, of in bank["forms"].items():
            shipped = form == "int8"
            low, high = (signed(end, 4) for end in of["gain_interval"].numbers)
            gain = "" if shipped else f"{signed(of['gain'].number, 4)} ({between(low, high)})"
            search = ", ".join(f"{way}: {each:spread} ms" for way, each in bank["search_ms"].items())
            rows.append(
                f"{bank['frames']:.0f} (whole tiles, at most {most}), {bank['entries']:,.0f}"
                f" | {'INT8, as shipped' if shipped else form.removesuffix(' a byte') + ' values a byte'}"
                f" | {of['bank_bytes']:.2MB} MB | {of['model_bytes']:.2MB} MB | {of['auroc']:.4f} | {gain}"
                f" | {search if shipped else ''}"
            )
    return table(
        "frames learned, entries | bank | both scales | network and bank | AUROC by tile | gain | search of a frame",
        rows,
    )


def _percents(of: Value, what: str) -> str:
    """Returns a share as per cent and its interval."""
    low, high = (percent(end) for end in of[f"{what}_interval"].numbers)
    return f"{of[what]:.1%} ({between(low, high)})"


@block("measurement", "measurement")
def measurement(found: Value) -> str:
    """Measuring rules and OpenCV's contours on drawn parts."""
    rows = []
    for camera, of in found["cameras"].items():
        for name, rule in of["rules"].items():
            rms = rule["error_px"]["rms"].number
            rows.append(
                (
                    camera,
                    name,
                    *(f"{rule['error_px'][part]:.3f}" for part in ("bias", "rms", "p95")),
                    fixed(1000 * rule["error_mm"]["rms"].number, 1),
                    _repeatability(rule),
                    verdict(rms <= found["bars"]["rms_px"].number),
                    *(_measured_by(of[method], name) for method in ("scale", "rectangle", "box")),
                )
            )
    bar = f"rms ≤ {found['bars']['rms_px']:g} px"
    head = ["camera", "size", "bias px", "rms px", "p95 px", "rms µm", "R&R of ±0.05 mm", bar, *MEASURED_BY]
    times = [(name, f"{each:spread}") for name, each in found["times"].items()]
    return f"{table(head, rows)}\n\n{table(['one core, 640 x 480', 'ms a frame'], times)}"


def _repeatability(of: Value) -> str:
    return f"{of['rr_percent']:.0f} %" if "rr_percent" in of else "–"


def _measured_by(of: Value, name: str) -> str:
    """Returns the error and the R&R of another method."""
    return f"{of[name]['error_px']['rms']:.2f}; {_repeatability(of[name])}" if name in of else "–"


READERS = {"lineside": "lineside", "zxing-cpp": "zxing-cpp alone", "opencv": "OpenCV", "zbar": "ZBar"}


@block("codes", "codes")
def codes(found: Value) -> str:
    """Read rates of codes, ours and others', by condition; then wrong texts and times."""
    symbologies = list(dict(found["region"].items()))
    rows = [
        (name, *(" / ".join(_read_rate(of[one], reader) for reader in READERS) for one in symbologies))
        for name, of in found["conditions"].items()
    ]
    rates = table(["condition", *symbologies], rows)
    totals = [_codes_row(symbology, reader, found) for symbology in symbologies for reader in READERS]
    bar = f"≥ {found['bars']['codes_a_second']:g} codes a second"
    head = f"all conditions | reader | read | wrong texts | ms a frame | codes a second | {bar}"
    cuts = [
        (name, f"{of['read']:.0%}", f"{of['ms']['all']:.1f}", f"{of['codes_a_second']:.0f}")
        for name, of in found["region"].items()
    ]
    speeds = table("plain, region of 240 x 240 | read | ms | codes a second", cuts)
    blank = [
        (f"no code, {name}, four symbologies", f"{of['wrong']:g} of {of['frames']:g}", f"{of['ms']:spread}")
        for name, of in found["empty"].items()
    ]
    speeds += f"\n\n{table(['', 'wrong texts', 'ms'], blank)}"
    return f"{rates}\n\n{table(head, [row for row in totals if row])}\n\n{speeds}"


def _read_rate(of: Value, reader: str) -> str:
    return f"{of[reader]['read']:.0%}".removesuffix(" %") if reader in of else "–"


def _codes_row(symbology: str, reader: str, found: Value) -> tuple[str, ...] | None:
    if reader not in found["all"][symbology]:
        return None
    of = found["all"][symbology][reader]
    speed = of["codes_a_second"].number
    reached = verdict(speed >= found["bars"]["codes_a_second"].number) if reader == "lineside" else ""
    ms = f"{of['ms']:.1f}"
    return (symbology, READERS[reader], f"{of['read']:.1%}", f"{of['wrong']:g}", ms, fixed(speed, 0), reached)


@block("text_marks", "text_marks")
def text_marks(found: Value) -> str:
    """Read rates of printed text by condition, wrong texts and times."""
    rows = [(name, *_text_row(of)) for name, of in found["conditions"].items()]
    rows.append(("all", *_text_row(found["all"])))
    nothing = found["empty"]
    rows.append(("no text", "", f"{nothing['wrong']:g}", f"{nothing['ms']:.0f}", "", "", ""))
    return table("condition | read | wrong texts | ms | one look: read | wrong texts | ms", rows)


def _text_row(of: Value) -> list[str]:
    ways = (of["lineside"], of["one look"])
    return [text for way in ways for text in (f"{way['read']:.0%}", f"{way['wrong']:g}", f"{way['ms']:.0f}")]


@block("predict", "predict")
def predict(found: Value) -> str:
    """``QualityInspector.predict`` against the roofline."""
    rows = []
    for key, name in {"steel": "strip", "pcb": "boards"}.items():
        of = found["kinds"][key]
        share = of["share_of_roofline"]["p50"].number
        rows.append(
            (
                f"{of['files']:.0f} files of {name}",
                f"{of['frames_s']:spread}",
                f"{of['roofline_s']:spread}",
                *(_shares(of[each]) for each in ("share_of_roofline", "side_by_side_share", "processor_share")),
                f"{of['cores_had']['p50']:.2f}",
                f"≥ {percent(PREDICT_BAR, 0)}: {verdict(share >= PREDICT_BAR)}",
            )
        )
    head = (
        "predict | frames a second | roofline | of the roofline | of bare loops on each core"
        " | by processor time | cores used | bar: of the roofline"
    )
    return table(head, rows)


def _shares(of: Value) -> str:
    low, middle, high = (f"{of[name]:.0%}" for name in ("p5", "p50", "p95"))
    return f"{middle} ({between(low, high)})"
