// The operator screen: one event stream says what there is; pictures are fetched when it says so.

import { isPressed, watchPresses } from "./pressed.js";

const SVG = "http://www.w3.org/2000/svg";
const STALE_MS = 4000;            // without a state for so long the agent is gone: it sends two a second
const CONFIRM_MS = 5000;
const LANGUAGES = { en: "English", de: "Deutsch", zh: "中文" };
const THEMES = ["auto", "light", "dark"];
const FIGURE_TEXT_PX = 15, TAGS_MAX = 12;

const $ = (id) => document.getElementById(id);
const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a kiosk may have no storage */ } };

let strings = {}, language = "en", view = "live", session = { name: "", role: null, people: [] };
let state = null, stateAt = 0, clockOffsetMs = 0, stream = null;
let part = null, shownPart = null, pictureBusy = false;
let missed = false;
let rejects = [], rejectCount = -1, rejectsBusy = false, opened = null, drawing = null, cameFrom = "rejects", liveHeat = false;

// Texts and elements.

function t(key, values = {}) {
  const text = strings[language]?.[key] ?? strings.en?.[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function fill(place, ...children) {
  place.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== ""));
}

// A list that changes by itself. An element that stays is not touched, or it would lose its focus; while a finger or a
// mouse key is down nothing changes, or the touch would end on another element.
function showList(place, items, signature, make, update = () => {}) {
  if (isPressed()) { missed = true; return; }
  const old = new Map([...place.children].map((made) => [made.dataset.shown, made]));
  const at = [...place.children].findIndex((made) => made.contains(document.activeElement));
  const wanted = items.map((one) => {
    const made = old.get(signature(one)) ?? make(one);
    made.dataset.shown = signature(one);
    update(made, one);
    return made;
  });
  for (const made of [...place.children]) if (!wanted.includes(made)) made.remove();
  wanted.forEach((made, index) => { if (place.children[index] !== made) place.insertBefore(made, place.children[index] ?? null); });
  if (at >= 0 && !place.contains(document.activeElement)) keepFocus(place, at);
}

// The focused element is gone: what stands in its place has the focus, or else the key of this view.
function keepFocus(place, at) {
  const near = [...place.children].slice(0, at + 1).reverse().map((made) => (made.matches("button") ? made : made.querySelector("button"))).find(Boolean);
  (near ?? place.querySelector("button") ?? document.querySelector("nav [aria-current]"))?.focus({ preventScroll: true });
}

function showMissed() {
  if (!missed) return;
  missed = false;
  if (state) showState();
  showRejects();
}

const symbol = (name) => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#s-${name}` }));
const sign = (name) => ({ reject: "F", fault: "F", unsure: "S" })[name] ?? "";

function number(value, digits = 0) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

function clockTime(ns) {
  return new Date(ns / 1e6).toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

function age(ns) {
  const seconds = Math.max(0, (Date.now() + clockOffsetMs - ns / 1e6) / 1000);
  if (seconds < 10) return t("seconds", { n: number(seconds, 1) });
  if (seconds < 120) return t("seconds", { n: number(seconds) });
  return t("minutes", { n: number(seconds / 60) });
}

const milliseconds = (value) => number(value, value < 100 ? 1 : 0);

const typeText = (type) => type || t("unknown_type");

// The agent.

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw await failure(answer);
  return answer.json();
}

async function failure(answer) {
  let body = {};
  try { body = await answer.json(); } catch { /* no JSON: the status says it */ }
  const error = new Error(body.message ?? answer.statusText);
  error.status = answer.status;
  return error;
}

async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (answer.ok) return answer.json();
  const error = await failure(answer);
  if ((error.status === 401 || error.status === 403) && path !== "session" && session.people.length) {
    await askPin();
    return post(path, body);
  }
  throw error;
}

function connect() {
  stream?.close();
  if (document.hidden) return;
  stream = new EventSource("events");
  stream.addEventListener("state", (event) => {
    state = JSON.parse(event.data);
    stateAt = Date.now();
    clockOffsetMs = state.now_ns / 1e6 - stateAt;
    showState();
    if (state.rejects !== rejectCount) loadRejects();
  });
  stream.addEventListener("part", (event) => { part = JSON.parse(event.data); showPart(); });
  stream.onerror = () => { if (stream.readyState === EventSource.CLOSED) loadSession(); };
}

