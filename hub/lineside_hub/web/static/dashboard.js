// What htmx does not do by attributes. Pages work in one request each; nothing here keeps state.
"use strict";

// A refresh says so, because it is no use of the session; a hidden page, or a part that is being filled in, waits.
document.addEventListener("htmx:configRequest", (event) => {
  if (!event.detail.elt.hasAttribute("data-refresh")) return;
  const field = document.activeElement?.closest("input, select, textarea");
  if (document.hidden || event.detail.elt.contains(field ?? null)) event.preventDefault();
  event.detail.headers["X-Refresh"] = "1";
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
