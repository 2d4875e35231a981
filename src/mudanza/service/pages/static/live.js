"use strict";
// Draws parts of a page anew when the server sends them. Pages work without this; they are then as old as their loading.

function keepFocus(place, change) {
  const had = place.contains(document.activeElement) ? document.activeElement : null;
  const mark = had && (had.id ? `#${CSS.escape(had.id)}` : had.getAttribute("href") && `a[href="${CSS.escape(had.getAttribute("href"))}"]`);
  const open = [...place.querySelectorAll("details[open][id]")].map((each) => each.id);
  const left = [...place.querySelectorAll(".wide")].map((each) => each.scrollLeft);
  change();
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  place.querySelectorAll(".wide").forEach((each, n) => { each.scrollLeft = left[n] || 0; });
  if (mark) place.querySelector(mark)?.focus({ preventScroll: true });
}

function follow(place) {
  const stale = document.querySelector("[data-stale]");
  const source = new EventSource(place.dataset.live);
  source.addEventListener("open", () => { stale.hidden = true; });
  source.addEventListener("error", () => { stale.textContent = stale.dataset.stale; stale.hidden = false; });
  source.addEventListener("drawn", (event) => keepFocus(place, () => { place.innerHTML = event.data; }));
  source.addEventListener("anew", () => { source.close(); location.reload(); });
  window.addEventListener("pagehide", () => source.close());
}

document.querySelectorAll("[data-live]").forEach(follow);
// Nothing is sent twice by a second press.
document.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (button && event.target.method === "post") setTimeout(() => { button.disabled = true; }, 0);
});
window.addEventListener("pageshow", () => document.querySelectorAll("button:disabled").forEach((each) => { each.disabled = false; }));