async function loadSession() {
  try {
    session = await get("session");
    $("who").textContent = session.name === "local" ? "" : session.name;
    if (session.role === null) { await askPin(); connect(); }
    if (view === "more") showMore();
  } catch { setTimeout(loadSession, 3000); }
}

async function loadRejects() {
  if (rejectsBusy) return;
  rejectsBusy = true;
  const wanted = state.rejects;
  try {
    rejects = await get("rejects");
    rejectCount = wanted;
    showRejects();
  } catch { /* the next state tries again */ } finally { rejectsBusy = false; }
}

// The last part.

function showPart() {
  if (pictureBusy || !part) return;
  const next = part;
  pictureBusy = true;
  const done = (images) => {
    pictureBusy = false;
    const late = part.number !== next.number && !images.some(Boolean);
    if (!late) {
      shownPart = next;
      drawPart(images);
    }
    if (part.number !== next.number) showPart();
  };
  // A part of which no heat map can be made is shown without.
  const heated = (index) => (liveHeat && state?.has_heat ? loadImage(`parts/${next.number}/${index}/heat.jpg`) : Promise.resolve(null));
  const plain = (index) => loadImage(`parts/${next.number}/${index}.jpg`);
  Promise.all(next.views.map((_, index) => heated(index).then((image) => image ?? plain(index)))).then(done);
}

function loadImage(source) {
  return new Promise((resolve) => {
    const image = new Image();
    image.alt = "";
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = source;
  });
}

function drawPart(images) {
  fill($("picture"), ...figures(shownPart, images));
  showVerdict($("verdict"), shownPart.verdict);
  const lines = [shownPart.part_id];
  if (shownPart.error) lines.push(shownPart.error);
  $("part").textContent = lines.join(" · ");
  fill($("types"), ...shownPart.types.map((type) => el("li", {}, typeText(type))), ...shownPart.readings.map(readingItem));
  showTimes();
}

const readingItem = (one) => el("li", { class: "soft" }, symbol(one.accepted ? "pass" : "reject"), ` ${one.name}: ${one.text || "–"}`);

function showVerdict(place, verdict) {
  place.className = `verdict ${verdict}`;
  fill(place, symbol(verdict), t(`verdict_${verdict}`));
}

function figures(shown, images) {
  const made = shown.views.map((seen, index) => images[index] && figure(seen, images[index], shown.views.length, shown.measurements));
  return made.some(Boolean) ? made.filter(Boolean) : [el("p", { class: "empty" }, t("no_image"))];
}

function figure(seen, image, cameras, measurements, thresholds = null) {
  const width = seen.width || image.naturalWidth, height = seen.height || image.naturalHeight;
  const scale = Math.max((width * cameras) / ($("main").clientWidth * 0.65), height / ($("main").clientHeight * 0.8));
  const overlay = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "xMidYMid meet", "aria-hidden": "true" });
  for (const one of measurements ?? []) {
    const [x1, y1, x2, y2] = one.line ?? [0, 0, 0, 0];
    overlay.append(svg("line", { x1, y1, x2, y2, class: one.in_tolerance ? "measure" : "measure out" }));
  }
  const defects = seen.detections.map((one) => [one, ""]), doubts = seen.doubtful.map((one) => [one, "doubt"]);
  for (const [[, , x1, y1, x2, y2], kind] of [...doubts, ...defects]) {
    overlay.append(svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: `box ${kind}` }));
  }
  drawTags(overlay, [...defects, ...doubts], FIGURE_TEXT_PX * scale, thresholds);
  image.className = "";
  return el("figure", {}, image, overlay, cameras > 1 ? el("figcaption", {}, seen.source) : null);
}

