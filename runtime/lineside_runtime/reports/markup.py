"""The elements of a report's page as HTML. Texts are escaped; arguments named ``body`` or ``content`` are HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lineside_runtime.reports.svg import COLOURS

_STYLE = """
:root { color-scheme: light dark; --ink: #16202a; --soft: #5a6875; --page: #f5f6f8; --card: #ffffff; --edge: #dde2e7;
  --good: #14713d; --bad: #b3261e; --bar: #3f6ea8; --c0: #3f6ea8; --c1: #14713d; --c2: #b36b00; --c3: #7b3fa0;
  --c4: #0f7c86; --c5: #a8435f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8edf2; --soft: #9aa8b5; --page: #11161b; --card: #1a2128;
  --edge: #2c3640; --good: #56c586; --bad: #ff8a80; --bar: #7fb0ea; --c0: #7fb0ea; --c1: #56c586; --c2: #e2b04a;
  --c3: #c79bea; --c4: #5cc9d2; --c5: #ee8fa8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 17px; margin: 0 0 12px; }
h3 { font-size: 15px; margin: 18px 0 6px; }
header p, .note { color: var(--soft); margin: 4px 0 0; overflow-wrap: anywhere; }
.note { font-size: 13.5px; margin-top: 10px; } .good, .bad { font-weight: 600; } .good { color: var(--good); }
.bad { color: var(--bad); }
section { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 18px 20px;
  margin-top: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 18px; }
.tile { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 27px; line-height: 1.25; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.tile span { color: var(--soft); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 0 18px; }
.side { display: flex; flex-wrap: wrap; gap: 18px; } .side > * { flex: 1 1 auto; max-width: 100%; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 18px; }
.charts h3 { margin: 0 0 4px; } .narrow { max-width: 520px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 8px; border-bottom: 1px solid var(--edge); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, td.l, th.l, td.words { text-align: left; }
td.words { white-space: normal; min-width: 180px; overflow-wrap: anywhere; }
td small { display: block; color: var(--soft); font-size: 12px; white-space: normal; }
ul { margin: 0; padding-left: 20px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; } dt { color: var(--soft); }
  dd { margin: 0; overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--soft); margin-top: 12px; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; color: var(--soft); font-size: 13.5px; margin: 10px 0; }
.stroke { display: inline-block; width: 18px; margin-right: 8px; vertical-align: middle;
  border-top: 2px solid var(--ink); }
.stroke.dashed { border-top: 2px dashed var(--soft); } .stroke.doubt { border-color: var(--c3); }
table.matrix td, table.matrix th { text-align: center; padding: 5px 6px; font-size: 13px; }
table.matrix th:first-child { text-align: right; white-space: nowrap; }
table.matrix thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; white-space: nowrap; }
table.matrix thead th:first-child { writing-mode: horizontal-tb; transform: none; }
table.matrix td { background: color-mix(in srgb, var(--c5) calc(var(--s) * .7%), transparent); }
table.matrix td.right { background: color-mix(in srgb, var(--c1) calc(var(--s) * .7%), transparent); }
table.matrix td.none { color: var(--soft); }
figure { margin: 0; } figure img { width: 100%; aspect-ratio: 1; object-fit: contain; display: block;
  background: #000; } figcaption { padding: 7px 10px 9px; font-size: 13px; overflow-wrap: anywhere; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(235px, 1fr)); gap: 14px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 16px; }
.pair, .gallery figure { border: 1px solid var(--edge); border-radius: 8px; overflow: hidden;
  background: var(--page); }
.pair > div { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.pair > p { margin: 0; padding: 7px 10px; font-size: 13px; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--edge); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--ink); font-size: 13px; }
svg text.axis { fill: var(--soft); font-size: 12px; } svg text.limit { fill: var(--bad); stroke: none; }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; } svg .band { opacity: .18; }
svg .bar { fill: var(--bar); } svg .grid { stroke: var(--edge); } svg .faint { opacity: .38; }
svg .whisker { stroke: var(--soft); stroke-width: 1.5; } svg .median { stroke: var(--ink); stroke-width: 2.5; }
svg .thick { stroke: var(--c0); stroke-width: 3; } svg .strong { stroke: var(--ink); stroke-width: 2; }
svg .dashed { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 4 4; }
svg .doubt { stroke: var(--c3); stroke-width: 2; }
svg .limit { stroke: var(--bad); stroke-width: 2; stroke-dasharray: 5 4; }
svg .frame { fill: transparent; stroke-width: 2; vector-effect: non-scaling-stroke; }
svg .ring { fill: none; stroke: var(--ink); stroke-width: 2; }
@media (max-width: 700px) { .scroll > svg { width: 720px; } .figures td:first-child { white-space: normal; }
  section { padding: 14px 12px; } main { padding: 18px 10px 40px; } th, td { padding: 6px 5px; } }
