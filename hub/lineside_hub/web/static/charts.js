// Charts of uPlot from the attribute data-chart: {x: [s], series: [{label, values, kind}]}.
"use strict";

const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(2)} %`);

const two = (value) => String(value).padStart(2, "0");
const dayOf = (at) => `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
const timeOf = (at) => `${two(at.getHours())}:${two(at.getMinutes())}`;

// As everywhere on the dashboard: month and day, then 24 hours.
function timeMarks(_, marks) {
  const whole = marks.length > 1 && marks[1] - marks[0] >= 86400;
  return marks.map((second) => {
    const at = new Date(1000 * second);
    return whole ? dayOf(at) : timeOf(at) === "00:00" ? dayOf(at) : timeOf(at);
  });
}

function draw(place) {
  const chart = JSON.parse(place.dataset.chart);
  if (!chart.x.length) return;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const ink = color("--ink"), soft = color("--soft"), line = color("--line"), bad = color("--bad"), edge = color("--edge");
  const kinds = {
    bars: {scale: "parts", stroke: edge, fill: line, paths: uPlot.paths.bars({size: [0.8, 60]}), points: {show: false},
      value: (_, value) => value?.toLocaleString() ?? "–"},
    rate: {scale: "%", stroke: ink, width: 2, points: {size: 5}, value: (_, value) => percent(value)},
    limit: {scale: "%", stroke: soft, dash: [6, 4], paths: uPlot.paths.stepped({align: 1}), points: {show: false}, value: (_, value) => percent(value)},
    center: {scale: "%", stroke: soft, points: {show: false}, value: (_, value) => percent(value)},
    signal: {scale: "%", stroke: bad, fill: bad, paths: () => null, points: {show: true, size: 10, fill: bad}, value: (_, value) => (value === null ? "–" : "yes")},
  };
  const axis = {stroke: ink, grid: {stroke: line, width: 1}, ticks: {stroke: line}, font: "13px sans-serif"};
  const axes = [{...axis, values: timeMarks}, {...axis, scale: "%", size: 70, values: (_, marks) => marks.map((mark) => `${+(100 * mark).toFixed(3)} %`)}];
  if (chart.series.some((each) => each.kind === "bars")) axes.push({...axis, scale: "parts", side: 1, size: 80, grid: {show: false}, values: (_, marks) => marks.map((mark) => mark.toLocaleString())});
  const options = {
    width: place.clientWidth, height: 260, axes,
    // uPlot shows a single point in a range of years.
    scales: {x: {range: (_, low, high) => (chart.x.length > 1 ? [low, high] : [chart.x[0] - 43200, chart.x[0] + 43200])}, "%": {range: (_, low, high) => [0, Math.max(high * 1.1, 1e-4)]}, parts: {range: (_, low, high) => [0, high * 1.1 || 1]}},
    series: [{label: "from", value: (_, second) => (second === null ? "–" : `${new Date(1000 * second).getFullYear()}-${dayOf(new Date(1000 * second))} ${timeOf(new Date(1000 * second))}`)}, ...chart.series.map((each) => ({label: each.label, ...kinds[each.kind]}))],
  };
  const drawn = new uPlot(options, [chart.x, ...chart.series.map((each) => each.values)], place);
  new ResizeObserver(() => drawn.setSize({width: place.clientWidth, height: 260})).observe(place);
}

document.querySelectorAll("[data-chart]").forEach(draw);
