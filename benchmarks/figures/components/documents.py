"""Tables of what is read in documents and found in them."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, fixed, percent, table, verdict

_CONDITIONS = {"pdf": "PDF with text", "scan": "scan, 200 dpi", "copy": "scan of a noisy copy"}


@block("documents.certificates", "documents.certificates")
def certificates(found: Value) -> str:
    """Fields, relations and heat numbers by condition and layout."""
    bars = found["bars"]
    rows = []
    for condition, of in found["conditions"].items():
        rows.append(_row(_CONDITIONS[condition], "all four", of["all"], bars))
        rows += [_row("", name, one, bars) for name, one in of["layouts"].items()]
    head = [
        "read from",
        "held-out layout",
        "documents",
        "field F1",
        "limit F1",
        "",
        "accepted values: right, wrong",
        "heat numbers wrong, of them unflagged",
        "right ones flagged",
        "to look at a document",
    ]
    return table(head, rows)


def _row(condition: str, layout: str, of: Value, bars: Value) -> tuple[str, ...]:
    fields, relations = of["fields"]["f1"].number, of["relations"]["f1"].number
    heat, accepted = of["heat"], of["accepted"]
    wrong = heat["wrong"].number
    reached = (
        fields >= bars["field_f1"].number
        and relations >= bars["relation_f1"].number
        and heat["unflagged"].number <= bars["heat_unflagged"].number
    )
    return (
        condition,
        layout,
        fixed(of["documents"].number, 0),
        fixed(fields, 4),
        fixed(relations, 4),
        verdict(reached),
        f"{percent(accepted['share'].number)} of all, {percent(accepted['right'].number, 2)} right, "
        f"{fixed(accepted['wrong'].number, 0)} wrong",
        f"{fixed(wrong, 0)}, {fixed(heat['unflagged'].number, 0)}",
        fixed(heat["flagged"].number - (wrong - heat["unflagged"].number), 0),
        fixed(of["review_a_document"].number, 1),
    )


@block("documents.certificates.heat", "documents.certificates")
def heat_numbers(found: Value) -> str:
    """Every wrong heat number."""
    rows = [
        (
            _CONDITIONS[condition],
            one["layout"].text,
            one["true"].text,
            one["read"].text if "read" in one else "nothing",
            "yes" if one["flagged"].truth else "**no**",
        )
        for condition, of in found["conditions"].items()
        for one in of["wrong_heat_numbers"].values()
    ]
    wrong = table(["read from", "layout", "true", "read", "flagged"], rows) if rows else "No heat number was wrong."
    scans = found["conditions"]["scan"]["all"]
    count, unflagged = int(scans["documents"].number), scans["heat"]["unflagged"].number
    most = "" if unflagged else f", which bounds their share to {percent(1 - 0.05 ** (1 / count))} (95 % confidence)"
    return f"{wrong}\n\nOf {count} scans, {unflagged:.0f} had a wrong heat number that the report accepts{most}."


@block("documents.certificates.time", "documents.certificates")
def certificate_times(found: Value) -> str:
    """Processor time of a certificate."""
    rows = [
        (_CONDITIONS[condition], fixed(of["seconds"]["median"].number, 2), fixed(of["seconds"]["highest"].number, 2))
        for condition, of in found["conditions"].items()
    ]
    return table(["read from", "median processor seconds", "highest"], rows)


@block("documents.reading", "documents.reading")
def reading(found: Value) -> str:
    """Words read, time and memory."""
    bars = found["bars"]
    contracts, receipts = found["contracts"], found["receipts"]
    keys = ", ".join(f"{name} {percent(share.number, 0)}" for name, share in receipts["keys"].items())
    seconds = contracts["seconds"]["median"].number
    page_s, memory = receipts["seconds_a_page"].number, found["memory_mb"].number
    rows = [
        ("contracts with text (CUAD): words read", _sizes(contracts), percent(contracts["words"].number), "", ""),
        ("their pairs of neighbouring words", "", percent(contracts["pairs"].number), "", ""),
        ("scanned receipts (SROIE): words read", _sizes(receipts), percent(receipts["words"].number), "", ""),
        ("receipts in whose text a key stands whole", "", keys, "", ""),
        _bar("processor time of a contract, median, s", fixed(seconds, 2), seconds, bars["contract_s"].number),
        _bar("processor time of a receipt, s", fixed(page_s, 2), page_s, bars["scanned_page_s"].number),
        _bar("memory with text recognition, MB", fixed(memory, 0), memory, bars["memory_mb"].number),
        ("memory of the process that reads a PDF, MB", "", fixed(found["pdf_process_memory_mb"].number, 0), "", ""),
    ]
    return table(["what", "documents", "measured", "bar", ""], rows)


@block("documents.text_networks", "documents.text_networks")
def text_networks(found: Value) -> str:
    """Words read and time of a page, in float and INT8."""
    rows = []
    for kind, of in found["pages"].items():
        before, after = of["float"], of["INT8"]
        change = 100 * (after["words"].number - before["words"].number)
        times = [fixed(one["seconds"].number, 2) for one in (before, after)]
        faster = before["seconds"].number / after["seconds"].number
        read = [percent(one["words"].number, 2) for one in (before, after)]
        rows.append((kind, fixed(before["pages"].number, 0), *read, f"{change:+.2f}", *times, fixed(faster, 2)))
    head = [
        "pages",
        "",
        "words read, float",
        "INT8",
        "points",
        "processor seconds a page, float",
        "INT8",
        "times as fast",
    ]
    return table(head, rows)


def _sizes(of: Value) -> str:
    return f"{fixed(of['documents'].number, 0)} of {fixed(of['pages'].number, 0)} pages"


def _bar(what: str, text: str, value: float, most: float) -> tuple[str, ...]:
    return what, "", text, f"≤ {most:g}", verdict(value <= most)


@block("documents.receipts", "documents.receipts")
def receipts(found: Value) -> str:
    """Values of receipts by key, exact ones, and those that can be read at all."""
    rows = []
    for name, of in found["right"].items():
        f1 = of["f1"].number
        bars = (found["must"].number, found["goal"].number)
        asked = f"{verdict(f1 >= bars[0])}, goal {verdict(f1 >= bars[1])}" if name == "all" else ""
        readable = percent(found["readable"][name].number, 0) if name != "all" else ""
        interval = between(*(fixed(of[end].number, 3) for end in ("low", "high")))
        exact = fixed(found["exact"][name]["f1"].number, 3)
        rows.append((name, f"{fixed(f1, 3)} ({interval})", asked, exact, readable))
    head = ["value", "F1", f"{found['must'].number:g} asked for, goal {found['goal'].number:g}", "exact", "readable"]
    count = (
        f"{found['judged'].number:.0f} of {found['receipts'].number:.0f} receipts are judged, of other companies than"
    )
    count += f" those that were trained on, in {found['steps'].number:.0f} steps."
    ways = {"network": "the network alone", "scores": "expressions and indicators alone", "both": "both"}
    inside = [(text, fixed(found["train"][name].number, 3)) for name, text in ways.items()]
    return f"{count}\n\n{table(head, rows)}\n\n{table(['inside the train fold, by other companies', 'F1'], inside)}"
