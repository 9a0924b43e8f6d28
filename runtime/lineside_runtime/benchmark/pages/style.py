"""The style sheet of the page."""

from __future__ import annotations

from lineside_runtime.benchmark.pages.svg import COLOURS

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
h1 { font-size: 26px; margin: 0; } h2 { font-size: 17px; margin: 0 0 12px; } h3 { font-size: 15px;
  margin: 18px 0 6px; }
header p, .note { color: var(--soft); margin: 4px 0 0; } .note { font-size: 13.5px; margin-top: 10px; }
section { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 18px 20px;
  margin-top: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 18px; }
.tile { background: var(--card); border: 1px solid var(--edge); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 27px; line-height: 1.25; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.tile span { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 8px; border-bottom: 1px solid var(--edge); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td.left, th.left { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
ul { margin: 0; padding-left: 20px; } .bad { color: var(--bad); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; } dt { color: var(--soft); }
  dd { margin: 0; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--ink); font-size: 13px; }
  svg text.axis { fill: var(--soft); font-size: 12px; }
svg .bar { fill: var(--bar); } svg .lane { stroke: var(--edge); } svg .whisker { stroke: var(--soft);
  stroke-width: 1.5; }
svg .median { stroke: var(--ink); stroke-width: 2.5; } svg .ring { fill: none; stroke: var(--soft);
  stroke-width: 1.5; }
svg polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
@media print { section { break-inside: avoid; } }
"""

_SERIES = "".join(
    f"svg .c{number} {{ fill: var(--c{number}); }} svg .l{number} {{ stroke: var(--c{number}); }} "
    f".dot.c{number} {{ background: var(--c{number}); }}\n"
    for number in range(COLOURS)
)

STYLE = _STYLE + _SERIES