// A tag for each box would cover a small picture: the first ones are shown, none on another. Beside it stand all types.
function drawTags(overlay, found, size, thresholds) {
  const height = 1.35 * size, tags = [];
  for (const [[type, score, x1, y1], kind] of found) {
    const words = label(type, score, thresholds), width = words.length * size * 0.62 + size * 0.6;
    const x = Math.max(0, Math.min(x1, overlay.viewBox.baseVal.width - width)), y = y1 > 1.5 * size ? y1 - 1.4 * size : y1;
    if (tags.length === TAGS_MAX || tags.some((tag) => x < tag.x + tag.width && tag.x < x + width && Math.abs(y - tag.y) < height)) continue;
    tags.push({ x, y, width });
    const text = svg("text", { x: x + 0.3 * size, y: y + size, "font-size": size, class: kind });
    text.textContent = words;
    overlay.append(svg("rect", { x, y, width, height, class: `tag ${kind}` }), text);
  }
}

const label = (type, score, thresholds) =>
  `${typeText(type)} ${number(score, 2)}${thresholds && type in thresholds ? ` ≥ ${number(thresholds[type], 2)}` : ""}`;

// The state.

function showState() {
  $("device").textContent = state.device ?? "";
  $("recipe").textContent = state.recipe ?? "";
  document.title = `${state.device} · lineside`;
  fill($("components"), ...(state.components ?? []).map((one) => el("li",
    { class: one.signal, title: one.key ? [t(`alarm_${one.key}`), one.detail].filter(Boolean).join(": ") : t("state_ok") },
    symbol(one.signal || "ok"), t(`component_${one.name}`))));
  showAlarms();
  showTimes();
  showShift();
  showHeatKey();
  if (view === "more") showControl();
}

function showHeatKey() {
  $("heat-key").hidden = !state.has_heat;
  $("heat-key").setAttribute("aria-pressed", String(liveHeat));
}

function showTimes() {
  if (!state) return;
  const { p95_ms: p95, deadline_ms: deadline } = state.latency;
  const rows = [[t("age"), shownPart ? age(shownPart.captured_at_ns) : "–", state.components?.some((one) => one.key.startsWith("camera_")) ? "F" : ""]];
  if (shownPart) rows.push([t("time"), t("milliseconds", { n: milliseconds(shownPart.latency_ms) }), ""]);
  if (p95 !== null) {
    const text = deadline ? t("of_deadline", { n: milliseconds(p95), of: number(deadline) }) : t("milliseconds", { n: milliseconds(p95) });
    rows.push([t("p95"), text, deadline && p95 > 0.8 * deadline ? (p95 > deadline ? "F" : "S") : ""]);
  }
  fill($("times"), ...rows.flatMap(([name, value, signal]) => [el("dt", {}, name), el("dd", { class: signal }, value)]));
}

function showShift() {
  const shift = state.shift, bad = shift.parts - shift.verdicts.pass;
  const counts = [["parts", shift.parts], ["verdict_pass", shift.verdicts.pass], ["verdict_reject", shift.verdicts.reject],
    ["verdict_unsure", shift.verdicts.unsure], ["verdict_fault", shift.verdicts.fault]];
  fill($("counts"), ...counts.flatMap(([key, count]) => [el("dt", {}, t(key)), el("dd", {}, number(count))]));
  const points = shift.trend.map(([parts, rejected]) => (parts ? rejected / parts : null));
  const recent = shift.trend.slice(-6).reduce(([a, b], [parts, rejected]) => [a + parts, b + rejected], [0, 0]);
  const rising = shift.parts && recent[1] >= 5 && recent[0] && recent[1] / recent[0] > 1.5 * (bad / shift.parts);
  const rate = shift.parts ? `${number((100 * bad) / shift.parts, 1)} %` : "–";
  fill($("rate"), el("div", {}, el("p", { class: "soft" }, t("reject_rate")), el("b", {}, rate)), spark(points), rising ? el("span", { class: "S" }, symbol("S"), t("rising")) : "");
  const most = shift.types[0]?.[1] ?? 1;
  fill($("pareto"), ...shift.types.slice(0, 4).map(([type, count]) => el("li", {},
    svg("svg", { "aria-hidden": "true", preserveAspectRatio: "none", viewBox: "0 0 100 10" }, svg("rect", { width: (100 * count) / most, height: 10 })),
    el("span", {}, typeText(type)), el("span", {}, number(count)))));
}

