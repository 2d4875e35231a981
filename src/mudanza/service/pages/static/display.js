"use strict";
// The page of a guest's display.

const MOST_PASTED = 4096;

// Milliseconds before each new try, once it was open: a guest that moves is found at its new host in a moment.
const AGAIN = [500, 1500, 3000, 5000];

function watch(canvas) {
  const state = document.getElementById("console-state");
  const waiting = state.textContent;
  let viewer = null, socket = null, again = [], entered = false;

  const connect = () => {
    let failed = "";
    const mine = socket = new WebSocket(new URL(canvas.dataset.stream, location.href.replace(/^http/, "ws")));
    mine.binaryType = "arraybuffer";
    viewer = new Viewer(canvas, (message) => { if (mine.readyState === WebSocket.OPEN) mine.send(message); });
    const seen = viewer;
    const drawn = () => { canvas.dataset.drawn = Number(canvas.dataset.drawn || 0) + 1; };
    const begun = (name) => {
      const note = document.getElementById("display-note"), why = /^pictures: (.*)/s.exec(name);
      note.hidden = !why;
      if (why) note.replaceChildren(note.firstChild, why[1]);
    };
    let open = false;
    mine.addEventListener("message", ({ data }) => {
      if (typeof data === "string") { failed = data; return; }
      seen.inflow.add(new Uint8Array(data));
      if (open) return;
      open = true;
      again = [...AGAIN];
      state.textContent = state.dataset.open;
      state.classList.remove("over");
      if (!entered) canvas.focus();
      entered = true;
      seen.run(drawn, begun).catch((error) => { failed = error.message; again = []; mine.close(); });
    });
    mine.addEventListener("close", (event) => {
      const next = again.shift();
      if (next) { state.textContent = waiting; setTimeout(connect, next); return; }
      state.textContent = failed || event.reason || state.dataset.over;
      state.classList.add("over");
    });
  };
  connect();
  window.addEventListener("pagehide", () => { again = []; socket.close(); });

  // Keys: what was pressed is let go when the page is left.
  const held = new Map();
  const press = (event) => {
    const symbol = symbolOf(event.key), lies = PLACES[event.code] || 0;
    if (!symbol && !lies) return;
    held.set(event.code || event.key, [symbol, lies]);
    viewer.key(symbol, lies, true);
    event.preventDefault();
  };
  const release = (event) => {
    const key = event.code || event.key;
    if (!held.has(key)) return;
    viewer.key(...held.get(key), false);
    held.delete(key);
    event.preventDefault();
  };
  const releaseAll = () => { for (const each of held.values()) viewer.key(...each, false); held.clear(); };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey && event.key === "]") { releaseAll(); document.getElementById("leave").focus(); event.preventDefault(); return; }
    if (event.ctrlKey && event.shiftKey && event.code === "KeyV") return; // what is pasted comes by itself
    if (!event.isComposing) press(event);
  });
  canvas.addEventListener("keyup", release);
  canvas.addEventListener("blur", releaseAll);
  const type = (text) => {
    for (const each of [...text.replace(/\r?\n/g, "\r")].slice(0, MOST_PASTED)) {
      const symbol = each === "\r" ? SYMBOLS.Enter : each === "\t" ? SYMBOLS.Tab : symbolOf(each);
      if (symbol) { viewer.key(symbol, 0, true); viewer.key(symbol, 0, false); }
    }
  };
  document.addEventListener("paste", (event) => {
    if (document.activeElement === canvas) { releaseAll(); type(event.clipboardData.getData("text")); event.preventDefault(); }
  });
  document.getElementById("ctrl-alt-del").addEventListener("click", () => {
    const keys = [["Control", "ControlLeft"], ["Alt", "AltLeft"], ["Delete", "Delete"]].map(([name, place]) => [SYMBOLS[name], PLACES[place]]);
    for (const each of keys) viewer.key(...each, true);
    for (const each of keys.reverse()) viewer.key(...each, false);
    canvas.focus();
  });

  // The pointer, as often as something is drawn.
  let buttons = 0, at = null;
  const say = () => { if (at) viewer.point(...at, buttons); at = null; };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [Math.round((event.clientX - box.left) * canvas.width / box.width), Math.round((event.clientY - box.top) * canvas.height / box.height)];
  };
  const pointed = (event) => {
    const now = (event.buttons & 1) | (event.buttons & 4 ? 2 : 0) | (event.buttons & 2 ? 4 : 0);
    if (at === null) requestAnimationFrame(say);
    at = place(event);
    if (now !== buttons) { buttons = now; say(); }
  };
  for (const name of ["pointermove", "pointerdown", "pointerup"]) canvas.addEventListener(name, pointed);
  canvas.addEventListener("pointerdown", (event) => { canvas.focus(); canvas.setPointerCapture(event.pointerId); event.preventDefault(); });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    const turned = event.deltaY < 0 ? 8 : 16;
    viewer.point(...place(event), buttons | turned);
    viewer.point(...place(event), buttons);
    event.preventDefault();
  }, { passive: false });
}

watch(document.getElementById("display"));
