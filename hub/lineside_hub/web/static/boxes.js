// The box editor: a frame as SVG, in whose units boxes are pixels of the frame.
"use strict";

const frame = document.getElementById("frame"), editor = document.getElementById("editor");
const SVG = "http://www.w3.org/2000/svg", LEAST = 2;

if (frame && editor) {
  const type = document.getElementById("type"), other = document.getElementById("new-type");
  const model = JSON.parse(editor.dataset.model).map(([name, , ...sides]) => [name, ...sides]);
  const known = new Set([...type.options].map((option) => option.value));
  const {width, height} = frame.viewBox.baseVal;
  const group = document.getElementById("person");
  let boxes = JSON.parse(editor.dataset.boxes) ?? model.map((box) => [...box]);
  let chosen = -1, drag = null;

  const clamp = (value, most) => Math.min(Math.max(value, 0), most);
  const typeNow = () => (type.value === "+" ? other.querySelector("input").value.trim() : type.value);

  function place(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(frame.getScreenCTM().inverse());
    return [clamp(at.x, width), clamp(at.y, height)];
  }

  function shape(tag, attributes, css) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.setAttribute("class", css);
    return made;
  }

  function draw(focus = false) {
    const unit = width / Math.max(frame.clientWidth, 1);
    group.replaceChildren();
    boxes.forEach(([name, x1, y1, x2, y2], number) => {
      const box = shape("rect", {x: x1, y: y1, width: x2 - x1, height: y2 - y1, tabindex: 0, role: "button", "aria-label": `Box ${number + 1}: ${name}`, "aria-pressed": number === chosen}, number === chosen ? "person chosen" : "person");
      box.dataset.box = number;
      box.addEventListener("focus", () => { if (chosen !== number) choose(number, true); });
      box.addEventListener("keydown", (event) => byKey(event, number));
      group.append(box, shape("text", {x: x1, y: Math.max(y1 - 4 * unit, 14 * unit), "font-size": 15 * unit, "aria-hidden": true}, "person"));
      group.lastChild.textContent = name;
      if (number === chosen) {
        const corner = shape("circle", {cx: x2, cy: y2, r: 8 * unit}, "corner");
        corner.dataset.corner = number;
        group.append(corner);
        if (focus) box.focus();
      }
    });
    editor.querySelector("[data-do=remove]").disabled = chosen < 0;
    document.getElementById("count").textContent = boxes.length === 1 ? "1 box" : `${boxes.length} boxes`;
  }

  function choose(number, focus = false) {
    chosen = number;
    if (number >= 0) {
      const [name] = boxes[number], isNew = !known.has(name);
      type.value = isNew ? "+" : name;
      other.hidden = !isNew;
      if (isNew) other.querySelector("input").value = name;
    }
    draw(focus);
  }

  function rename() {
    if (chosen < 0 || !typeNow()) return;
    boxes[chosen][0] = typeNow();
    draw();
  }

  function remove() {
    if (chosen < 0) return;
    boxes.splice(chosen, 1);
    choose(-1);
  }

  function byKey(event, number) {
    const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); remove(); }
    if (!step) return;
    event.preventDefault();
    const [name, x1, y1, x2, y2] = boxes[number];
    const [dx, dy] = step;
    if (event.shiftKey) boxes[number] = [name, x1, y1, Math.max(x1 + LEAST, clamp(x2 + dx, width)), Math.max(y1 + LEAST, clamp(y2 + dy, height))];
    else moveTo(number, x1 + dx, y1 + dy);
    draw(true);
  }

  function moveTo(number, x, y) {
    const [name, x1, y1, x2, y2] = boxes[number];
    const left = clamp(x, width - (x2 - x1)), top = clamp(y, height - (y2 - y1));
    boxes[number] = [name, left, top, left + x2 - x1, top + y2 - y1];
  }

  frame.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    const [x, y] = place(event), at = event.target.dataset ?? {};
    if (at.corner !== undefined) drag = {kind: "resize", number: +at.corner, x: boxes[+at.corner][1], y: boxes[+at.corner][2]};
    else if (at.box !== undefined) {
      choose(+at.box);
      drag = {kind: "move", number: +at.box, x: x - boxes[+at.box][1], y: y - boxes[+at.box][2]};
    } else if (typeNow()) {
      boxes.push([typeNow(), x, y, x, y]);
      choose(boxes.length - 1);
      drag = {kind: "resize", number: boxes.length - 1, x, y};
    } else other.querySelector("input").focus();
    if (drag) frame.setPointerCapture(event.pointerId);
  });

  frame.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [x, y] = place(event);
    if (drag.kind === "move") moveTo(drag.number, x - drag.x, y - drag.y);
    else boxes[drag.number] = [boxes[drag.number][0], Math.min(drag.x, x), Math.min(drag.y, y), Math.max(drag.x, x), Math.max(drag.y, y)];
    draw();
  });

  frame.addEventListener("pointerup", () => {
    if (!drag) return;
    const [, x1, y1, x2, y2] = boxes[drag.number];
    drag = null;
    if (x2 - x1 < LEAST || y2 - y1 < LEAST) remove();
  });

  type.addEventListener("change", () => {
    other.hidden = type.value !== "+";
    if (!other.hidden) other.querySelector("input").focus();
    rename();
  });

  other.addEventListener("input", rename);

  editor.addEventListener("click", (event) => {
    const what = event.target.dataset.do;
    if (what === "remove") remove();
    if (what === "model") { boxes = model.map((box) => [...box]); choose(-1); }
    if (what === "good") { boxes = []; choose(-1); editor.requestSubmit(); }
  });

  editor.addEventListener("submit", async (event) => {
    event.preventDefault();
    const new_types = [...new Set(boxes.map(([name]) => name))].filter((name) => !known.has(name));
    const request = {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({boxes, new_types})};
    let problem = "The hub does not answer: the boxes are not saved. Save them again.";
    try {
      const answer = await fetch(`/api/v1/frames/${editor.dataset.sha256}/boxes`, request);
      if (answer.ok) { location.href = editor.dataset.next || location.href; return; }
      problem = (await answer.json()).text;
    } catch { /* no answer, or none of the hub: the message says so */ }
    const message = document.createElement("div");
    message.className = "message";
    message.textContent = `✕ ${problem}`;
    document.getElementById("message").replaceChildren(message);
  });

  new ResizeObserver(() => draw()).observe(frame);
  document.getElementById("model").setAttribute("pointer-events", "none");
  draw();
}