function spark(all) {
  const known = all.slice(Math.max(0, all.findIndex((point) => point !== null))), points = known.length > 1 ? known : [...known, ...known];
  const most = Math.max(0.01, ...points.map((point) => point ?? 0)), step = 100 / Math.max(1, points.length - 1);
  const line = points.map((point, index) => (point === null ? null : `${index * step},${38 - (34 * point) / most}`)).filter(Boolean);
  return svg("svg", { class: "spark", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": t("trend") },
    svg("line", { x1: 0, x2: 100, y1: 38.5, y2: 38.5 }), svg("polyline", { points: line.join(" ") }));
}

function showAlarms() {
  const alarms = state.alarms, unseen = alarms.filter((one) => !one.acknowledged_by), count = $("alarm-count");
  count.hidden = !unseen.length;
  if (unseen.length) {
    count.className = unseen[0].signal;
    fill(count, symbol(unseen[0].signal), String(unseen.length));
  }
  if (view !== "alarms") return;
  $("no-alarms").hidden = alarms.length > 0;
  const signature = (one) => JSON.stringify([{ ...one, detail: "" }, language]);
  showList($("alarm-list"), alarms, signature, alarmItem, (made, one) => { made.querySelector("p[lang]").textContent = one.detail; });
  showFacts();
}

function alarmItem(alarm) {
  const words = [clockTime(alarm.since_ns), t(`component_${alarm.component}`), alarm.over ? t("over") : "",
    alarm.acknowledged_by ? t("seen_by", { name: personText(alarm.acknowledged_by) }) : ""].filter(Boolean).join(" · ");
  const key = alarm.acknowledged_by ? null : el("button", { onclick: () => tell(post("acknowledge", { key: alarm.key })) }, t("acknowledge"));
  return el("li", { class: alarm.over ? "over" : alarm.acknowledged_by ? "seen" : "" }, el("span", { class: `sign ${alarm.signal}` }, symbol(alarm.signal)),
    el("div", {}, el("b", {}, t(`alarm_${alarm.key}`)), el("p", { class: "soft" }, words), el("p", { lang: "en" }, alarm.detail)), key);
}

function showFacts() {
  const facts = state.facts, gigabytes = (bytes) => t("gigabytes", { n: number(bytes / 1e9, 1) });
  const rows = [["component_camera", facts.cameras.join(", ")], ["component_plc", facts.lines.join(", ")],
    ["component_engine", facts.used_device ? `${facts.used_device} (${t("requested")}: ${facts.requested_device})` : ""],
    ["component_hub", facts.connected ? t("waiting_records", { n: number(facts.outbox_pending) }) : ""],
    ["component_disk", t("free_of", { n: gigabytes(facts.disk_free_bytes), of: gigabytes(facts.disk_bytes) })],
    ["component_heat", facts.temperature_c === null ? "" : `${number(facts.temperature_c)} °C`],
    ["bundle", state.bundle ?? ""], ["version", facts.agent_version ?? ""]];
  fill($("facts").tBodies[0], ...rows.filter(([, text]) => text).map(([key, text]) => el("tr", {}, el("td", { class: "soft" }, t(key)), el("td", {}, text))));
}

const personText = (name) => (name === "local" ? t("local") : name);

// Rejects.

function thumbnailKey(source, name, words, onclick) {
  return el("button", { "aria-label": name, onclick, disabled: !onclick }, el("img", { src: source, alt: "", loading: "lazy" }), el("span", { class: "words" }, words));
}

function showRejects() {
  const fitting = Math.max(1, Math.floor($("strip").clientWidth / 100));
  showThumbnails($("strip"), rejects.slice(0, fitting));
  showThumbnails($("grid"), rejects);
  $("no-rejects").hidden = rejects.length > 0;
}

function showThumbnails(place, shown) {
  showList(place, shown, (one) => `${one.number} ${one.mark} ${language}`, thumbnail);
}

function thumbnail(reject) {
  const words = `${clockTime(reject.captured_at_ns)} ${reject.types.map(typeText).join(", ")}`;
  const name = `${t(`verdict_${reject.verdict}`)} ${words} ${reject.part_id}`;
  return el("button", { "aria-label": name, onclick: () => openReject(reject) },
    reject.has_thumbnail ? el("img", { src: `rejects/${reject.number}.jpg`, alt: "", loading: "lazy" }) : null,
    el("span", { class: `sign ${sign(reject.verdict)}` }, symbol(reject.verdict)),
    reject.mark ? el("span", { class: "marked" }, "✓") : null, el("span", { class: "words" }, words));
}

async function openReject(reject) {
  const query = new URLSearchParams({ source: reject.source, sequence: reject.sequence });
  try { opened = { ...(await get(`record?${query}`)), query, heat: false, similar: null }; } catch (error) { warn(error); return; }
  drawing = null;
  if (view !== "reject") cameFrom = view;
  show("reject");
  drawReject();
  $("reject-keys").querySelector("button").focus({ preventScroll: true });
}

function drawReject() {
  showVerdict($("reject-verdict"), opened.verdict);
  $("reject-title").textContent = [clockTime(opened.captured_at_ns), opened.part_id, opened.recipe, opened.error].filter(Boolean).join(" · ");
  const found = opened.views.flatMap((seen) => [...seen.detections, ...seen.doubtful.map((one) => [...one, "doubt"])]);
  const out = opened.measurements.filter((one) => !one.in_tolerance && !one.error);
  $("findings").hidden = !found.length && !out.length && !opened.readings.length;
  fill($("findings").tBodies[0], 
    ...found.map(([type, score, , , , , doubt]) => el("tr", {}, el("td", {}, typeText(type), doubt ? ` (${t("verdict_unsure")})` : ""),
      el("td", {}, number(score, 2)), el("td", {}, opened.thresholds?.[type] === undefined ? "–" : number(opened.thresholds[type], 2)))),
    ...out.map((one) => el("tr", {}, el("td", {}, one.name), el("td", {}, `${one.value === null ? "–" : number(one.value, 2)} ${one.unit}`),
      el("td", {}, [one.min, one.max].map((limit) => (limit === null || limit === undefined ? "" : number(limit, 2))).join(" … ")))),
    ...opened.readings.map((one) => el("tr", {}, el("td", {}, symbol(one.accepted ? "pass" : "reject"), ` ${one.name}`), el("td", { colSpan: 2 }, one.text || "–"))));
  showRejectImages();
  showRejectKeys();
  if (opened.mark) noteMark();
  else $("reject-note").textContent = "";
}

function showRejectImages() {
  const shown = opened, pair = shown.similar;
  const wanted = pair ? [pair.view] : shown.views.map((_, index) => index), figures = wanted.length + (pair ? 1 : 0);
  const source = (index) => `record/${shown.heat ? "heat" : "image"}?${shown.query}&view=${index}`;
  Promise.all([...wanted.map((index) => loadImage(source(index))), pair ? loadImage(`record/image?${similarQuery(pair)}`) : null]).then((images) => {
    if (opened !== shown || shown.similar !== pair) return;
    const made = wanted.map((index, place) => {
      const one = images[place] && figure(shown.views[index], images[place], figures, shown.measurements, shown.thresholds);
      if (one) letDraw(one, index);
      return one;
    });
    if (pair && images[wanted.length]) made.push(el("figure", { id: "similar" }, images[wanted.length], el("figcaption", {}, similarText(pair))));
    fill($("full"), ...(made.some(Boolean) ? made.filter(Boolean) : [el("p", { class: "empty" }, t("no_image"))]));
  });
}

// The good part beside it.

const similarQuery = ({ source, sequence, view: index }) => new URLSearchParams({ source, sequence, view: index });

const similarText = (pair) => t("similar_part", { time: clockTime(pair.captured_at_ns), part: pair.part_id,
  n: number(100 * Math.max(0, pair.likeness)), of: number(pair.compared) });

async function toggleSimilar() {
  const shown = opened;
  if (shown.similar) shown.similar = null;
  else {
    const index = Math.max(0, shown.views.findIndex((seen) => seen.verdict !== "pass"));
    try { shown.similar = await get(`record/similar?${shown.query}&view=${index}`); } catch (error) { warn(error); return; }
    if (opened !== shown) return;
    if (!shown.similar) { $("reject-note").textContent = t("no_similar"); return; }
  }
  drawReject();
}

function showRejectKeys() {
  const place = $("reject-keys");
  if (drawing) {
    const types = [...opened.labels.slice(0, 12), ""];
    fill(place, ...types.map((type) => el("button", { onclick: () => mark("missed_defect", type) }, typeText(type))),
      el("button", { onclick: () => { drawing = null; drawReject(); } }, t("cancel")));
    return;
  }
  const key = (kind, action) => el("button", { "aria-pressed": String(opened.mark === kind), onclick: action }, t(kind));
  const toggle = (kind) => () => mark(opened.mark === kind ? null : kind);
  fill(place, opened.verdict === "pass" ? null : key("false_reject", toggle("false_reject")),
    key("missed_defect", () => (opened.mark === "missed_defect" ? mark(null) : beginDrawing())), key("not_sure", toggle("not_sure")),
    el("button", { onclick: () => { show(cameFrom); document.querySelector("nav [aria-current]").focus({ preventScroll: true }); } }, t("back")),
    opened.has_heat ? el("button", { "aria-pressed": String(opened.heat), onclick: () => { opened.heat = !opened.heat; drawReject(); } }, t("heat_map")) : null,
    opened.has_image ? el("button", { "aria-pressed": String(Boolean(opened.similar)), onclick: () => toggleSimilar() }, t("good_part")) : null);
}

function beginDrawing() {
  drawing = { box: null, view: 0 };
  $("reject-note").textContent = t("draw_box");
  showRejectKeys();
}

function letDraw(made, index) {
  const overlay = made.querySelector("svg");
  let from = null, box = null;
  const place = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(overlay.getScreenCTM().inverse());
    const { width, height } = overlay.viewBox.baseVal;
    return [Math.min(width, Math.max(0, at.x)), Math.min(height, Math.max(0, at.y))];
  };
  overlay.addEventListener("pointerdown", (event) => {
    if (!drawing) return;
    from = place(event);
    overlay.setPointerCapture(event.pointerId);
    document.querySelectorAll(".drawn").forEach((old) => old.remove());
    box = svg("rect", { class: "box drawn" });
    overlay.append(box);
  });
  overlay.addEventListener("pointermove", (event) => {
    if (!from || !box) return;
    const to = place(event), [x, y] = [Math.min(from[0], to[0]), Math.min(from[1], to[1])];
    const [width, height] = [Math.abs(from[0] - to[0]), Math.abs(from[1] - to[1])];
    for (const [name, value] of Object.entries({ x, y, width, height })) box.setAttribute(name, value);
    if (drawing) Object.assign(drawing, { box: [x, y, x + width, y + height], view: index });
  });
  overlay.addEventListener("pointerup", () => {
    from = null;
    if (drawing?.box) $("reject-note").textContent = t("choose_type");
  });
  overlay.style.touchAction = "none";
}

