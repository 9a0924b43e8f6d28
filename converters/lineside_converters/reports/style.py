"""The style sheet of the pages about models: that of every report, and matrices, pairs of pictures and figures."""

from __future__ import annotations

from lineside_runtime.benchmark.pages.style import STYLE

PAGE_STYLE = (
    STYLE
    + """
.good { color: var(--good); }
.good, .bad { font-weight: 600; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 18px; }
.two > * { min-width: 0; }
.side { display: flex; flex-wrap: wrap; gap: 18px; } .side > * { flex: 1 1 auto; max-width: 100%; }
td.l, th.l { text-align: left; }
td.words { white-space: normal; min-width: 200px; text-align: left; overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--soft); margin-top: 12px; }
@media (max-width: 700px) { .scroll > svg { width: 720px; } .figures td:first-child { white-space: normal; }
  section { padding: 14px 12px; } main { padding: 18px 10px 40px; } th, td { padding: 6px 5px; } }
svg .thick { stroke: var(--c0); stroke-width: 3; } svg .zero { stroke: var(--ink); stroke-width: 1.5; }
svg .limit { stroke: var(--bad); stroke-width: 2; stroke-dasharray: 5 4; } svg text.limit-text { fill: var(--bad); }
svg .faint { opacity: .38; } svg .taken { fill: none; stroke: var(--ink); stroke-width: 2; }
svg polyline.edge { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 4 4; }
table.matrix td, table.matrix th { text-align: center; padding: 5px 6px; font-size: 13px; }
table.matrix th:first-child { text-align: right; white-space: nowrap; }
table.matrix thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; white-space: nowrap; }
table.matrix thead th:first-child { writing-mode: horizontal-tb; transform: none; }
table.matrix td { background: color-mix(in srgb, var(--c5) calc(var(--s) * .7%), transparent); }
table.matrix td.right { background: color-mix(in srgb, var(--c1) calc(var(--s) * .7%), transparent); }
table.matrix td.none { color: var(--soft); }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 16px; }
.pair { border: 1px solid var(--edge); border-radius: 8px; overflow: hidden; background: var(--page); }
.pair > div { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.pair figure { margin: 0; } .pair img { width: 100%; aspect-ratio: 1; object-fit: contain; display: block;
  background: #000; }
.pair figcaption { padding: 6px 10px 8px; font-size: 13px; overflow-wrap: anywhere; }
.pair > p { margin: 0; padding: 7px 10px; font-size: 13px; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--edge); }
"""
)
