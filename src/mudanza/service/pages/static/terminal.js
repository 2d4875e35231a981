"use strict";
// What a guest writes to its serial line, as text: enough of a VT100 for boot messages, shells and log-ins. Colours are left out.

class Terminal {
  constructor(columns = 80, most = 2000) {
    this.columns = columns;
    this.most = most;
    this.answer = "";
    this.lines = [[]];
    this.row = this.column = 0;
    this.rest = "";
  }

  // Take what was written; `answer` is what the guest asks for thereby.
  write(text) {
    this.answer = "";
    let left = this.rest + text;
    this.rest = "";
    while (left) {
      const plain = left.search(/[\x00-\x1f\x7f]/);
      if (plain !== 0) {
        const end = plain < 0 ? left.length : plain;
        for (const each of left.slice(0, end)) this.put(each);
        left = left.slice(end);
      } else if (left[0] === "\x1b") {
        const found = /^\x1b(?:\[([0-9;?]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|[^[\]()])/.exec(left);
        if (!found) {
          this.rest = left.length < 256 ? left : "";
          return this.answer;
        }
        if (found[2]) this.order(found[2], found[1].replace("?", "").split(";").map(Number));
        left = left.slice(found[0].length);
      } else {
        this.control(left[0]);
        left = left.slice(1);
      }
    }
    return this.answer;
  }

  put(each) {
    if (this.column >= this.columns) { this.feed(); this.column = 0; }
    const line = this.lines[this.row];
    while (line.length < this.column) line.push(" ");
    line[this.column++] = each;
  }

  control(each) {
    if (each === "\n") this.feed();
    else if (each === "\r") this.column = 0;
    else if (each === "\b") this.column = Math.max(this.column - 1, 0);
    else if (each === "\t") this.column = Math.min((this.column | 7) + 1, this.columns - 1);
  }

  feed() {
    this.row++;
    while (this.lines.length <= this.row) this.lines.push([]);
    const over = this.lines.length - this.most;
    if (over > 0) { this.lines.splice(0, over); this.row -= over; }
  }

  top() { return Math.max(this.lines.length - 24, 0); }

  order(what, numbers) {
    const n = numbers[0] || 1;
    const line = this.lines[this.row];
    if (what === "A") this.row = Math.max(this.row - n, this.top());
    else if (what === "B") { this.row = Math.min(this.row + n, this.top() + 23); this.fill(); }
    else if (what === "C") this.column = Math.min(this.column + n, this.columns - 1);
    else if (what === "D") this.column = Math.max(this.column - n, 0);
    else if (what === "G") this.column = Math.min(n, this.columns) - 1;
    else if (what === "H" || what === "f") {
      this.row = this.top() + Math.min(n, 24) - 1;
      this.column = Math.min(numbers[1] || 1, this.columns) - 1;
      this.fill();
    } else if (what === "J") this.wipe(numbers[0] || 0);
    else if (what === "K") {
      if ((numbers[0] || 0) === 0) line.length = Math.min(line.length, this.column);
      else line.fill(" ", 0, numbers[0] === 1 ? this.column + 1 : line.length);
    } else if (what === "P") line.splice(this.column, n);
    else if (what === "@") line.splice(this.column, 0, ...Array(Math.min(n, this.columns)).fill(" "));
    else if (what === "n" && numbers[0] === 6) this.answer += `\x1b[${this.row - this.top() + 1};${this.column + 1}R`;
  }

  wipe(how) {
    const top = this.top();
    if (how === 0) {
      this.lines[this.row].length = Math.min(this.lines[this.row].length, this.column);
      this.lines.length = this.row + 1;
    } else if (how >= 2) {
      this.lines.length = top;
      this.row = top;
      this.column = 0;
      this.fill();
    }
  }

  fill() { while (this.lines.length <= this.row) this.lines.push([]); }

  // The text, and where in it the cursor stands.
  text() {
    const lines = this.lines.map((line) => Array.from(line, (each) => each || " ").join(""));
    lines[this.row] = lines[this.row].padEnd(this.column);
    const before = lines.slice(0, this.row).reduce((sum, line) => sum + line.length + 1, 0);
    return [lines.join("\n"), before + this.column];
  }
}

const KEYS = {
  Enter: "\r", Backspace: "\x7f", Tab: "\t", Escape: "\x1b", ArrowUp: "\x1b[A", ArrowDown: "\x1b[B", ArrowRight: "\x1b[C",
  ArrowLeft: "\x1b[D", Home: "\x1b[H", End: "\x1b[F", Delete: "\x1b[3~", PageUp: "\x1b[5~", PageDown: "\x1b[6~",
};

// What a key sends; null: it is none of the guest's.
function typed(event) {
  if (event.isComposing || event.metaKey) return null;
  if (event.ctrlKey && !event.altKey && event.key.length === 1) {
    const code = event.key.toUpperCase().charCodeAt(0);
    return code >= 64 && code < 96 ? String.fromCharCode(code - 64) : null;
  }
  if (event.key in KEYS) return event.shiftKey && event.key === "Tab" ? null : KEYS[event.key];
  if (event.key.length === 1 || [...event.key].length === 1) return event.altKey && !event.ctrlKey ? `\x1b${event.key}` : event.key;
  return null;
}