async function mark(kind, type = "") {
  const box = kind === "missed_defect" && drawing?.box ? { box: drawing.box, type, view: drawing.view } : null;
  const marked = opened;
  try {
    const done = await post("mark", { source: marked.source, sequence: marked.sequence, kind, box });
    marked.mark = done.mark;
    marked.done = done;
    const listed = rejects.find((one) => one.source === marked.source && one.sequence === marked.sequence);
    if (listed) listed.mark = done.mark;
    drawing = null;
    if (opened === marked) drawReject();
    showRejects();
  } catch (error) { warn(error); }
}

function noteMark() {
  const done = opened.done, lines = [t("marked", { what: t(opened.mark) })];
  if (done && !done.has_image) lines.push(t("mark_without_image"));
  if (done && !done.has_hub) lines.push(t("mark_without_hub"));
  $("reject-note").textContent = lines.join(" ");
}

// Line, person, language.

function showMore() {
  const languages = Object.entries(LANGUAGES).map(([code, name]) => el("button",
    { lang: code, "aria-pressed": String(code === language), onclick: () => setLanguage(code) }, name));
  const theme = stored("theme") ?? "auto";
  const themes = THEMES.map((name) => el("button", { "aria-pressed": String(name === theme), onclick: () => { setTheme(name); showMore(); } }, t(`theme_${name}`)));
  const person = session.people.length ? [el("h2", {}, t("person")), el("div", { class: "keys" },
    el("button", { onclick: () => tell(askPin()) }, session.name ? t("change_person") : t("sign_in")),
    session.name ? el("button", { onclick: () => tell(post("session/end", {}).then(loadSession)) }, t("sign_out")) : null)] : [];
  const setUp = session.role === "set_up" && state?.control ? [el("h2", {}, t("set_up")), el("div", { class: "keys" },
    el("button", { onclick: () => tell(import("./setup.js").then((views) => views.openCamera())) }, t("camera_set_up")),
    state.learn ? el("button", { onclick: () => tell(import("./setup.js").then((views) => views.openLearning())) }, t("learn_good")) : null)] : [];
  fill($("more-body"), el("h2", {}, t("line")), el("div", { id: "control" }), ...setUp, ...person,
    el("h2", {}, t("language")), el("div", { class: "keys" }, ...languages), el("h2", {}, t("theme")), el("div", { class: "keys" }, ...themes),
    session.role === "set_up" ? el("h2", {}, t("actions")) : null, session.role === "set_up" ? el("table", { id: "actions" }, el("tbody")) : null);
  showControl();
  if (session.role === "set_up") showActions();
}