@media print { section, figure { break-inside: avoid; } }
"""

_SERIES = "".join(
    f"svg .c{number} {{ fill: var(--c{number}); }} svg .l{number} {{ stroke: var(--c{number}); }} "
    f".dot.c{number} {{ background: var(--c{number}); }}\n"
    for number in range(COLOURS)
)

STYLE = f"{_STYLE}{_SERIES}svg .fault {{ fill: var(--bad); }}\n"


def document(title: str, body: str, *, refresh_s: int = 0) -> str:
    """Returns a whole page: one file that loads nothing and holds no script.

    Args:
        title: Of the browser's tab.
        body: The page's elements as HTML.
        refresh_s: The browser reads the page again after so many seconds; 0 for never.
    """
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">\n' if refresh_s else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{refresh}'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def header(title: str, subtitle: str = "") -> str:
    """Returns the heading of a page."""
    return f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(subtitle)}</p>\n</header>"


def section(heading: str, content: str, note: str = "") -> str:
    """Returns a card with a heading and, below its content, a note."""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{content}{below}</section>"


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Returns the main figures, each with its meaning."""
    each = (f'<div class="tile"><b>{escape(figure)}</b><span>{escape(words)}</span></div>' for figure, words in figures)
    return f'<div class="tiles">{"".join(each)}</div>'


def cautions(lines: Sequence[str]) -> str:
    """Returns a card with the limits of the figures; nothing if there is no line."""
    return section("Before you trust this", bullets(lines)) if lines else ""


def bullets(lines: Iterable[str]) -> str:
    """Returns a list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def facts(values: Mapping[str, str]) -> str:
    """Returns a list of names with their values; empty values are left out."""
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in values.items() if value)
    return f"<dl>{pairs}</dl>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = (), dots: bool = False) -> str:
    """Returns a table that scrolls by itself where it is wider than the page.

    Args:
        heads: Of the columns; none for a table without a head.
        rows: Cells of each row.
        words: Columns of running text: aligned to the left, and wrapped.
        dots: Each row begins with a dot in the colour of its series.
    """
    titles = "".join(f"<th{_class('l', at in words)}>{escape(title)}</th>" for at, title in enumerate(heads))
    lines = []
    for number, row in enumerate(rows):
        marks = [f'<i class="dot c{number % COLOURS}"></i>' if dots else "", *[""] * (len(row) - 1)]
        cells = (
            f"<td{_class('words', at in words)}>{mark}{escape(cell)}</td>"
            for at, (mark, cell) in enumerate(zip(marks, row, strict=True))
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = f"<thead><tr>{titles}</tr></thead>" if heads else ""
    return f'<div class="scroll"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def legend(names: Iterable[str]) -> str:
    """Returns the names of the series of a chart, each with the dot of its colour."""
    each = (f'<span><i class="dot c{number % COLOURS}"></i>{escape(name)}</span>' for number, name in enumerate(names))
    return f'<div class="legend">{"".join(each)}</div>'


def _class(name: str, given: bool) -> str:
    return f' class="{name}"' if given else ""
