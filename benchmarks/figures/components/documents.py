"""Tables of what is read in documents and found in them."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed, percent
from benchmarks.figures.results import Value
from benchmarks.figures.tables import between, table, verdict

_CONDITIONS = {"pdf": "PDF with text", "scan": "scan, 200 dpi", "copy": "scan of a noisy copy"}


@block("documents.certificates", "documents.certificates")
def certificates(found: Value) -> str:
    """Fields, relations and heat numbers by condition and layout."""
    bars = found["bars"]
    rows = []
    for condition, of in found["conditions"].items():
        rows.append(_row(_CONDITIONS[condition], "all four", of["all"], bars))
        rows += [_row("", name, one, bars) for name, one in of["layouts"].items()]
    head = (
        "read from | held-out layout | documents | field F1 | limit F1 |  | accepted values: right, wrong"
        " | heat numbers wrong, of them unflagged | right ones flagged | to look at a document"
    )
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
        f"{of['documents']:.0f}",
        fixed(fields, 4),
        fixed(relations, 4),
        verdict(reached),
        f"{accepted['share']:.1%} of all, {accepted['right']:.2%} right, {accepted['wrong']:.0f} wrong",
        f"{fixed(wrong, 0)}, {heat['unflagged']:.0f}",
        fixed(heat["flagged"].number - (wrong - heat["unflagged"].number), 0),
        f"{of['review_a_document']:.1f}",
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
    wrong = table("read from | layout | true | read | flagged", rows) if rows else "No heat number was wrong."
    scans = found["conditions"]["scan"]["all"]
    count, unflagged = int(scans["documents"].number), scans["heat"]["unflagged"].number
    most = "" if unflagged else f", which bounds their share to {percent(1 - 0.05 ** (1 / count))} (95 % confidence)"
    return f"{wrong}\n\nOf {count} scans, {unflagged:.0f} had a wrong heat number that the report accepts{most}."


@block("documents.certificates.time", "documents.certificates")
def certificate_times(found: Value) -> str:
    """Processor time of a certificate."""
    rows = [
        (_CONDITIONS[condition], f"{of['seconds']['median']:.2f}", f"{of['seconds']['highest']:.2f}")
        for condition, of in found["conditions"].items()
    ]
    return table("read from | median processor seconds | highest", rows)


@block("documents.reading", "documents.reading")
def reading(found: Value) -> str:
    """Words read, time and memory."""
    bars = found["bars"]
    contracts, receipts = found["contracts"], found["receipts"]
    keys = ", ".join(f"{name} {share:.0%}" for name, share in receipts["keys"].items())
    seconds = contracts["seconds"]["median"].number
    page_s, memory = receipts["seconds_a_page"].number, found["memory_mb"].number
    rows = [
        ("contracts with text (CUAD): words read", _sizes(contracts), f"{contracts['words']:.1%}", "", ""),
        ("their pairs of neighbouring words", "", f"{contracts['pairs']:.1%}", "", ""),
        ("scanned receipts (SROIE): words read", _sizes(receipts), f"{receipts['words']:.1%}", "", ""),
        ("receipts in whose text a key stands whole", "", keys, "", ""),
        _bar("processor time of a contract, median, s", fixed(seconds, 2), seconds, bars["contract_s"].number),
        _bar("processor time of a receipt, s", fixed(page_s, 2), page_s, bars["scanned_page_s"].number),
        _bar("memory with text recognition, MB", fixed(memory, 0), memory, bars["memory_mb"].number),
        ("memory of the process that reads a PDF, MB", "", f"{found['pdf_process_memory_mb']:.0f}", "", ""),
    ]
    return table("what | documents | measured | bar | ", rows)


@block("documents.text_networks", "documents.text_networks")
def text_networks(found: Value) -> str:
    """Words read and time of a page, in float and INT8."""
    rows = []
    for kind, of in found["pages"].items():
        before, after = of["float"], of["INT8"]
        change = 100 * (after["words"].number - before["words"].number)
        times = [f"{one['seconds']:.2f}" for one in (before, after)]
        faster = before["seconds"].number / after["seconds"].number
        read = [f"{one['words']:.2%}" for one in (before, after)]
        rows.append((kind, f"{before['pages']:.0f}", *read, f"{change:+.2f}", *times, fixed(faster, 2)))
    head = "pages |  | words read, float | INT8 | points | processor seconds a page, float | INT8 | times as fast"
    return table(head, rows)


def _sizes(of: Value) -> str:
    return f"{of['documents']:.0f} of {of['pages']:.0f} pages"


def _bar(what: str, text: str, value: float, most: float) -> tuple[str, ...]:
    return what, "", text, f"≤ {most:g}", verdict(value <= most)


@block("documents.receipts", "documents.receipts")
def receipts(found: Value) -> str:
    """Values of receipts by key, exact ones, and those that can be read at all."""
    count = f"{found['judged']:.0f} of {found['receipts']:.0f} receipts are judged, of other companies than"
    count += f" those that were trained on, in {found['steps']:.0f} steps."
    ways = {"network": "the network alone", "scores": "expressions and indicators alone", "both": "both"}
    inside = [(text, f"{found['train'][name]:.3f}") for name, text in ways.items()]
    inside_table = table(["inside the train fold, by other companies", "F1"], inside)
    return f"{count}\n\n{_receipt_values(found)}\n\n{inside_table}"


@block("documents.receipt_scores", "documents.receipt_scores")
def receipt_scores(found: Value) -> str:
    """The same without a network, and what it costs to find the values in a text."""
    cost = f"{found['candidates']:.0f} candidates a receipt; {found['values_ms']:.0f} ms of processor time to find the"
    cost += f" values in its text. Inside the train fold, by other companies: F1 {found['train']['scores']:.3f}."
    return f"{_receipt_values(found)}\n\n{cost}"


def _receipt_values(found: Value) -> str:
    rows = []
    for name, of in found["right"].items():
        f1 = of["f1"].number
        bars = (found["must"].number, found["goal"].number)
        asked = f"{verdict(f1 >= bars[0])}, goal {verdict(f1 >= bars[1])}" if name == "all" else ""
        readable = f"{found['readable'][name]:.0%}" if name != "all" else ""
        interval = between(*(f"{of[end]:.3f}" for end in ("low", "high")))
        exact = f"{found['exact'][name]['f1']:.3f}"
        rows.append((name, f"{fixed(f1, 3)} ({interval})", asked, exact, readable))
    return table(f"value | F1 | {found['must']:g} asked for, goal {found['goal']:g} | exact | readable", rows)
