// Set-up views: camera with region editor, and the wizard that learns good parts.

import { $, age, clockTime, el, fill, figure, get, loadImage, number, post, show, showList, svg, t, tell, thumbnailKey, viewName, warn } from "./screen.js";

const LOOK_MS = 300, STEP = 0.02, HANDLE_PX = 22, TOUCH_PX = 52;   // 20 mm of a 7-inch panel

// Camera.

let camera = { index: 0, sources: [], look: null, peak: 0, regions: [], chosen: -1, place: "device", changed: false, drawing: "", note: "" };
let polling = 0;

export async function openCamera(index = 0) {
  const overview = await get("set-up");
  camera = { ...camera, index, sources: overview.cameras, look: null, peak: 0, chosen: -1, changed: false, drawing: "", note: "" };
  show("camera");
  await loadRegions();
  poll();
}

async function loadRegions() {
  const found = await get(`cameras/${camera.index}/regions`);
  Object.assign(camera, { regions: found.regions.map((one, kept) => ({ ...one, kept })), place: found.place, state: found.state, error: found.error, chosen: -1, changed: false });
  drawCamera();
}

function poll() {
  clearTimeout(polling);
  polling = setTimeout(async () => {
    if (viewName() !== "camera") return;
    if (!document.hidden) {
      try { await lookOnce(); } catch (error) { warn(error); }
    }
    poll();
  }, LOOK_MS);
}

async function lookOnce() {
  const index = camera.index, area = areaOf(camera.regions[camera.chosen]);
  const look = await get(`cameras/${index}${area ? `?area=${area.join(",")}` : ""}`);
  const image = look.figures ? await loadImage(`cameras/${index}/${look.number}.jpg`) : null;
  if (camera.index !== index || viewName() !== "camera") return;
  const first = !camera.look?.width && look.width;
  camera.look = look;
  if (look.figures) camera.peak = Math.max(camera.peak, look.figures.focus);
  showPicture(image, look);
  showFigures();
  if (first) await loadRegions();
}

function areaOf(region) {
  if (!region?.polygon.length) return null;
  const [xs, ys] = [0, 1].map((side) => region.polygon.map((corner) => corner[side]));
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)].map((side) => side.toFixed(4));
}

function showPicture(image, look) {
  const place = $("camera-picture");
  if (!image) { fill(place, el("p", { class: "empty" }, look.problem || t("waiting_picture"))); return; }
  const old = place.querySelector("figure img");
  if (old && place.dataset.size === `${look.width} ${look.height}`) { old.replaceWith(image); return; }
  place.dataset.size = `${look.width} ${look.height}`;
  fill(place, figure({ width: look.width, height: look.height, detections: [], doubtful: [] }, image, 1, []));
  const overlay = place.querySelector("figure svg");
  overlay.id = "regions";
  overlay.style.touchAction = "none";
  overlay.removeAttribute("aria-hidden");
  overlay.setAttribute("role", "img");
  overlay.setAttribute("aria-label", t("regions"));
  for (const [name, action] of [["pointerdown", press], ["pointermove", move], ["pointerup", release]]) overlay.addEventListener(name, action);
  drawRegions();
}

function showFigures() {
  const { figures, rate_hz: rate, captured_at_ns: at } = camera.look;
  const rows = [["age", figures ? age(at) : "–"], ["frame_rate", rate === null ? "–" : t("per_second", { n: number(rate, 1) })],
    ["too_bright", figures ? `${number(100 * figures.over, 1)} %` : "–"], ["too_dark", figures ? `${number(100 * figures.under, 1)} %` : "–"]];
  fill($("camera-figures"), ...rows.flatMap(([key, value]) => [el("dt", {}, t(key)), el("dd", {}, value)]));
  const share = camera.peak ? (figures?.focus ?? 0) / camera.peak : 0;
  fill($("focus"), el("p", { class: "soft" }, `${t("focus")} ${number(100 * share)} %`),
    svg("svg", { viewBox: "0 0 100 14", preserveAspectRatio: "none", role: "img", "aria-label": t("focus") },
      svg("rect", { x: 0, y: 0, width: 100, height: 14, class: "track" }), svg("rect", { x: 0, y: 0, width: 100 * share, height: 14, class: "fill" })));
  const bins = figures?.histogram ?? [], most = Math.max(0.001, ...bins);
  fill($("histogram"), svg("svg", { viewBox: "0 0 64 30", preserveAspectRatio: "none", role: "img", "aria-label": t("exposure") },
    ...bins.map((bin, x) => svg("rect", { x, y: 30 - (30 * bin) / most, width: 1, height: (30 * bin) / most, class: "fill" }))));
}

