"""The curve of `benchmarks.runtime.cache_curve` as SVG.

``python -m benchmarks.runtime.cache_picture`` draws it again from the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 860, 400
LEFT, TOP, SIDE, GAP = 66, 54, 270, 150
COLOURS = ("#2563a8", "#c2571a")
NAMES = {"lite0_int8": "EfficientNet-Lite0 INT8", "surface_12": "surface-12 (shipped detector)"}
LATENCY_TOP = 1.25
SPEEDUP_TOP = 10.0
CUSTOMERS_THROUGHPUT = 3.8
CUSTOMERS_LATENCY = 23 / 85

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 }
.title { font-size: 15px; font-weight: 600 }
.axis { stroke: #888; fill: none }
.grid { stroke: #e4e4e4 }
.wanted { stroke: #a11; stroke-dasharray: 5 4 }
.computed { fill: none; stroke-width: 1.2; stroke-dasharray: 3 3; opacity: .8 }
.measured { fill: none; stroke-width: 2 }
"""


def draw(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns two charts side by side: mean latency and throughput over the share of hits."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="latency and throughput over the share of cache hits"><style>{_STYLE}</style>'
        '<rect width="100%" height="100%" fill="#fff"/>'
    ]
    parts += _chart(0, "mean latency, share of the device's", networks, "latency_ratio", LATENCY_TOP, CUSTOMERS_LATENCY)
    parts += _chart(
        1, "throughput, times the device's", networks, "throughput_ratio", SPEEDUP_TOP, CUSTOMERS_THROUGHPUT
    )
    for number, name in enumerate(networks):
        x, y = LEFT + number * 300, HEIGHT - 14
        parts.append(
            f'<line x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}" class="measured" stroke="{COLOURS[number]}"/>'
            f'<text x="{x + 32}" y="{y}">{NAMES.get(name, name)}</text>'
        )
    x = LEFT + 600
    parts.append(
        f'<line x1="{x}" x2="{x + 24}" y1="{HEIGHT - 18}" y2="{HEIGHT - 18}" class="computed" stroke="#333"/>'
        f'<text x="{x + 32}" y="{HEIGHT - 14}">computed</text></svg>'
    )
    return "\n".join(parts) + "\n"


def _chart(
    number: int, title: str, networks: Mapping[str, Mapping[str, Any]], key: str, top: float, wanted: float
) -> list[str]:
    left = LEFT + number * (SIDE + GAP)

    def at(share: float, value: float) -> str:
        return f"{left + share * SIDE:.1f},{TOP + SIDE * (1 - min(value, top) / top):.1f}"

    parts = [f'<text class="title" x="{left}" y="{TOP - 20}">{title}</text>']
    for step in range(6):
        y = TOP + SIDE * (1 - step / 5)
        x = left + SIDE * step / 5
        parts.append(
            f'<line class="grid" x1="{left}" x2="{left + SIDE}" y1="{y}" y2="{y}"/>'
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{top * step / 5:g}</text>'
            f'<text x="{x}" y="{TOP + SIDE + 18}" text-anchor="middle">{step * 20} %</text>'
        )
    y = float(at(0, wanted).split(",")[1])
    parts.append(
        f'<line class="wanted" x1="{left}" x2="{left + SIDE}" y1="{y}" y2="{y}"/>'
        f'<text x="{left + SIDE + 6}" y="{y + 4}">{wanted:.2g}: asked for</text>'
        f'<polyline class="axis" points="{left},{TOP} {left},{TOP + SIDE} {left + SIDE},{TOP + SIDE}"/>'
    )
    for network, colour in zip(networks.values(), COLOURS, strict=False):
        curve = network["curve"]
        parts += _lines(at, curve, key, top, colour)
    return parts


def _lines(at: Any, curve: Sequence[Mapping[str, float]], key: str, top: float, colour: str) -> list[str]:
    measured = [(one["hit_rate"], one[key]) for one in curve]
    computed = []
    for step in range(101):
        share = step / 100
        first, final = curve[0]["computed_ratio"], curve[-1]["computed_ratio"]
        ratio = first + share * (final - first)
        value = ratio if key == "latency_ratio" else 1 / ratio
        if value <= top:
            computed.append((share, value))
    dots = "".join(
        '<circle cx="{}" cy="{}" r="3" fill="{}"/>'.format(*at(share, value).split(","), colour)
        for share, value in measured
        if value <= top
    )
    points = " ".join(at(share, value) for share, value in computed)
    line = " ".join(at(share, value) for share, value in measured if value <= top)
    return [
        f'<polyline class="computed" stroke="{colour}" points="{points}"/>',
        f'<polyline class="measured" stroke="{colour}" points="{line}"/>{dots}',
    ]


if __name__ == "__main__":
    results = Path(__file__).parents[1] / "results"
    found = json.loads((results / "cache_curve.json").read_text())
    (results / "cache_curve.svg").write_text(draw(found["networks"]))