function showControl() {
  const place = $("control");
  if (!place || !state) return;
  const signature = JSON.stringify([state.control, state.triggers, state.recipe, state.recipes, language]);
  if (place.dataset.shown === signature) return;
  place.dataset.shown = signature;
  if (!state.control || !(state.triggers || state.recipes.length)) { fill(place, el("p", { class: "soft" }, t("line_has_control"))); return; }
  const keys = state.triggers ? [["trigger", {}], ["reset", {}], ["challenge", {}]].map(([what]) => confirmed(t(`do_${what}`), () => post("line", { do: what }))) : [];
  const recipes = state.recipes.map((name) => {
    const key = confirmed(t("do_recipe", { name }), () => post("line", { do: "recipe", recipe: name }));
    key.setAttribute("aria-pressed", String(name === state.recipe));
    return key;
  });
  place.className = "keys";
  fill(place, ...keys, ...recipes, el("p", { id: "control-note", role: "status" }));
}

function confirmed(text, action) {
  let armed = 0;
  const key = el("button", {
    onclick: () => {
      if (!armed) {
        key.textContent = t("press_again");
        armed = setTimeout(() => { armed = 0; key.textContent = text; }, CONFIRM_MS);
        return;
      }
      clearTimeout(armed);
      armed = 0;
      key.textContent = text;
      tell(action().then((done) => { $("control-note").textContent = done.verdict ? t("answered", { verdict: t(`verdict_${done.verdict}`) }) : t("done"); }));
    },
  }, text);
  return key;
}