function drawRegions() {
  const overlay = $("regions");
  if (!overlay) return;
  const { width, height } = overlay.viewBox.baseVal, scale = width / Math.max(1, overlay.getBoundingClientRect().width);
  overlay.replaceChildren(...camera.regions.flatMap((region, index) => {
    if (!region.polygon.length) return [];
    const points = region.polygon.map(([x, y]) => `${x * width},${y * height}`).join(" ");
    const chosen = index === camera.chosen;
    const circle = (r, kind) => ([x, y], corner) => svg("circle", { cx: x * width, cy: y * height, r: r * scale, class: kind, "data-corner": corner });
    const handles = chosen ? [...region.polygon.map(circle(TOUCH_PX, "touch")), ...region.polygon.map(circle(HANDLE_PX, "handle"))] : [];
    return [svg("polygon", { points, class: `region ${region.kind}${chosen ? " chosen" : ""}`, "data-region": index }), ...handles];
  }));
}

let held = null;

function placeOf(event) {
  const overlay = $("regions"), { width, height } = overlay.viewBox.baseVal;
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(overlay.getScreenCTM().inverse());
  return [Math.min(1, Math.max(0, at.x / width)), Math.min(1, Math.max(0, at.y / height))];
}

function press(event) {
  const at = placeOf(event), { corner, region } = event.target.dataset;
  $("regions").setPointerCapture(event.pointerId);
  if (camera.drawing) {
    camera.regions.push({ kind: camera.drawing, polygon: [at, at, at, at], types: [], is_mask: false });
    camera.chosen = camera.regions.length - 1;
    held = { from: at, whole: false, corner: null };
  } else if (corner !== undefined) held = { from: at, corner: Number(corner) };
  else if (region !== undefined) {
    camera.chosen = Number(region);
    held = { from: at, corner: null, whole: true, polygon: camera.regions[camera.chosen].polygon };
  } else camera.chosen = -1;
  drawCamera();
}

function move(event) {
  if (!held) return;
  const at = placeOf(event), region = camera.regions[camera.chosen];
  if (held.whole) {
    const limit = (side) => [-Math.min(...held.polygon.map((one) => one[side])), 1 - Math.max(...held.polygon.map((one) => one[side]))];
    const by = [0, 1].map((side) => Math.min(limit(side)[1], Math.max(limit(side)[0], at[side] - held.from[side])));
    region.polygon = held.polygon.map(([x, y]) => [x + by[0], y + by[1]]);
  } else if (held.corner !== null) region.polygon = region.polygon.map((one, index) => (index === held.corner ? at : one));
  else region.polygon = [held.from, [at[0], held.from[1]], at, [held.from[0], at[1]]];
  camera.changed = true;
  drawRegions();
}

function release() {
  const region = camera.regions[camera.chosen];
  if (held && camera.drawing) {
    camera.drawing = camera.note = "";
    const area = areaOf(region).map(Number);
    if (area[2] - area[0] < 0.01 || area[3] - area[1] < 0.01) { camera.regions.pop(); camera.chosen = -1; }
  }
  held = null;
  drawCamera();
}

function addCorner() {
  const { polygon } = camera.regions[camera.chosen];
  const length = (index) => Math.hypot(...[0, 1].map((side) => polygon[index][side] - polygon[(index + 1) % polygon.length][side]));
  const longest = polygon.reduce((best, _, index) => (length(index) > length(best) ? index : best), 0), next = polygon[(longest + 1) % polygon.length];
  polygon.splice(longest + 1, 0, [0, 1].map((side) => (polygon[longest][side] + next[side]) / 2));
  camera.changed = true;
  drawCamera();
}

function drawCamera() {
  drawRegions();
  const chosen = camera.regions[camera.chosen], key = (text, onclick, pressed) => el("button", { onclick, ...(pressed === undefined ? {} : { "aria-pressed": String(pressed) }) }, t(text));
  const draw = (kind) => () => { camera.drawing = camera.drawing === kind ? "" : kind; camera.chosen = -1; camera.note = camera.drawing ? "draw_region" : ""; drawCamera(); };
  const masks = camera.regions.filter((one) => one.is_mask).length;
  $("camera-title").textContent = camera.sources[camera.index] ?? "";
  $("camera-note").textContent = [camera.note ? t(camera.note) : t(`regions_${camera.place}`), masks ? t("masks_kept", { n: number(masks) }) : "", camera.error ?? ""].filter(Boolean).join(" ");
  fill($("camera-keys"), key("inspect_here", draw("inspect"), camera.drawing === "inspect"), key("ignore_here", draw("ignore"), camera.drawing === "ignore"),
    chosen?.polygon.length ? key("add_corner", addCorner) : null,
    chosen ? key("remove_region", () => { camera.regions.splice(camera.chosen, 1); Object.assign(camera, { chosen: -1, changed: true }); drawCamera(); }) : null,
    camera.changed ? key("save", () => tell(save())) : null, camera.changed ? key("undo", () => { camera.note = ""; tell(loadRegions()); }) : null,
    key("reset_peak", () => { camera.peak = 0; }),
    camera.sources.length > 1 ? key("next_camera", () => tell(openCamera((camera.index + 1) % camera.sources.length))) : null,
    key("back", () => show("more")));
}

