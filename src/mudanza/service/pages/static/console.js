"use strict";
// The page of a guest's console.

function talk(screen) {
  const state = document.getElementById("console-state");
  const terminal = new Terminal();
  const decoder = new TextDecoder();
  const socket = new WebSocket(new URL(screen.dataset.stream, location.href.replace(/^http/, "ws")));
  socket.binaryType = "arraybuffer";
  let waits = false, failed = "";

  const draw = () => {
    waits = false;
    const [text, at] = terminal.text();
    const cursor = document.createElement("span");
    cursor.className = "cursor";
    cursor.textContent = text[at] && text[at] !== "\n" ? text[at] : " ";
    screen.replaceChildren(text.slice(0, at), cursor, text.slice(text[at] && text[at] !== "\n" ? at + 1 : at));
    screen.scrollTop = screen.scrollHeight;
  };
  const send = (text) => { if (text && socket.readyState === WebSocket.OPEN) socket.send(text); };

  socket.addEventListener("open", () => screen.focus());
  socket.addEventListener("message", (event) => {
    if (typeof event.data === "string") { failed = event.data; return; }
    state.textContent = state.dataset.open;
    send(terminal.write(decoder.decode(event.data, { stream: true })));
    if (!waits) { waits = true; requestAnimationFrame(draw); }
  });
  socket.addEventListener("close", (event) => { state.textContent = failed || event.reason || state.dataset.over; state.classList.add("over"); });
  screen.addEventListener("keydown", (event) => {
    if (event.ctrlKey && event.key === "]") { document.getElementById("leave").focus(); event.preventDefault(); return; }
    if (event.ctrlKey && event.key.toLowerCase() === "v") return; // what is pasted comes by itself
    const text = typed(event);
    if (text !== null) { send(text); event.preventDefault(); }
  });
  screen.addEventListener("paste", (event) => { send(event.clipboardData.getData("text").replace(/\r?\n/g, "\r")); event.preventDefault(); });
  window.addEventListener("pagehide", () => socket.close());
}

talk(document.getElementById("screen"));