async function showActions() {
  try {
    const found = await get("actions");
    fill($("actions").tBodies[0], ...found.map((one) => el("tr", {}, el("td", {}, new Date(one.at_ns / 1e6).toLocaleString(language, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" })),
      el("td", {}, personText(one.by)), el("td", {}, one.action), el("td", {}, `${one.subject} ${one.detail} ${one.error}`))));
  } catch (error) { warn(error); }
}

function askPin() {
  return new Promise((resolve, reject) => {
    const dialog = $("sign-in"), body = $("sign-in-body");
    const close = (done) => { dialog.close(); done(); };
    const must = session.role === null;
    const cancel = el("button", { class: "words", disabled: must, onclick: () => close(() => reject(new Error(t("cancelled")))) }, t("cancel"));
    const askFor = (name) => {
      let pin = "";
      const out = el("output", { "aria-label": t("pin") }, name);
      const type = (digit) => () => { pin = (pin + digit).slice(0, 12); out.textContent = "•".repeat(pin.length); };
      const enter = async () => {
        try {
          await post("session", { name, pin });
          await loadSessionOnce();
          close(resolve);
        } catch (error) { pin = ""; out.textContent = error.status === 429 ? t("too_many_pins") : t("wrong_pin"); }
      };
      const digit = (value, shape = "") => el("button", { class: shape, onclick: type(value) }, value);
      const clear = el("button", { class: "words", onclick: () => { pin = ""; out.textContent = name; } }, t("clear"));
      fill(body, el("div", { class: "pad" }, out, digit("1"), digit("2"), digit("3"), digit("0", "wide"), digit("4"), digit("5"), digit("6"),
        clear, cancel, digit("7"), digit("8"), digit("9"), el("button", { class: "words wide", onclick: enter }, t("enter"))));
    };
    fill(body, el("div", { class: "keys" }, ...session.people.map((name) => el("button", { onclick: () => askFor(name) }, name)), cancel));
    dialog.setAttribute("aria-label", t("sign_in"));
    dialog.oncancel = (event) => { event.preventDefault(); if (!must) close(() => reject(new Error(t("cancelled")))); };
    if (!dialog.open) dialog.showModal();
  });
}

async function loadSessionOnce() {
  session = await get("session");
  $("who").textContent = session.name === "local" ? "" : session.name;
  if (view === "more") showMore();
}

// The page.

function show(name) {
  view = name;
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== name;
  for (const key of document.querySelectorAll("nav button")) {
    if (key.dataset.view === ({ reject: cameFrom, camera: "more", learning: "more" }[name] ?? name)) key.setAttribute("aria-current", "page");
    else key.removeAttribute("aria-current");
  }
  if (name === "more") showMore();
  if (name === "alarms" && state) showAlarms();
  if (name === "rejects" || name === "live") showRejects();
}

let warned = 0;
function warn(error) {
  $("banner").textContent = error.message;
  $("banner").hidden = false;
  clearTimeout(warned);
  warned = setTimeout(() => { warned = 0; tick(); }, 6000);
}

const tell = (promise) => promise.catch(warn);

function tick() {
  const gone = stateAt && Date.now() - stateAt > STALE_MS;
  document.body.classList.toggle("stale", Boolean(gone));
  if (gone) { $("banner").textContent = t("no_agent"); $("banner").hidden = false; }
  else if (!warned) $("banner").hidden = true;
  $("clock").textContent = new Date(Date.now() + clockOffsetMs).toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  showTimes();
}

function setTheme(name) {
  store("theme", name);
  if (name === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = name;
}

function setLanguage(code) {
  language = code;
  store("language", code);
  document.documentElement.lang = code;
  for (const one of document.querySelectorAll("[data-t]")) one.textContent = t(one.dataset.t);
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", t(one.dataset.label));
  if (state) showState();
  showRejects();
  if (shownPart) showVerdict($("verdict"), shownPart.verdict);
  if (opened) drawReject();
  if (view === "more") showMore();
}

const viewName = () => view;

export { $, age, clockTime, el, fill, figure, get, loadImage, number, post, show, showList, svg, t, tell, thumbnailKey, viewName, warn };

async function begin() {
  strings = await get("strings.json");
  const wanted = [stored("language"), ...navigator.languages.map((name) => name.slice(0, 2))];
  setTheme(stored("theme") ?? "auto");
  setLanguage(wanted.find((code) => code in LANGUAGES) ?? "en");
  liveHeat = stored("heat") === "on";
  $("heat-key").addEventListener("click", () => {
    liveHeat = !liveHeat;
    store("heat", liveHeat ? "on" : "off");
    showHeatKey();
    showPart();
  });
  $("picture").addEventListener("click", () => { if (shownPart) openReject(shownPart); });
  for (const key of document.querySelectorAll("nav button")) key.addEventListener("click", () => show(key.dataset.view));
  document.addEventListener("visibilitychange", connect);
  watchPresses(showMissed);
  show("live");
  setInterval(tick, 250);
  await loadSession();
  connect();
}

begin();
