"use strict";
// A viewer of RFB (RFC 6143), as QEMU speaks it: raw, hextile and copied rectangles, changes of size, keys as they lie on
// the keyboard. It begins with ClientInit: the daemon has logged in.

const RAW = 0, COPY = 1, HEXTILE = 5, SIZE = -223, KEYS_AS_THEY_LIE = -258;
const PICTURE = 0x6d756470; // the daemon's own, where it has but pictures: a PNG, and how long it is before it
const MOST_SIDE = 8192;
const MOST_PICTURE = 1 << 26;
const MOST_TEXT = 1 << 20;

// Bytes that have come, taken in the pieces that one asks for.
class Inflow {
  constructor() { this.pieces = []; this.count = 0; this.wanted = 0; this.wake = null; }

  add(piece) {
    if (!piece.length) return;
    this.pieces.push(piece);
    this.count += piece.length;
    if (this.wake && this.count >= this.wanted) { const wake = this.wake; this.wake = null; wake(); }
  }

  async take(count) {
    if (this.count < count) { this.wanted = count; await new Promise((wake) => { this.wake = wake; }); }
    this.count -= count;
    const first = this.pieces[0];
    if (first && first.length > count) { this.pieces[0] = first.subarray(count); return first.subarray(0, count); }
    if (first && first.length === count) return this.pieces.shift();
    const whole = new Uint8Array(count);
    for (let at = 0; at < count;) {
      const piece = this.pieces.shift(), part = piece.subarray(0, count - at);
      whole.set(part, at);
      at += part.length;
      if (part.length < piece.length) this.pieces.unshift(piece.subarray(part.length));
    }
    return whole;
  }

  async view(count) { const taken = await this.take(count); return new DataView(taken.buffer, taken.byteOffset, count); }
}

class Viewer {
  constructor(canvas, send) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { alpha: false });
    this.send = send;
    this.inflow = new Inflow();
    this.asTheyLie = false;
  }

  // Talk until something comes that nobody asked for.
  async run(changed, begun) {
    this.send(Uint8Array.of(1)); // others may look, too
    const begin = await this.inflow.view(24);
    this.resize(begin.getUint16(0), begin.getUint16(2));
    begun(new TextDecoder().decode(await this.inflow.take(this.bounded(begin.getUint32(20)))));
    this.send(Uint8Array.of(0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0)); // RGB, as a canvas has it
    this.sendEncodings([COPY, HEXTILE, RAW, SIZE, KEYS_AS_THEY_LIE]);
    this.ask(false);
    for (;;) {
      const kind = (await this.inflow.take(1))[0];
      if (kind === 0) {
        await this.update();
        changed();
        await new Promise(requestAnimationFrame); // nothing is asked for that nobody looks at
        this.ask(true);
      } else if (kind === 3) {
        await this.inflow.take(3);
        await this.inflow.take(this.bounded((await this.inflow.view(4)).getUint32(0)));
      } else if (kind !== 2) throw new Error(`the display has sent what is not known here: ${kind}`);
    }
  }

  bounded(count, most = MOST_TEXT) { if (count > most) throw new Error("the display sends too much"); return count; }

  resize(width, height) {
    if (!width || !height || width > MOST_SIDE || height > MOST_SIDE) throw new Error(`a display of ${width} × ${height}`);
    this.canvas.width = width;
    this.canvas.height = height;
  }

  sendEncodings(kinds) {
    const message = new DataView(new ArrayBuffer(4 + 4 * kinds.length));
    message.setUint8(0, 2);
    message.setUint16(2, kinds.length);
    kinds.forEach((kind, n) => message.setInt32(4 + 4 * n, kind));
    this.send(message.buffer);
  }

  ask(changes) {
    const message = new DataView(new ArrayBuffer(10));
    message.setUint8(0, 3);
    message.setUint8(1, changes ? 1 : 0);
    message.setUint16(6, this.canvas.width);
    message.setUint16(8, this.canvas.height);
    this.send(message.buffer);
  }

  async update() {
    const count = (await this.inflow.view(3)).getUint16(1);
    for (let n = 0; n < count; n++) {
      const about = await this.inflow.view(12);
      const [x, y, width, height] = [0, 2, 4, 6].map((at) => about.getUint16(at));
      const kind = about.getInt32(8);
      if (kind === SIZE) { this.resize(width, height); this.ask(false); continue; }
      if (kind === KEYS_AS_THEY_LIE) { this.asTheyLie = true; continue; }
      if (x + width > this.canvas.width || y + height > this.canvas.height) throw new Error("the display draws beyond itself");
      if (kind === RAW) await this.raw(x, y, width, height);
      else if (kind === COPY) {
        const from = await this.inflow.view(4);
        this.pen.drawImage(this.canvas, from.getUint16(0), from.getUint16(2), width, height, x, y, width, height);
      } else if (kind === PICTURE) {
        const length = this.bounded((await this.inflow.view(4)).getUint32(0), MOST_PICTURE);
        this.pen.drawImage(await createImageBitmap(new Blob([await this.inflow.take(length)], { type: "image/png" })), x, y);
      } else if (kind === HEXTILE) await this.hextile(x, y, width, height);
      else throw new Error(`the display draws in a way that is not known here: ${kind}`);
    }
  }

  async raw(x, y, width, height) {
    if (!width || !height) return;
    const pixels = new Uint8ClampedArray(await this.inflow.take(width * height * 4));
    for (let at = 3; at < pixels.length; at += 4) pixels[at] = 255;
    this.pen.putImageData(new ImageData(pixels, width, height), x, y);
  }

  async hextile(left, top, width, height) {
    let ground = "#000", ink = "#000";
    const colour = async () => { const [r, g, b] = await this.inflow.take(4); return `rgb(${r},${g},${b})`; };
    for (let y = top; y < top + height; y += 16) for (let x = left; x < left + width; x += 16) {
      const w = Math.min(16, left + width - x), h = Math.min(16, top + height - y);
      const how = (await this.inflow.take(1))[0];
      if (how & 1) { await this.raw(x, y, w, h); continue; }
      if (how & 2) ground = await colour();
      if (how & 4) ink = await colour();
      this.pen.fillStyle = ground;
      this.pen.fillRect(x, y, w, h);
      const parts = how & 8 ? (await this.inflow.take(1))[0] : 0;
      for (let n = 0; n < parts; n++) {
        this.pen.fillStyle = how & 16 ? await colour() : ink;
        const [at, size] = await this.inflow.take(2);
        this.pen.fillRect(x + (at >> 4), y + (at & 15), (size >> 4) + 1, (size & 15) + 1);
      }
    }
  }

  // `lies`: where the key is on the keyboard, so that the guest's own layout counts; 0: it is not known.
  key(symbol, lies, down) {
    const extended = this.asTheyLie && lies;
    const message = new DataView(new ArrayBuffer(extended ? 12 : 8));
    if (extended) {
      message.setUint8(0, 255);
      message.setUint16(2, down ? 1 : 0);
      message.setUint32(4, symbol);
      message.setUint32(8, lies);
    } else {
      message.setUint8(0, 4);
      message.setUint8(1, down ? 1 : 0);
      message.setUint32(4, symbol);
    }
    this.send(message.buffer);
  }

  point(x, y, buttons) {
    const message = new DataView(new ArrayBuffer(6));
    message.setUint8(0, 5);
    message.setUint8(1, buttons);
    message.setUint16(2, Math.max(0, Math.min(x, this.canvas.width - 1)));
    message.setUint16(4, Math.max(0, Math.min(y, this.canvas.height - 1)));
    this.send(message.buffer);
  }
}
