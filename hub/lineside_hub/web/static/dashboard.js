// What htmx does not do by attributes. Pages work in one request each; nothing here keeps state.

import { isPressed, watchPresses } from "./pressed.js";

watchPresses();

// A refresh says so, because it is no use of the session; a hidden page, or a part that is being filled in, waits.
document.addEventListener("htmx:configRequest", (event) => {
  if (!event.detail.elt.hasAttribute("data-refresh")) return;
  const field = document.activeElement?.closest("input, select, textarea");
  if (document.hidden || event.detail.elt.contains(field ?? null)) event.preventDefault();
  event.detail.headers["X-Refresh"] = "1";
});

// What a refresh replaces has the focus again afterwards; a key that is being pressed is not replaced.
let focused = null;
const sameAs = (one) => JSON.stringify([one.tagName, one.getAttribute("href"), one.getAttribute("aria-label") ?? one.textContent]);
const inside = (part, name) => [...part.querySelectorAll("a, button, summary, [tabindex]")].filter((one) => sameAs(one) === name);

document.addEventListener("htmx:beforeSwap", (event) => {
  focused = null;
  if (!event.detail.elt.hasAttribute("data-refresh")) return;
  if (isPressed()) { event.detail.shouldSwap = false; return; }
  const { target } = event.detail, active = document.activeElement;
  if (!target.contains(active)) return;
  const name = sameAs(active);
  focused = { part: target.id, name, place: inside(target, name).indexOf(active) };
});

document.addEventListener("htmx:afterSwap", () => {
  if (!focused) return;
  const same = inside(document.getElementById(focused.part), focused.name);
  (same[focused.place] ?? same[0])?.focus({ preventScroll: true });
  focused = null;
});

// A message of the last request goes with the next one.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (!event.detail.elt.hasAttribute("data-refresh")) document.getElementById("message").replaceChildren();
});

document.addEventListener("htmx:sendError", () => {
  const message = document.createElement("div");
  message.className = "message";
  message.textContent = "✕ The hub does not answer. The page shows what it last knew.";
  document.getElementById("message").replaceChildren(message);
});
