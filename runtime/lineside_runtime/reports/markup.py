"""The elements of a report's page as HTML. Texts are escaped; arguments named ``body`` or ``content`` are HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lineside_runtime.reports.style import STYLE
from lineside_runtime.reports.svg import COLOURS


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
    """Returns the figures that a reader looks for first, each with its meaning."""
    each = (f'<div class="tile"><b>{escape(figure)}</b><span>{escape(words)}</span></div>' for figure, words in figures)
    return f'<div class="tiles">{"".join(each)}</div>'


def cautions(lines: Sequence[str]) -> str:
    """Returns the card of what a reader must know before he trusts the figures; nothing if there is no line."""
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
