"use strict";
// Keys for RFB: what they mean (X11's keysyms), and where they lie on a PC's keyboard (its first set of scan codes; those
// that it prefixes with E0 have their highest bit set).

const SYMBOLS = {
  Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Pause: 0xff13, ScrollLock: 0xff14, Escape: 0xff1b, Home: 0xff50, ArrowLeft: 0xff51,
  ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54, PageUp: 0xff55, PageDown: 0xff56, End: 0xff57, PrintScreen: 0xff61,
  Insert: 0xff63, ContextMenu: 0xff67, NumLock: 0xff7f, Shift: 0xffe1, Control: 0xffe3, CapsLock: 0xffe5, Alt: 0xffe9,
  Meta: 0xffeb, AltGraph: 0xfe03, Delete: 0xffff,
};
const PLACES = {};
const lie = (from, names) => names.split(" ").forEach((name, n) => { PLACES[name] = from + n; });
lie(0x01, "Escape Digit1 Digit2 Digit3 Digit4 Digit5 Digit6 Digit7 Digit8 Digit9 Digit0 Minus Equal Backspace Tab");
lie(0x10, "KeyQ KeyW KeyE KeyR KeyT KeyY KeyU KeyI KeyO KeyP BracketLeft BracketRight Enter ControlLeft");
lie(0x1e, "KeyA KeyS KeyD KeyF KeyG KeyH KeyJ KeyK KeyL Semicolon Quote Backquote ShiftLeft Backslash");
lie(0x2c, "KeyZ KeyX KeyC KeyV KeyB KeyN KeyM Comma Period Slash ShiftRight NumpadMultiply AltLeft Space CapsLock");
lie(0x3b, "F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 NumLock ScrollLock Numpad7 Numpad8 Numpad9 NumpadSubtract Numpad4 Numpad5");
lie(0x4d, "Numpad6 NumpadAdd Numpad1 Numpad2 Numpad3 Numpad0 NumpadDecimal");
lie(0x56, "IntlBackslash F11 F12");
lie(0x9c, "NumpadEnter ControlRight");
lie(0xb5, "NumpadDivide");
lie(0xb7, "PrintScreen AltRight");
lie(0xc7, "Home ArrowUp PageUp");
lie(0xcb, "ArrowLeft");
lie(0xcd, "ArrowRight");
lie(0xcf, "End ArrowDown PageDown Insert Delete");
lie(0xdb, "MetaLeft MetaRight ContextMenu");

// What a character means; a function key; 0: nothing that a guest could be told.
function symbolOf(key) {
  if (key in SYMBOLS) return SYMBOLS[key];
  const f = /^F(\d{1,2})$/.exec(key);
  if (f) return 0xffbd + Number(f[1]);
  const letters = [...key];
  if (letters.length !== 1) return 0;
  const code = letters[0].codePointAt(0);
  return code < 0x100 ? code : 0x1000000 + code;
}