async function save() {
  const regions = camera.regions.map(({ kind, polygon, kept, is_mask: mask }) => ({ kind, polygon: mask ? [] : polygon, ...(kept === undefined ? {} : { kept }) }));
  const result = await post(`cameras/${camera.index}/regions`, { regions });
  if (result.toml) { showToml(result); return; }
  camera.note = "regions_sent";
  const index = camera.index;
  for (let look = 0; look < 100 && camera.index === index; look += 1) {
    const found = await get(`cameras/${index}/regions`);
    if (["active", "failed", "rolled_back"].includes(found.state)) {
      camera.note = found.state === "active" ? "regions_active" : "regions_refused";
      await loadRegions();
      return;
    }
    await new Promise((resolve) => { setTimeout(resolve, 500); });
  }
}

function showToml(result) {
  const dialog = $("toml"), body = $("toml-body"), text = el("textarea", { readOnly: true, value: result.toml, "aria-label": result.file });
  const link = el("a", { class: "key", download: result.file, href: `data:application/toml;charset=utf-8,${encodeURIComponent(result.toml)}` }, t("download"));
  fill(body, el("p", {}, t(`toml_${result.place}`)), text, el("div", { class: "keys" }, link, el("button", { onclick: () => dialog.close() }, t("back"))));
  dialog.setAttribute("aria-label", result.file);
  dialog.showModal();
}

// Good parts.

let wizard = null, score = 0.5, refreshing = 0;

export async function openLearning() {
  show("learning");
  score = 0.5;
  await refresh();
}

async function refresh() {
  clearTimeout(refreshing);
  if (viewName() !== "learning") return;
  try { wizard = await get("learning"); drawLearning(); } catch (error) { warn(error); }
  refreshing = setTimeout(refresh, 700);
}

async function step(body) {
  try { wizard = await post("learning", body); drawLearning(); } catch (error) { warn(error); }
}

function drawLearning() {
  const { step: at, parts, result, error, active, deployment, progress } = wizard, key = (text, onclick, disabled = false) => el("button", { onclick, disabled }, t(text));
  const can = ["collecting", "paused", "learned"].includes(at), says = { empty: "learning_begin", collecting: "learning_collecting", paused: "learning_paused", learning: "learning_learning", learned: "learning_learned", deploying: active ? "learning_active" : "learning_deploying" }[at];
  $("learning-title").textContent = t("good_parts_count", { n: number(parts.length), of: number(wizard.advised) });
  $("learning-note").textContent = [t(says, { state: deployment, progress }), at === "learned" ? result.warning : "", wizard.replaced ? t("learning_replaced", { state: deployment }) : at === "learned" && wizard.has_hub ? t("learning_hub") : "", error].filter(Boolean).join(" ");
  showList($("learning-parts"), [...parts].reverse(), (one) => JSON.stringify([one.number, at, result !== null, document.documentElement.lang]),
    (one) => thumbnailKey(`learning/${one.number}.jpg`, `${t("remove_part")} ${one.part_id}`,
      `${result ? number(result.good[one.number] ?? 0, 2) : clockTime(one.captured_at_ns)} ${one.part_id}`, can ? () => step({ do: "remove", part: one.number }) : null));
  drawScores();
  const keys = JSON.stringify([at, parts.length < wizard.least, document.documentElement.lang]);
  if ($("learning-keys").dataset.shown === keys) return;   // a key that is being touched stays
  $("learning-keys").dataset.shown = keys;
  fill($("learning-keys"), at === "empty" || at === "paused" ? key("collect", () => step({ do: "collect" })) : null, at === "collecting" ? key("pause", () => step({ do: "pause" })) : null,
    at === "collecting" || at === "paused" ? key("learn", () => step({ do: "learn" }), parts.length < wizard.least) : null,
    at === "learned" ? key("stricter", () => moveTo(score - STEP)) : null, at === "learned" ? key("looser", () => moveTo(score + STEP)) : null,
    at === "learned" ? key("accept", () => step({ do: "accept", score })) : null,
    at !== "empty" ? key("discard", () => { score = 0.5; step({ do: "discard" }); }) : null, key("back", () => show("more")));
}

function moveTo(value) {
  score = Math.min(0.96, Math.max(0.06, Math.round(value * 100) / 100));
  drawLearning();
}

function drawScores() {
  const place = $("learning-scores");
  place.hidden = !wizard.result;
  if (!wizard.result) return;
  const good = Object.values(wizard.result.good), { bad } = wizard.result, above = (scores) => scores.filter((one) => one >= score).length;
  const dot = (y, kind) => (value) => svg("circle", { cx: 100 * value, cy: y, r: 1.1, class: kind });
  fill(place, svg("svg", { viewBox: "0 0 100 24", role: "img", "aria-label": t("threshold") }, svg("line", { x1: 0, x2: 100, y1: 12, y2: 12 }),
    ...good.map(dot(6, "good")), ...bad.map(dot(18, "bad")), svg("line", { x1: 100 * score, x2: 100 * score, y1: 0, y2: 24, class: "bar" })),
    el("dl", {}, el("dt", {}, t("threshold")), el("dd", {}, number(score, 2)), el("dt", {}, t("good_rejected")), el("dd", {}, t("n_of", { n: number(above(good)), of: number(good.length) })),
      el("dt", {}, t("bad_found")), el("dd", {}, bad.length ? t("n_of", { n: number(above(bad)), of: number(bad.length) }) : "–")));
}
