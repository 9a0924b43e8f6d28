"""Memory and handles over time as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 860, 340
LEFT, RIGHT, TOP, BOTTOM = 60, 60, 44, 56
POINTS_MAX = 400
LINES = (
    ("rss_bytes", "resident", "#2563a8"),
    ("pss_bytes", "proportional share", "#c2571a"),
    ("anonymous_bytes", "anonymous", "#3b7d3b"),
)
HANDLES = "#777"

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 }
.title { font-size: 15px; font-weight: 600 }
.grid { stroke: #e4e4e4 }
.line { fill: none; stroke-width: 2 }
"""


def draw(samples: Sequence[Mapping[str, Any]], *, warm_up: float) -> str:
    """Returns the chart.

    Args:
        samples: As `sampler` prints them.
        warm_up: Share of them that isn't judged; shaded.
    """
    every = samples[:: max(1, len(samples) // POINTS_MAX)]
    end_s = samples[-1]["at_s"]
    top_mb = 20 * (1 + max(sample["rss_bytes"] for sample in samples) // 20_000_000)
    top_handles = 10 * (1 + max(sample["handles"] for sample in samples) // 10)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(second: float, share: float) -> str:
        return f"{LEFT + wide * second / end_s:.1f},{TOP + high * (1 - share):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="memory and file handles over time"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{LEFT}" y="24" class="title">'
        f"{samples[-1]['frames'] - samples[0]['frames']:,} frames in {end_s / 60:.0f} minutes</text>"
        f'<rect x="{LEFT}" y="{TOP}" width="{wide * warm_up:.1f}" height="{high}" fill="#f4f4f4"/>'
        f'<text x="{LEFT + 6}" y="{TOP + high - 8}">warm-up</text>'
    ]
    for step in range(5):
        y = TOP + high * (1 - step / 4)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top_mb * step / 4:g}</text>'
            f'<text x="{WIDTH - RIGHT + 6}" y="{y + 4:.1f}">{top_handles * step / 4:g}</text>'
        )
        minute = end_s / 60 * step / 4
        parts.append(
            f'<text x="{LEFT + wide * step / 4:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{minute:.0f} min</text>"
        )
    for name, _, colour in LINES:
        points = " ".join(at(sample["at_s"], sample[name] / 1e6 / top_mb) for sample in every)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{points}"/>')
    points = " ".join(at(sample["at_s"], sample["handles"] / top_handles) for sample in every)
    parts.append(f'<polyline class="line" stroke="{HANDLES}" stroke-dasharray="4 3" points="{points}"/>')
    names = [(f"{title}, MB", colour) for _, title, colour in LINES] + [("file handles (right)", HANDLES)]
    for place, (title, colour) in enumerate(names):
        x, y = LEFT + place * 190, HEIGHT - 12
        parts.append(
            f'<line x1="{x}" x2="{x + 20}" y1="{y - 4}" y2="{y - 4}" class="line" stroke="{colour}"/>'
            f'<text x="{x + 26}" y="{y}">{title}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
